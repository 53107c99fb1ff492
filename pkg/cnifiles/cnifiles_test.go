package cnifiles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	ours    = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"weft"},{"type":"portmap"}]}`
	flannel = `{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel","delegate":{}}]}`
	calico  = `{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[{"type":"calico"}]}`
	program = "the plugin"
)

// node is the directories of one, with an Installer for them.
type node struct {
	*Installer
	t   *testing.T
	dir string
}

func newNode(t *testing.T, files map[string]string) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	n.Installer = New(Options{
		BinDir: n.path("bin"), Plugin: n.path("image/weft"), Source: n.path("config/cni-conf.json"),
		Target: n.path("net.d/10-weft.conflist"),
	})
	n.put("image/weft", program)
	n.put("config/cni-conf.json", ours)
	for name, content := range files {
		n.put(name, content)
	}
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// put replaces a file in one step, as all but editors do.
func (n *node) put(name, content string) {
	n.t.Helper()
	path := n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path+".next", []byte(content), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) remove(name string) {
	n.t.Helper()
	if err := os.RemoveAll(n.path(name)); err != nil {
		n.t.Fatal(err)
	}
}

// files are those in the two directories, by name, with mode and content.
func (n *node) files() map[string]string {
	n.t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"bin", "net.d"} {
		entries, err := os.ReadDir(n.path(dir))
		if err != nil && !os.IsNotExist(err) {
			n.t.Fatal(err)
		}
		for _, e := range entries {
			raw, err := os.ReadFile(n.path(dir + "/" + e.Name()))
			if err != nil {
				n.t.Fatal(err)
			}
			info, err := e.Info()
			if err != nil {
				n.t.Fatal(err)
			}
			out[dir+"/"+e.Name()] = fmt.Sprintf("%o %s", info.Mode().Perm(), raw)
		}
	}
	return out
}

// texts are a report, without the test's directory in it.
func (n *node) texts(r Report) (out []string) {
	for _, w := range r.Wrote {
		out = append(out, "wrote "+w)
	}
	if r.Err != nil {
		for line := range strings.Lines(r.Err.Error()) {
			out = append(out, "error "+strings.TrimSpace(line))
		}
	}
	for _, note := range r.Notes {
		out = append(out, "note "+note)
	}
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], n.dir, "")
	}
	return out
}

const (
	wroteBin  = "wrote /bin/weft"
	wroteList = "wrote /net.d/10-weft.conflist"
)

func TestInstall(t *testing.T) {
	standing := map[string]string{"bin/weft": "755 " + program, "net.d/10-weft.conflist": "644 " + ours}
	with := func(more ...string) map[string]string {
		out := map[string]string{}
		for name, content := range standing {
			out[name] = content
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	for name, c := range map[string]struct {
		files map[string]string
		said  []string
		want  map[string]string
	}{
		"an empty node": {nil, []string{wroteBin, wroteList}, standing},
		"an old version of both": {
			map[string]string{"bin/weft": "old", "net.d/10-weft.conflist": flannel}, []string{wroteBin, wroteList}, standing,
		},
		"a damaged list under our name": {
			map[string]string{"net.d/10-weft.conflist": `{"name":"cb`}, []string{wroteBin, wroteList}, standing,
		},
		"an empty list under our name": {
			map[string]string{"net.d/10-weft.conflist": ""}, []string{wroteBin, wroteList}, standing,
		},
		"another's files beside ours": {
			map[string]string{"bin/bridge": "b", "net.d/20-other.conflist": calico, "net.d/05-readme.txt": "x"},
			[]string{wroteBin, wroteList},
			with("bin/bridge", "755 b", "net.d/20-other.conflist", "755 "+calico, "net.d/05-readme.txt", "755 x"),
		},
		"another network goes before": {
			map[string]string{"net.d/05-other.conf": calico, "net.d/00-x.json": calico},
			[]string{
				wroteBin, wroteList,
				"note the CNI configuration /net.d/00-x.json goes before 10-weft.conflist: container runtimes use it, and not ours; " +
					"remove it unless you want that",
				"note the CNI configuration /net.d/05-other.conf goes before 10-weft.conflist: container runtimes use it, and not ours; " +
					"remove it unless you want that",
			},
			with("net.d/05-other.conf", "755 "+calico, "net.d/00-x.json", "755 "+calico),
		},
		"another network under our name": {
			map[string]string{"net.d/10-weft.conflist": calico},
			[]string{wroteBin, "error /net.d/10-weft.conflist is another network's CNI configuration and is left alone; " +
				"remove it, or choose another name for ours"},
			with("net.d/10-weft.conflist", "755 "+calico),
		},
		"one other plugin under our name": {
			map[string]string{"net.d/10-weft.conflist": `{"type":"calico"}`},
			[]string{wroteBin, "error /net.d/10-weft.conflist is another network's CNI configuration and is left alone; " +
				"remove it, or choose another name for ours"},
			with("net.d/10-weft.conflist", `755 {"type":"calico"}`),
		},
		"under flannel's name, where nothing is": {
			map[string]string{"config/cni-conf.json": flannel}, []string{"wrote /bin/flannel", wroteList},
			map[string]string{"bin/flannel": "755 " + program, "net.d/10-weft.conflist": "644 " + flannel},
		},
		"under flannel's name, where flannel's is": {
			map[string]string{"config/cni-conf.json": flannel, "bin/flannel": "flannel's"},
			[]string{wroteList, "note /bin/flannel is another's program: it is left as it is, and attaches the pods"},
			map[string]string{"bin/flannel": "755 flannel's", "net.d/10-weft.conflist": "644 " + flannel},
		},
		"a list of others": {
			map[string]string{"config/cni-conf.json": calico},
			[]string{"error the CNI configuration /config/cni-conf.json: has no plugin of type weft or flannel"},
			map[string]string{},
		},
		"a list that is none": {
			map[string]string{"config/cni-conf.json": "{}"},
			[]string{"error the CNI configuration /config/cni-conf.json: has no name, or no plugins; " +
				"it is a list, as in dist/cni/10-weft.conflist"},
			map[string]string{},
		},
		"a bad list over a good one": {
			map[string]string{"config/cni-conf.json": "{}", "net.d/10-weft.conflist": ours},
			[]string{"note the CNI configuration /config/cni-conf.json: has no name, or no plugins; " +
				"it is a list, as in dist/cni/10-weft.conflist; what is installed stays"},
			map[string]string{"net.d/10-weft.conflist": "755 " + ours},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, c.files)
			if d := cmp.Diff(c.said, n.texts(n.Install())); d != "" {
				t.Errorf("report (-want +have):\n%s", d)
			}
			if d := cmp.Diff(c.want, n.files()); d != "" {
				t.Errorf("files (-want +have):\n%s", d)
			}
			if again := n.Install(); len(again.Wrote) > 0 {
				t.Errorf("a second time it wrote %v", again.Wrote)
			}
		})
	}
}

// What of ours somebody changes or removes is put back, also under flannel's
// name, and in whatever way it was changed.
func TestInstallAgain(t *testing.T) {
	for name, harm := range map[string]func(n *node) error{
		"list gone":         func(n *node) error { return os.Remove(n.path("net.d/10-weft.conflist")) },
		"list truncated":    func(n *node) error { return os.Truncate(n.path("net.d/10-weft.conflist"), 3) },
		"directory gone":    func(n *node) error { return os.RemoveAll(n.path("net.d")) },
		"program gone":      func(n *node) error { return os.Remove(n.path("bin/flannel")) },
		"program truncated": func(n *node) error { return os.Truncate(n.path("bin/flannel"), 0) },
		"program may not be run": func(n *node) error {
			return os.Chmod(n.path("bin/flannel"), 0o600)
		},
		"program with the same size and time": func(n *node) error {
			info, err := os.Stat(n.path("bin/flannel"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(n.path("bin/flannel"), []byte(strings.ToUpper(program)), 0o755); err != nil {
				return err
			}
			return os.Chtimes(n.path("bin/flannel"), info.ModTime(), info.ModTime())
		},
		"a link in its place": func(n *node) error {
			n.remove("bin/flannel")
			return os.Symlink(n.path("image/weft"), n.path("bin/flannel.link"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, map[string]string{"config/cni-conf.json": flannel})
			n.Install()
			if err := harm(n); err != nil {
				t.Fatal(err)
			}
			if r := n.Install(); r.Err != nil || len(r.Wrote) != 1 {
				t.Errorf("have %v, %v", r.Wrote, r.Err)
			}
			have := n.files()
			want := map[string]string{"bin/flannel": "755 " + program, "net.d/10-weft.conflist": "644 " + flannel}
			delete(have, "bin/flannel.link")
			if d := cmp.Diff(want, have); d != "" {
				t.Errorf("files (-want +have):\n%s", d)
			}
		})
	}
}

// A program of ours under flannel's name is known by what the linker left in
// it, also by a process that didn't put it there.
func TestOurOwnProgramIsReplaced(t *testing.T) {
	n := newNode(t, map[string]string{"config/cni-conf.json": flannel})
	cmd := exec.Command("go", "build", "-o", n.path("bin/flannel"), "../../cmd/weft")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r := n.Install(); r.Err != nil || !slices.Contains(n.texts(r), "wrote /bin/flannel") {
		t.Errorf("have %q", n.texts(r))
	}
}

// A directory in the way, as one that can't be written, is an error, the same
// each time; nothing is left behind.
func TestRefusals(t *testing.T) {
	n := newNode(t, map[string]string{"bin": "a file"})
	first := n.Install()
	want := []string{"error install /bin/weft: not a directory"}
	if first.Err == nil || strings.Contains(first.Err.Error(), "read ") {
		want = []string{"error read /bin/weft: not a directory"}
	}
	if d := cmp.Diff(want, n.texts(first)); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	if d := cmp.Diff(want, n.texts(n.Install())); d != "" {
		t.Errorf("a second time (-want +have):\n%s", d)
	}
	if _, err := os.Stat(n.path("net.d")); err == nil {
		t.Error("the list was installed without the program")
	}
	n.remove("bin")
	if r := n.Install(); r.Err != nil {
		t.Error(r.Err)
	}
	n.remove("image/weft")
	n.remove("bin/weft")
	if r := n.Install(); r.Err == nil || !strings.Contains(r.Err.Error(), "beside the program that installs it") {
		t.Errorf("without a plugin: %v", r.Err)
	}
}

// run runs the installer and gives its reports.
func (n *node) run() <-chan Report {
	reports := make(chan Report, 1000)
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, func(r Report) { reports <- r }) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			n.t.Errorf("Run ended by %v", err)
		}
	})
	return reports
}

// await waits for a report that is as wanted.
func (n *node) await(reports <-chan Report, what string, good func(Report) bool) {
	n.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case r := <-reports:
			if good(r) {
				return
			}
		case <-deadline:
			n.t.Fatalf("waited for %s; have %v", what, n.files())
		}
	}
}

func wrote(suffix string) func(Report) bool {
	return func(r Report) bool {
		return slices.ContainsFunc(r.Wrote, func(w string) bool { return strings.HasSuffix(w, suffix) })
	}
}

func TestRun(t *testing.T) {
	n := newNode(t, map[string]string{"bin/" + tempPrefix + "1": "of a crash", "net.d/" + tempPrefix + "2": "too"})
	reports := n.run()
	n.await(reports, "the first installation", wrote("10-weft.conflist"))
	want := map[string]string{"bin/weft": "755 " + program, "net.d/10-weft.conflist": "644 " + ours}
	if d := cmp.Diff(want, n.files()); d != "" {
		t.Errorf("files (-want +have):\n%s", d)
	}
	began := time.Now()
	n.remove("net.d/10-weft.conflist")
	n.await(reports, "the list, again", wrote("10-weft.conflist"))
	n.remove("bin/weft")
	n.await(reports, "the program, again", wrote("bin/weft"))
	t.Logf("a removed list and then a program were back after %s", time.Since(began).Round(time.Millisecond))
	next := strings.Replace(ours, "1.0.0", "0.4.0", 1)
	n.put("config/cni-conf.json", next)
	n.await(reports, "the new list", wrote("10-weft.conflist"))
	if have := n.files()["net.d/10-weft.conflist"]; have != "644 "+next {
		t.Errorf("have %s", have)
	}
	n.put("net.d/00-other.conf", calico)
	n.await(reports, "the other network to be seen", func(r Report) bool { return len(r.Notes) == 1 })
	n.remove("net.d/00-other.conf")
	n.await(reports, "it to be gone", func(r Report) bool { return len(r.Notes) == 0 })
}

// Who fights is answered ever slower, and whoever is back after a long time as
// at first.
func TestPace(t *testing.T) {
	p := pace{wait: settleTime}
	now := time.Unix(1_000_000, 0)
	write, nothing, failure := Report{Wrote: []string{"x"}}, Report{}, Report{Err: os.ErrInvalid}
	for range 20 {
		if next := p.next(write, now); next != slowTime {
			t.Fatalf("next look after %s", next)
		}
		p.next(nothing, now) // which our own write makes
		now = now.Add(time.Second)
	}
	if p.wait != longest {
		t.Errorf("in a fight it waits %s", p.wait)
	}
	if next := p.next(failure, now); next != retryTime {
		t.Errorf("after a failure the next look is after %s", next)
	}
	p.next(nothing, now.Add(fightTime))
	if p.wait != settleTime {
		t.Errorf("after a fight it waits %s", p.wait)
	}
}

func FuzzList(f *testing.F) {
	for _, seed := range []string{
		ours, flannel, calico, "", "{}", `{"type":"weft"}`, `{"name":"a","plugins":[{"type":1}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := parseList(raw); err == nil && foreign(raw) {
			t.Errorf("ours and another's: %q", raw)
		}
	})
}
