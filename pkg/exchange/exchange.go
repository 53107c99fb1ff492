// Package exchange sends requests to the kernel by netlink, many in one message, and
// reads its answers into one buffer:
//
//	requests ─▶ one sendto ─▶ the kernel works through them ─▶ what it refused, and the last one's answer
//
// A program that lives for three milliseconds feels each system call, each kilobyte
// and the runtime's poller; netlink libraries send one request at a time, and want one or
// all of these for it. It owns a socket. It refuses to know what is asked, which its
// users encode.
package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Conn is a netlink socket in one network namespace. It is for one goroutine.
type Conn struct {
	fd     int
	answer []byte
}

// Open makes one in the namespace of the calling thread; protocol is one of
// unix.NETLINK_.
func Open(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	// The kernel answers before it returns. Should it ever not, nobody waits for good.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	if err == nil {
		// A refusal has the whole request in it otherwise, however long.
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() { _ = unix.Close(c.fd) }

// LinkIndex is a link's index; 0 is no link. It waits for nobody, where RTM_GETLINK waits
// for the lock that all of the kernel's links share.
func (c *Conn) LinkIndex(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(c.fd, unix.SIOCGIFINDEX, ifr) // any socket will do (sock_do_ioctl)
	}
	if errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

// Answer is one message of the kernel's.
type Answer struct {
	Seq  uint32 // of the request
	Kind uint16 // NLMSG_ERROR also says that all is well
	Data []byte // behind the header; valid until the next one
}

// Err is what a NLMSG_ERROR says: nil, or an Errno.
func (a Answer) Err() error {
	const size = 4
	if a.Kind != unix.NLMSG_ERROR || len(a.Data) < size {
		return nil
	}
	if n := -int32(binary.NativeEndian.Uint32(a.Data)); n != 0 {
		return unix.Errno(n)
	}
	return nil
}

// Do sends requests, which are whole messages behind each other, and visits the
// answers until visit has its last. The kernel answers those that it refuses, and those
// that ask for it (NLM_F_ACK).
func (c *Conn) Do(requests []byte, visit func(Answer) (last bool)) error {
	if err := retry(func() error {
		return unix.Sendto(c.fd, requests, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return err
	}
	const largest = 4 << 10 // of an answer: a link with all of its attributes takes 2 kB
	if c.answer == nil {
		c.answer = make([]byte, largest)
	}
	for {
		n := 0
		if err := retry(func() (err error) {
			n, _, err = unix.Recvfrom(c.fd, c.answer, 0)
			return err
		}); err != nil {
			return err
		}
		last, err := each(c.answer[:n], visit)
		if err != nil || last {
			return err
		}
	}
}

// each visits the messages of one datagram (struct nlmsghdr).
func each(datagram []byte, visit func(Answer) bool) (last bool, err error) {
	const kindAt, seqAt, align = 4, 8, 4
	for len(datagram) > 0 {
		if len(datagram) < unix.SizeofNlMsghdr {
			return false, fmt.Errorf("an answer of %d bytes", len(datagram))
		}
		length := int(binary.NativeEndian.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return false, fmt.Errorf("an answer that says it has %d bytes, of %d", length, len(datagram))
		}
		if visit(Answer{
			Seq:  binary.NativeEndian.Uint32(datagram[seqAt:]),
			Kind: binary.NativeEndian.Uint16(datagram[kindAt:]),
			Data: datagram[unix.SizeofNlMsghdr:length],
		}) {
			return true, nil
		}
		datagram = datagram[min((length+align-1)&^(align-1), len(datagram)):]
	}
	return false, nil
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
