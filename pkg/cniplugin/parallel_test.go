package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// exec runs the real binary in the host's namespace.
func (n *node) exec(command string, p pod) (out []byte, err error) {
	conf, err := json.Marshal(n.conf)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(binDir, "weft"))
	cmd.Env = append(os.Environ(),
		"CNI_COMMAND="+command, "CNI_CONTAINERID="+p.id, "CNI_IFNAME="+p.ifName, "CNI_NETNS="+p.netns)
	cmd.Stdin = bytes.NewReader(conf)
	n.host.Do(func() { out, err = cmd.Output() })
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", command, p.id, err, out)
	}
	return out, err
}

// lasting tells whether a test goes on after so many rounds: for
// WEFT_CNI_SECONDS, as `make soak` sets it, else it is short.
func lasting(t testing.TB, short int) func(done int) bool {
	t.Helper()
	text := os.Getenv("WEFT_CNI_SECONDS")
	if text == "" {
		return func(done int) bool { return done < short }
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Duration(n) * time.Second)
	return func(int) bool { return time.Now().Before(end) }
}

// Eight at once attach and detach, and some are killed: no address is lost or
// given twice, no link dangles.
func TestEightAtOnce(t *testing.T) {
	t.Parallel()
	const workers = 8
	n := newNode(t, ipv4, ipv6).with("mode", "ptp")
	built(t)
	var mu sync.Mutex
	holders := map[string]string{}
	attached, more := 0, lasting(t, 8)
	var wg sync.WaitGroup
	for w := range workers {
		p, _ := newPod(t, w)
		port := n.withPorts(mapping("tcp", 8000+w, 80, ""))
		wg.Go(func() {
			for i := 0; more(i); i++ {
				p := p
				p.id = fmt.Sprintf("pod-%d-%d", w, i)
				if err := port.cycle(p, &mu, holders); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				attached++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d attachments in all", attached)
	n.collect()
	n.empty()
	n.wantNoPorts("ptp")
}

// cycle is one attachment's life. Every fourth ADD is killed at some moment,
// as a runtime does that has lost patience.
func (n *node) cycle(p pod, mu *sync.Mutex, holders map[string]string) error {
	out, err := n.exec("ADD", p)
	if err != nil {
		return err
	}
	var r types100.Result
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	mu.Lock()
	for _, ip := range r.IPs {
		addr := ip.Address.IP.String()
		if h, taken := holders[addr]; taken {
			err = fmt.Errorf("%s was given to %s and %s", addr, h, p.id)
		}
		holders[addr] = p.id
	}
	mu.Unlock()
	if err != nil {
		return err
	}
	// Meanwhile the others may be given its addresses, if anybody is.
	if _, err := n.with("prevResult", json.RawMessage(out)).exec("CHECK", p); err != nil {
		return err
	}
	mu.Lock()
	for _, ip := range r.IPs {
		delete(holders, ip.Address.IP.String())
	}
	mu.Unlock()
	if _, err = n.exec("DEL", p); err != nil || rand.IntN(4) > 0 {
		return err
	}
	cmd := exec.Command(filepath.Join(binDir, "weft"))
	conf, err := json.Marshal(n.conf)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(),
		"CNI_COMMAND=ADD", "CNI_CONTAINERID="+p.id, "CNI_IFNAME="+p.ifName, "CNI_NETNS="+p.netns)
	cmd.Stdin = bytes.NewReader(conf)
	n.host.Do(func() { err = cmd.Start() })
	if err != nil {
		return err
	}
	for range rand.IntN(1 << 16) {
		_ = cmd.Process.Signal(syscall.Signal(0)) // some moment, by work and not by the clock
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_, err = n.exec("DEL", p)
	return err
}

// The file systems that the store may be on, at their worst.
func TestBadFileSystems(t *testing.T) {
	mount := func(t *testing.T, dir, options string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
			t.Skipf("mount a small file system: %v", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	for _, dir := range []string{"networks", "weft"} {
		t.Run(dir+" is full", func(t *testing.T) {
			n := newNode(t, ipv4)
			path := filepath.Join(n.dir, dir)
			mount(t, path, "size=64k")
			kept, _ := newPod(t, 1)
			n.add(kept)
			fill(t, filepath.Join(path, "filler"))
			p, _ := newPod(t, 2)
			n.refused("ADD", p, 101, "no space left on device", "full, read-only")
			n.wantAddresses("10.42.1.2")
			n.del(p)
			n.del(kept) // frees, though nothing can be written
			if err := os.Remove(filepath.Join(path, "filler")); err != nil {
				t.Fatal(err)
			}
			n.empty()
			n.add(p)
		})
		t.Run(dir+" is read-only", func(t *testing.T) {
			n := newNode(t, ipv4)
			path := filepath.Join(n.dir, dir)
			mount(t, path, "size=64k")
			kept, _ := newPod(t, 1)
			n.add(kept)
			remount := func(flags uintptr) {
				t.Helper()
				if err := syscall.Mount("", path, "", syscall.MS_REMOUNT|flags, ""); err != nil {
					t.Fatal(err)
				}
			}
			remount(syscall.MS_RDONLY)
			p, _ := newPod(t, 2)
			n.refused("ADD", p, 101, "read-only file system")
			n.wantAddresses("10.42.1.2")
			n.refused("DEL", kept, 101, "read-only file system")
			remount(0)
			n.del(kept)
			n.empty()
		})
	}
	for _, dir := range []string{"networks", "weft"} {
		t.Run(dir+" is another's", func(t *testing.T) { anothersDir(t, dir) })
	}
	t.Run("a file in the place of each directory", func(t *testing.T) {
		n := newNode(t, ipv4)
		p, _ := newPod(t, 1)
		for _, key := range []string{"stateDir", "ipam"} {
			file := n.subnetFile()
			other := n.with(key, file)
			if key == "ipam" {
				other = n.with(key, map[string]any{"dataDir": file})
			}
			other.refused("ADD", p, 101, "not a directory")
		}
		n.empty()
	})
}

// anothersDir has the plugin run as a user who may do everything but write where
// a file system says that he may not.
func anothersDir(t *testing.T, dir string) {
	built(t)
	if err := os.Chmod(binDir, 0o755); err != nil { //nolint:gosec // it runs our plugin
		t.Fatal(err)
	}
	n := newNode(t, ipv4)
	first, _ := newPod(t, 1)
	n.add(first)
	n.del(first)
	for _, name := range []string{"networks", "networks/cbr0", "networks/cbr0/lock", "weft"} {
		mode := os.FileMode(0o777)
		if strings.HasPrefix(name, dir) {
			mode = 0o700
		}
		if err := os.Chmod(filepath.Join(n.dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := newPod(t, 2)
	conf, err := json.Marshal(n.conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, "weft"))
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + p.id, "CNI_IFNAME=" + p.ifName, "CNI_NETNS=" + p.netns}
	cmd.Stdin = bytes.NewReader(conf)
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{
			unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH,
		},
	}
	var out []byte
	n.host.Do(func() { out, err = cmd.Output() })
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		t.Skipf("run a program as another user: %v", err)
	}
	for _, want := range []string{`"code":101`, "permission denied", "not ours"} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("want %q in %s, %v", want, out, err)
		}
	}
	n.wantAddresses()
	n.empty()
	n.add(p)
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
}

// Files that say nonsense hold up neither the pod that they are of nor others.
func TestCorruptedState(t *testing.T) {
	for name, c := range map[string]struct{ file, content string }{
		"an empty record":         {"weft/cbr0:pod-1:eth0", ""},
		"half a record":           {"weft/cbr0:pod-1:eth0", `{"version":1,"netw`},
		"a record of later":       {"weft/cbr0:pod-1:eth0", `{"version":9}`},
		"an empty address":        {"networks/cbr0/10.42.1.2", ""},
		"another's address":       {"networks/cbr0/10.42.1.2", "somebody\r\neth0"},
		"nonsense of releases":    {"networks/cbr0/.weft.rest", "\x00\xff\n\n1 2 3"},
		"nonsense of what's next": {"networks/cbr0/last_reserved_ip.0", "\x00\xff"},
		"half an address":         {"networks/cbr0/.weft.new", "pod-1\r"},
		"half a new record":       {"weft/.cbr0:pod-1:eth0", "{"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4)
			p, _ := newPod(t, 1)
			n.add(p)
			n.write(filepath.Join(n.dir, c.file), c.content)
			other, ns := newPod(t, 2)
			reachAll(t, n.host, ns, n.add(other))
			if gone := strings.Contains(name, "record"); !gone {
				n.del(p) // else GC is the one to come
			}
			n.del(other)
			n.collect()
			n.empty()
			entries, err := os.ReadDir(string(n.records()))
			if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() }) {
				t.Errorf("records: %v, %v", entries, err)
			}
		})
	}
}
