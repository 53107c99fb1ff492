package cnifiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// identify gives what tells one version of a file from another: also the time
// of the last change of the inode, which nobody sets at will.
func identify(path string) (identity, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return identity{}, err
	}
	id := identity{size: info.Size(), changed: info.ModTime().UnixNano(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.inode, id.changed = int64(st.Ino), st.Ctim.Nano()
	}
	return id, nil
}

// bare is the system's error alone: the name of a temporary file, which is
// another each time, would make each try a new message.
func bare(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// explain adds what an operator does about an error of the file system.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w; mount it writable, or choose other directories", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w; free some space, weftd tries again", err)
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return fmt.Errorf("%w; run it as root", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; let root of this container write there, weftd tries again", err)
	}
	return err
}
