package cniplugin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// setSysctls writes what is not so already, in the thread's namespace.
func setSysctls(want []sysctl) error {
	for _, s := range want {
		err := setSysctl("/proc/sys/net/"+s.path, s.value)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist) && s.optional:
		case errors.Is(err, fs.ErrNotExist):
			return types.NewError(codeKernel, fmt.Sprintf("set %s=%s: %v", s.path, s.value, err),
				"the kernel has no IPv6 (ipv6.disable=1?): boot it with IPv6, or set EnableIPv6 to false")
		default:
			return refused(fmt.Sprintf("set %s=%s", s.path, s.value), err)
		}
	}
	return nil
}

// setSysctl takes four calls to the kernel, and not the fifteen of os.ReadFile
// and os.WriteFile. What is so already is not written: some settings take the
// kernel's global lock even then.
func setSysctl(path, value string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		// A /proc/sys that can't be written may say the right thing already.
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err == nil && string(bytes.TrimSpace(buf[:max(n, 0)])) != value {
		_, err = unix.Pwrite(fd, []byte(value), 0)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
