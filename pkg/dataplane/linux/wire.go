package linux

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attr is a netlink attribute in an answer.
type attr struct {
	kind  uint16
	value []byte
}

// attrs visits the attributes of a message (RFC 3549 section 2.3). It stops at
// the first that is malformed: the kernel sends none, and a short answer shows
// as a difference, never as a crash.
func attrs(b []byte) iter.Seq[attr] {
	return func(yield func(attr) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) & ^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)
			if !yield(attr{kind, b[unix.SizeofRtAttr:size]}) {
				return
			}
			b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

func (a attr) uint32() uint32 {
	if len(a.value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(a.value)
}

// addr gives an invalid address for anything but 4 and 16 bytes.
func (a attr) addr() netip.Addr {
	ip, _ := netip.AddrFromSlice(a.value)
	return ip
}

// text is a string without its terminating zero.
func (a attr) text() string {
	b := a.value
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}

// encoder puts netlink messages one behind the other. Their sequence numbers
// count from 0: whoever sends them adds his own.
type encoder struct {
	buf   []byte
	start int      // of the message at work
	types []uint16 // of the messages, in order
}

func (e *encoder) reset() { e.buf, e.types = e.buf[:0], e.types[:0] }

func (e *encoder) begin(typ, flags int) {
	e.start = len(e.buf)
	b := binary.NativeEndian.AppendUint32(e.buf, 0) // the length: see end
	b = binary.NativeEndian.AppendUint16(b, uint16(typ))
	b = binary.NativeEndian.AppendUint16(b, uint16(flags)|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(e.types)))
	e.buf = binary.NativeEndian.AppendUint32(b, 0)
	e.types = append(e.types, uint16(typ))
}

func (e *encoder) bytes(b ...byte) { e.buf = append(e.buf, b...) }

func (e *encoder) uint32(v uint32) { e.buf = binary.NativeEndian.AppendUint32(e.buf, v) }

func (e *encoder) attr(kind int, value []byte) {
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(unix.SizeofRtAttr+len(value)))
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(kind))
	e.buf = append(e.buf, value...)
	for len(e.buf)%unix.NLMSG_ALIGNTO != 0 {
		e.buf = append(e.buf, 0)
	}
}

// nest begins an attribute that holds others, until unnest.
func (e *encoder) nest(kind int) (at int) {
	at = len(e.buf)
	e.attr(kind|unix.NLA_F_NESTED, nil)
	return at
}

func (e *encoder) unnest(at int) { binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at)) }

func (e *encoder) uint32Attr(kind int, v uint32) {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	e.attr(kind, b[:])
}

func (e *encoder) addrAttr(kind int, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.attr(kind, b[:])
		return
	}
	b := a.As16()
	e.attr(kind, b[:])
}

func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start))
}

// message is one of an answer. What data points to is valid until the socket is
// read again.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// messages visits what one read of a netlink socket gave. It stops at the first
// that is malformed.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return
			}
			m := message{
				typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
				seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

// failure is the error in an NLMSG_ERROR or NLMSG_DONE, with the kernel's
// explanation if it gives one (NLMSGERR_ATTR_MSG). An acknowledgement has none.
func (m message) failure() error {
	if len(m.data) < 4 {
		return nil
	}
	errno := int32(binary.NativeEndian.Uint32(m.data))
	if errno >= 0 {
		return nil
	}
	err := error(unix.Errno(-errno))
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	rest := m.data[4:]
	if m.typ == unix.NLMSG_ERROR { // the request, or its header alone, comes first
		if len(rest) < unix.SizeofNlMsghdr {
			return err
		}
		size := unix.SizeofNlMsghdr
		if m.flags&unix.NLM_F_CAPPED == 0 {
			size = int(binary.NativeEndian.Uint32(rest))
		}
		size = (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		rest = rest[min(len(rest), max(size, 0)):]
	}
	for a := range attrs(rest) {
		if a.kind == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", err, a.text())
		}
	}
	return err
}

func uint32Attr(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }

func addrAttr(kind int, a netip.Addr) *nl.RtAttr { return nl.NewRtAttr(kind, a.AsSlice()) }

// family is the address family as the kernel numbers it.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// families in a fixed order, for tables that the kernel keeps apart.
func families() [2]uint8 { return [...]uint8{unix.AF_INET, unix.AF_INET6} }

func anyPrefix(family uint8) netip.Prefix {
	if family == unix.AF_INET {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func within(p netip.Prefix, networks []netip.Prefix) bool {
	for _, n := range networks {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// expressionOf reads one expression of an nftables rule: its name, and what it says.
func expressionOf(b []byte) (name string, data []byte) {
	for a := range attrs(b) {
		switch a.kind {
		case unix.NFTA_EXPR_NAME:
			name = a.text()
		case unix.NFTA_EXPR_DATA:
			data = a.value
		}
	}
	return name, data
}
