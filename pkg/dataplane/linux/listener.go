package linux

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listener is a netlink socket that only receives. It reads into one buffer:
// what passes by and does not concern us shall leave no garbage.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

const (
	// watchBuffer holds what the kernel notifies while we are busy: a link
	// that goes with 10,000 entries on it sends as many messages.
	watchBuffer = 16 << 20
	// receiveBuffer is as large as the largest message of rtnetlink.
	receiveBuffer = 64 << 10
)

// listen opens a listener. size is that of the kernel's queue, in bytes; it is
// granted in full only with CAP_NET_ADMIN.
func (n namespace) listen(protocol, size int, groups ...int) (*listener, error) {
	var l *listener
	err := n.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "netlink")
		if l, err = newListener(file, fd, size, groups); err != nil {
			_ = file.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to netlink protocol %d: %w", protocol, err)
	}
	return l, nil
}

func newListener(file *os.File, fd, size int, groups []int) (*listener, error) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); err != nil {
			return nil, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return nil, fmt.Errorf("join group %d: %w", g, err)
		}
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &listener{file: file, raw: raw, buf: make([]byte, receiveBuffer)}, nil
}

// receive blocks for the next messages, which are valid until the next call.
// ENOBUFS says that the kernel's queue ran over and some are lost.
func (l *listener) receive() ([]syscall.NetlinkMessage, error) {
	var size int
	var from unix.Sockaddr
	var inner error
	err := l.raw.Read(func(fd uintptr) bool {
		size, from, inner = unix.Recvfrom(int(fd), l.buf, 0)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	if err != nil {
		return nil, err
	}
	if inner != nil {
		return nil, inner
	}
	if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
		return nil, nil // not from the kernel
	}
	return syscall.ParseNetlinkMessage(l.buf[:size])
}

// close ends a receive that waits.
func (l *listener) close() { _ = l.file.Close() }
