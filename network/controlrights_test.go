package network

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// TestStrangersAreNotAnswered: a user of the machine who is neither weftd's nor of
// its group can't even connect to the control socket.
func TestStrangersAreNotAnswered(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // it is the socket that keeps out
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "weftd.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	const stranger, group = 64918, 64917
	if err := os.Chown(path, 0, group); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		uid, gid uintptr
		answered bool
	}{{"root", 0, 0, true}, {"a stranger", stranger, stranger, false}, {"of the group", stranger, group, true}} {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this, as nobody else's
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSGID, c.gid, 0, 0)
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, c.uid, 0, 0)
			conn, err := net.Dial("unix", path)
			if err == nil {
				_ = conn.Close()
			}
			done <- err
		}()
		if err := <-done; (err == nil) != c.answered || err != nil && !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
