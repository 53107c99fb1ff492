package topology

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestPatternMatchesOwnNamesOnly(t *testing.T) {
	cases := map[string]bool{
		"weft-demo-1":         true,
		"weft-demo-12-a":      true,
		"weft-demo-1-web2":    true,
		"weft-demo-underlay":  true,
		"weft-demo-outside":   true,
		"weft-demo":           false,
		"weft-demo-":          false,
		"weft-demo-2x":        false,
		"weft-demo-1-1":       false,
		"weft-demo-big-1":     false,
		"weft-demo-1-a-b":     false,
		"my-weft-demo-1":      false,
		"weft.demo-1":         false,
		"weft-demo-1\nlinger": false,
	}
	ours := pattern("weft-demo")
	for name, want := range cases {
		if have := ours.MatchString(name); have != want {
			t.Errorf("%q: want %t, have %t", name, want, have)
		}
	}
}

func TestCleanAfterACrashLeavesNoTrace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "state")
	topo, err := New(Options{Name: uniqueName(), Dir: dir, Nodes: 2, Underlay: dualStack})
	if err != nil {
		t.Fatal(err)
	}
	parent := startShell(t, topo.Nodes[1], "sleep 1000 & echo ready; sleep 1000")
	if err := os.WriteFile(topo.Nodes[0].SubnetFile(), []byte("FLANNEL_MTU=1450\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	// All that is known after a crash are the two names.
	if err := Clean(topo.options.Name, dir); err != nil {
		t.Fatal(err)
	}

	wantNoNamespace(t, topo.options.Name)
	awaitDone(t, parent)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state directory: want it gone, have %v", err)
	}
	if err := Clean(topo.options.Name, dir); err != nil {
		t.Errorf("clean of what is clean: %v", err)
	}
}

func TestCleanKillsWhoDoesNotListen(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	deaf := startShell(t, topo.Nodes[0], `trap "" TERM; echo ready; exec sleep 1000`)
	if err := topo.Down(); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, deaf)
	var status *exec.ExitError
	if !errors.As(deaf.Err(), &status) || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("want an end by SIGKILL, have %v", deaf.Err())
	}
}

func TestCleanSparesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	other := newTopology(t, 1, dualStack...)
	neighbour := startShell(t, other.Nodes[0], "echo ready; sleep 1000")
	stranger := filepath.Join(topo.options.Dir, "notes.txt")
	if err := os.WriteFile(stranger, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := topo.Down(); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(stranger); err != nil || !bytes.Equal(have, []byte("mine")) {
		t.Errorf("a foreign file in the state directory: have %q, %v", have, err)
	}
	select {
	case <-neighbour.Done():
		t.Errorf("a process of another topology ended: %v", neighbour.Err())
	default:
	}
	if _, err := other.Nodes[0].Ping(within(t, 5*time.Second), Ping{To: other.Outside.Addrs[0]}); err != nil {
		t.Errorf("another topology was hurt: %v", err)
	}
}

func TestCleanTakesANameThatLostItsMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	name := uniqueName()
	if err := shareNamesDir(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(namesDir, name+"-1"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := Clean(name, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	wantNoNamespace(t, name)
}

// startShell starts a script in a node and waits until it says "ready".
func startShell(t *testing.T, n *Node, script string) *Process {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdout = in
	p, err := n.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "ready\n" {
		t.Fatalf("wait for the script: have %q, %v", said, err)
	}
	return p
}

func awaitDone(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-within(t, 10*time.Second).Done():
		t.Fatalf("process %d is still there", p.Pid())
	}
}
