package hostlocal

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// write makes the address file appear whole. It is not synced to the disk:
// what a power cut loses, the pods are lost with it.
func (s Store) write(addr netip.Addr, h Holder) error {
	return s.replace(addr.String(), []byte(h.content()))
}

// replace writes a file in one step; the lock is held.
func (s Store) replace(name string, content []byte) error {
	tmp := s.path(newName)
	err := writeFile(tmp, content, fileMode)
	if err == nil {
		err = os.Rename(tmp, s.path(name))
	}
	if err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	return nil
}

// taken tells whether the address has a file.
func (s Store) taken(addr netip.Addr) bool {
	var stat syscall.Stat_t
	err := retry(func() error { return syscall.Lstat(s.path(addr.String()), &stat) })
	return !errors.Is(err, fs.ErrNotExist) // in doubt it is
}

// Holder tells who has the address.
func (s Store) Holder(addr netip.Addr) (Holder, bool) {
	content, err := os.ReadFile(s.path(addr.String()))
	return holderOf(content), !errors.Is(err, fs.ErrNotExist)
}

// leftover finds an address whose file is empty. host-local creates the file
// first and fills it then, both under the lock; an empty file seen by us who
// hold the lock is thus of a process that died, and has no holder.
func (s Store) leftover(p pool, used set) (netip.Addr, bool) {
	for addr := range used {
		if !p.has(addr) {
			continue
		}
		if info, err := os.Lstat(s.path(addr.String())); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// used lists the addresses that have a file.
func (s Store) used() (set, error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	used := set{}
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			used[addr] = struct{}{}
		}
	}
	return used, nil
}

func (s Store) remove(addrs []netip.Addr) error {
	var errs []error
	for _, addr := range addrs {
		if err := removeFile(s.path(addr.String())); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

// readAddr reads a file that holds one address; damaged or absent is none.
func (s Store) readAddr(name string) netip.Addr {
	var buf [64]byte // the longest address has 39 bytes
	n, err := readStart(s.path(name), buf[:])
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

func (s Store) path(name string) string { return filepath.Join(s.dir, name) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lock takes the directory's lock, which host-local takes too, and gives back
// what releases it. The kernel releases it when its holder dies.
func (s Store) lock() (unlock func(), err error) {
	const mode = 0o600
	var fd int
	err = retry(func() error {
		fd, err = syscall.Open(s.path(lockName), syscall.O_CREAT|syscall.O_RDONLY|syscall.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the lock of the address store: %w", &fs.PathError{
			Op: "open", Path: s.path(lockName), Err: err,
		})
	}
	if err := retry(func() error { return syscall.Flock(fd, syscall.LOCK_EX) }); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", s.path(lockName), err), syscall.Close(fd))
	}
	return func() { _ = syscall.Close(fd) }, nil // closing the only descriptor unlocks
}

// lockMade does so, and makes the directory where there is none.
func (s Store) lockMade() (unlock func(), err error) {
	unlock, err = s.lock()
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.dir, dirMode); err != nil {
			return nil, fmt.Errorf("make the address store: %w", err)
		}
		unlock, err = s.lock()
	}
	return unlock, err
}

// readStart reads as much of a file as fits. A node may have thousands of
// address files, and DEL of what nobody knows reads them all, so this asks the
// kernel for three calls, not for the seven of os.ReadFile.
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

// writeFile is os.WriteFile in three calls to the kernel instead of nine; the
// lock is held meanwhile.
func writeFile(path string, content []byte, mode uint32) error {
	return writeTo(path, syscall.O_TRUNC, content, mode)
}

// overwrite writes over what there is, and cuts off what is left of it. ext4
// takes a file that is emptied and written for one that shall survive a power
// cut, and begins to write it to the disk (auto_da_alloc), which takes longer
// than all else that is done under the lock. After a crash the content may be
// half of each.
func overwrite(path string, content []byte, mode uint32) error {
	return writeTo(path, 0, content, mode)
}

func writeTo(path string, truncate int, content []byte, mode uint32) (err error) {
	var fd int
	if err := retry(func() error {
		fd, err = syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_CLOEXEC|truncate, mode)
		return err
	}); err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if truncate == 0 {
		err = shorten(fd, len(content))
	}
	for len(content) > 0 && err == nil {
		var n int
		err = retry(func() error {
			n, err = syscall.Write(fd, content)
			return err
		})
		content = content[max(n, 0):]
	}
	if err := errors.Join(err, syscall.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// shorten cuts a file that is longer.
func shorten(fd, length int) error {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil || stat.Size <= int64(length) {
		return err
	}
	return retry(func() error { return syscall.Ftruncate(fd, int64(length)) })
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
