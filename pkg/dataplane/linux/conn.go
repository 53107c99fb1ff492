package linux

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a netlink socket that all requests of a kind share. It is kept open: its
// port id is how Watch knows our own writing. It is connected to the kernel, so
// nobody else can send to it.
type conn struct {
	fd      int
	port    port
	strict  bool   // dumps are filtered in the kernel by what the request says
	seq     uint32 // of the next message
	request encoder
	answers []byte
}

const (
	// answerTimeout only guards against a lost answer: rtnetlink has answered
	// when the system call that sent the request returns.
	answerTimeout = 10 // seconds
	// answerBuffer holds the answers of a batch in which every message fails:
	// each takes about a KiB in the kernel. Without CAP_NET_ADMIN it is cut
	// down to net.core.rmem_max, 208 KiB by default, which is enough.
	answerBuffer = 1 << 20
	// dumpAttempts bounds the retries of a dump that others' writes disturb.
	dumpAttempts = 10
)

var errDisturbed = errors.New("a dump was disturbed by other writers each time")

// route gives the rtnetlink socket, opening it where needed.
func (k *Kernel) route() (*conn, error) {
	if k.rt != nil {
		return k.rt, nil
	}
	c := &conn{answers: make([]byte, receiveBuffer)}
	if err := k.ns.do(func() error { return c.open(unix.NETLINK_ROUTE, k.answerBytes) }); err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	c.strict = !k.lenient && unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	k.rt = c
	k.memory.addPort(c.port)
	return c, nil
}

func (c *conn) open(protocol, queue int) (err error) {
	if c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(c.fd)
		}
	}()
	if err := unix.Connect(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	self, ok := name.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("its address is a %T", name)
	}
	c.port = port{protocol, self.Pid}
	// Explanations and strict filters are luxuries: kernels before 4.12 and
	// 4.20 do without, and what they send too much is dropped here.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queue)
	}
	return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout})
}

func (k *Kernel) closeRoute() {
	if k.rt != nil {
		k.memory.dropPort(k.rt.port)
		_ = unix.Close(k.rt.fd)
		k.rt = nil
	}
}

// exchange sends messages, all in one system call, and reads answers until take
// says that it has the last. It is told which message each is an answer to. The
// kernel acts on them in order, and one that fails does not stop the next
// (netlink_rcv_skb). After an error of the socket itself it is closed: answers
// may be lost or still under way.
func (k *Kernel) exchange(e *encoder, take func(i int, m message) (last bool)) error {
	c, err := k.route()
	if err != nil {
		return err
	}
	if err = c.exchange(e, take); err != nil {
		k.closeRoute()
	}
	return err
}

// exchange is that of one socket, which is of no use after an error.
func (c *conn) exchange(e *encoder, take func(i int, m message) (last bool)) (err error) {
	first := c.seq
	c.seq += uint32(len(e.types))
	for i, b := 0, e.buf; i < len(e.types); i++ {
		binary.NativeEndian.PutUint32(b[8:], first+uint32(i))
		b = b[binary.NativeEndian.Uint32(b):]
	}
	_, err = unix.Write(c.fd, e.buf)
	for err == nil {
		var n int
		if n, err = unix.Read(c.fd, c.answers); errors.Is(err, unix.EINTR) {
			err = nil
			continue
		}
		for m := range messages(c.answers[:max(n, 0)]) {
			i := m.seq - first
			if i < uint32(len(e.types)) && take(int(i), m) {
				return nil
			}
		}
	}
	return fmt.Errorf("talk to the kernel's netlink: %w", err)
}

// send performs one request and hands each message of the answer to visit.
// The message is valid only during the call, which must not send anything.
func (k *Kernel) send(typ, flags int, visit func([]byte), data ...nl.NetlinkRequestData) error {
	c, err := k.route()
	if err != nil {
		return err
	}
	c.request.reset()
	c.request.begin(typ, flags)
	for _, d := range data {
		c.request.bytes(d.Serialize()...)
	}
	c.request.end()
	var answer error
	disturbed := false
	err = k.exchange(&c.request, func(_ int, m message) bool {
		disturbed = disturbed || m.flags&unix.NLM_F_DUMP_INTR != 0
		if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
			answer = m.failure()
			return true
		}
		if visit != nil {
			visit(m.data)
		}
		return m.flags&unix.NLM_F_MULTI == 0
	})
	switch {
	case err != nil:
		return err
	case answer == nil && disturbed:
		return unix.EINTR
	}
	return answer
}

// write is a request that changes something.
func (k *Kernel) write(typ, flags int, data ...nl.NetlinkRequestData) error {
	return k.send(typ, flags|unix.NLM_F_ACK, nil, data...)
}

// dump reads a table. parse says whether the message is wanted. What the
// kernel flags as disturbed (NLM_F_DUMP_INTR) may lack entries, so it is read
// again.
func dump[T any](
	k *Kernel, typ int, parse func([]byte) (T, bool), data ...nl.NetlinkRequestData,
) ([]T, error) {
	for range dumpAttempts {
		var out []T
		if !k.marking.only {
			out = make([]T, 0, k.dumped[typ]+k.dumped[typ]/16)
		}
		seen := k.marking
		err := k.send(typ, unix.NLM_F_DUMP, func(m []byte) {
			v, ok := parse(m)
			if ok {
				seen.add(typ, m)
			}
			if ok && !seen.only {
				out = append(out, v)
			}
		}, data...)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if k.marking = seen; !seen.only {
			k.dumped[typ] = len(out)
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
