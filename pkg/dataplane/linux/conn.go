package linux

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is the rtnetlink socket that all requests share. It is kept open: its
// port id is how Watch knows our own writing.
type conn struct {
	sockets map[int]*nl.SocketHandle
	port    port
	strict  bool // dumps are filtered in the kernel by what the request says
}

const (
	// answerTimeout only guards against a lost answer: rtnetlink answers
	// within the system call.
	answerTimeout = 10 // seconds
	// dumpAttempts bounds the retries of a dump that others' writes disturb.
	dumpAttempts = 10
)

var errDisturbed = errors.New("a dump was disturbed by other writers each time")

// route gives the rtnetlink socket, opening it where needed.
func (k *Kernel) route() (*conn, error) {
	if k.rt != nil {
		return k.rt, nil
	}
	s, err := k.ns.openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	id, err := s.GetPid()
	if err == nil {
		err = s.SetReceiveTimeout(&unix.Timeval{Sec: answerTimeout})
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("set up a route netlink socket: %w", err)
	}
	// Explanations and strict filters are luxuries: kernels before 4.12 and
	// 4.20 do without, and what they send too much is dropped here.
	_ = s.SetExtAck(true)
	strict := !k.lenient &&
		unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	k.rt = &conn{
		sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}},
		port:    port{unix.NETLINK_ROUTE, id},
		strict:  strict,
	}
	k.memory.addPort(k.rt.port)
	return k.rt, nil
}

func (k *Kernel) closeRoute() {
	if k.rt != nil {
		k.memory.dropPort(k.rt.port)
		k.rt.sockets[unix.NETLINK_ROUTE].Close()
		k.rt = nil
	}
}

// send performs one request and hands each message of the answer to visit.
// The message is valid only during the call.
func (k *Kernel) send(typ, flags int, visit func([]byte), data ...nl.NetlinkRequestData) error {
	c, err := k.route()
	if err != nil {
		return err
	}
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Type: uint16(typ), Flags: unix.NLM_F_REQUEST | uint16(flags)},
		Data:     data,
		Sockets:  c.sockets,
	}
	err = req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(m []byte) bool {
		if visit != nil {
			visit(m)
		}
		return true
	})
	if brokenSocket(err) {
		k.closeRoute()
	}
	return err
}

// write is a request that changes something.
func (k *Kernel) write(typ, flags int, data ...nl.NetlinkRequestData) error {
	return k.send(typ, flags|unix.NLM_F_ACK, nil, data...)
}

// brokenSocket tells errors of the socket from answers of the kernel. After
// one, an answer may still be under way, so the socket is not used again.
func brokenSocket(err error) bool {
	if err == nil || errors.Is(err, nl.ErrDumpInterrupted) {
		return false
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return true
	}
	switch errno {
	case unix.ENOBUFS, unix.EAGAIN, unix.EBADF, unix.ENOTSOCK, unix.ECONNREFUSED:
		return true
	}
	return false
}

// dump reads a table. parse says whether the message is wanted. What the
// kernel flags as disturbed (NLM_F_DUMP_INTR) may lack entries, so it is read
// again.
func dump[T any](
	k *Kernel, typ int, parse func([]byte) (T, bool), data ...nl.NetlinkRequestData,
) ([]T, error) {
	for range dumpAttempts {
		var out []T
		err := k.send(typ, unix.NLM_F_DUMP, func(m []byte) {
			if v, ok := parse(m); ok {
				out = append(out, v)
			}
		}, data...)
		if errors.Is(err, unix.EINTR) { // nl.ErrDumpInterrupted is one too
			continue
		}
		return out, err
	}
	return nil, errDisturbed
}

// get reads one entry; ok is false when the kernel has none.
func get[T any](
	k *Kernel, typ int, parse func([]byte) (T, bool), data ...nl.NetlinkRequestData,
) (out T, ok bool, err error) {
	err = k.send(typ, 0, func(m []byte) { out, ok = parse(m) }, data...)
	return out, ok, err
}

// gone tells the errors by which the kernel says that an entry is not there.
func gone(err error) bool {
	for _, absent := range []error{unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EADDRNOTAVAIL} {
		if errors.Is(err, absent) {
			return true
		}
	}
	return false
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}
