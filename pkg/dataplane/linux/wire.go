package linux

import (
	"encoding/binary"
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
