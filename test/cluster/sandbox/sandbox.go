// Package sandbox runs a program so that nothing of what it did is left
// behind, however it ended.
//
//	outer: this program as it was started. Makes the directory and the cgroup,
//	 │     waits, removes both.
//	 └ inner: the same program, the first process of pid, mount and network
//	          namespaces of its own. When it ends, the kernel kills whatever it
//	          started, and with the last process go all mounts and links.
//
// It owns the directory, the cgroup of its name and the lock on them. What an
// outer that was killed has left is removed by the next one.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is set in the inner one's environment, to the directory.
const inside = "WEFT_SANDBOX_DIR"

// Box is what the inner one finds.
type Box struct {
	Dir   string // on disk, empty at first
	Group Group  // this process is in it
}

// Inside gives the box that this process was started in, if it was.
func Inside() (box Box, ok bool, err error) {
	dir := os.Getenv(inside)
	if dir == "" {
		return Box{}, false, nil
	}
	box.Dir = dir
	base, err := Own()
	if err != nil {
		return Box{}, true, err
	}
	box.Group = base.Below(filepath.Base(dir))
	if err := box.Group.Join(); err != nil {
		return Box{}, true, err
	}
	return box, true, settle()
}

// settle makes the mounts of this namespace its own: proc of its processes, and
// an empty /run, where it may give names to network namespaces.
func settle() error {
	steps := []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"},
		{"tmpfs", "/run", "tmpfs"},
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	return nil
}

// Run starts this program again in a box at dir, with the same arguments, and
// waits for it. When ctx ends it asks the inner one to end, and waits on. The
// directory and the cgroup are removed whatever came of it.
func Run(ctx context.Context, dir string) (err error) {
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	base, err := Own()
	if err != nil {
		return err
	}
	group := base.Below(filepath.Base(dir))
	clean := func() error { return errors.Join(group.Remove(), os.RemoveAll(dir)) }
	if err := clean(); err != nil {
		return fmt.Errorf("remove what an earlier run has left: %w", err)
	}
	defer func() { err = errors.Join(err, clean()) }()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := group.Make(); err != nil {
		return err
	}
	return again(ctx, dir)
}

// lock keeps others from the directory until unlock, or the end of the process.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the reason is the lock
		return nil, fmt.Errorf("lock %s: %w: another run is going on", path, err)
	}
	return func() error {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return errors.Join(err, f.Close())
	}, nil
}

func again(ctx context.Context, dir string) error {
	// The kernel sends Pdeathsig when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setpgid:    true, // a Ctrl-C comes to us, and from us to the inner one
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	return cmd.Wait()
}
