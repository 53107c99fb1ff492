// Package netnstest gives tests network namespaces of their own.
//
//	func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }
//
//	func TestX(t *testing.T) {
//		ns := netnstest.New(t)
//		ns.Do(func() { ... }) // this goroutine's thread is inside
//	}
//
// As root, New just makes a namespace. Without root, Run starts the test
// binary again as root of a new user namespace, where the host allows it; where
// it does not, New skips the test and says why. The namespace of the host is
// never touched.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside marks the second start of the test binary.
const inside = "WEFT_NETNSTEST_INSIDE"

// Run is m.Run for a process that may have to become root in a user namespace
// first. It gives the exit status.
func Run(m *testing.M) int {
	if os.Getuid() == 0 || os.Getenv(inside) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return m.Run() // no user namespaces here: New will skip, with the reason
	}
}

// NS is a network namespace with `lo` up. It lives until its test ends.
type NS struct {
	t      testing.TB
	handle netns.NsHandle
}

// New makes a namespace. It skips the test where the host forbids that.
func New(t testing.TB) *NS {
	t.Helper()
	type result struct {
		handle netns.NsHandle
		err    error
	}
	made := make(chan result)
	go func() {
		// The thread is not unlocked, so it dies with the goroutine and the
		// namespace is not left behind on a thread of the pool.
		runtime.LockOSThread()
		h, err := netns.New()
		made <- result{h, err}
	}()
	got := <-made
	if errors.Is(got.err, unix.EPERM) {
		t.Skip("network namespaces are forbidden here (needs root, or user namespaces and netnstest.Run in TestMain)")
	}
	if got.err != nil {
		t.Fatalf("make a network namespace: %v", got.err)
	}
	n := &NS{t: t, handle: got.handle}
	t.Cleanup(func() { _ = n.handle.Close() })
	n.Do(n.loopbackUp)
	return n
}

func (n *NS) loopbackUp() {
	n.t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		n.t.Fatalf("set lo up: %v", err)
	}
}

// Handle is the namespace for libraries that take a descriptor.
func (n *NS) Handle() netns.NsHandle { return n.handle }

// Path is the namespace as a file, for other processes too.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)) }

// Do calls f with the thread of the calling goroutine in the namespace.
// Processes that f starts begin there; goroutines that it starts do not. It may
// be nested, and f may end the test.
func (n *NS) Do(f func()) {
	n.t.Helper()
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		n.t.Fatalf("find the own network namespace: %v", err)
	}
	defer func() {
		defer func() { _ = back.Close() }()
		if err := netns.Set(back); err != nil {
			// Locked, the thread dies with the goroutine and harms nobody.
			n.t.Errorf("leave the network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := netns.Set(n.handle); err != nil {
		n.t.Fatalf("enter the network namespace: %v", err)
	}
	f()
}

// Exec runs a command in the namespace and gives what it printed. A command
// that fails ends the test.
func (n *NS) Exec(name string, args ...string) string {
	n.t.Helper()
	var out []byte
	var err error
	n.Do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
