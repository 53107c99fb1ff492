package hostlocal

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock takes the directory's lock, which host-local takes too, and gives back
// what releases it. The kernel releases it when its holder dies.
func (s Store) lock() (unlock func(), err error) {
	const mode = 0o600
	f, err := os.OpenFile(s.path(lockName), os.O_CREATE|os.O_RDONLY, mode)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the address store: %w", err)
	}
	err = retry(func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing the only descriptor unlocks
}

// readStart reads as much of a file as fits. A node has hundreds of address
// files and each ADD reads them all, so this asks the kernel for three calls,
// not for the seven of os.ReadFile.
func readStart(path string, buf []byte) (n int, err error) {
	var fd int
	if err := retry(func() error {
		fd, err = syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return 0, err
	}
	defer func() { _ = syscall.Close(fd) }()
	err = retry(func() error {
		n, err = syscall.Read(fd, buf)
		return err
	})
	return max(n, 0), err
}

// retry repeats a system call that a signal broke off; the Go runtime sends
// itself many.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
