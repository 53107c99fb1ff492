package firewall

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Packet is the first packet of a flow.
type Packet struct {
	Src, Dst         netip.Addr
	Proto            uint8 // IPPROTO_*
	SrcPort, DstPort uint16
	In, Out          string // interfaces; "" is none
	Mark             uint32
	ToHost           bool   // Dst is an address of the host
	FromHost         bool   // Src is
	VNI              uint32 // of a VXLAN packet (RFC 7348); 0: what UDP carries is not known
}

// Field is a part of a packet that conditions look at.
type Field byte

// The fields. Any other is None, which no packet has a known value for.
const (
	None Field = iota
	SrcAddr
	DstAddr
	L4Proto
	Family // NFPROTO_*, one byte
	SrcPort
	DstPort
	InName  // 16 bytes, filled with zeros
	OutName // likewise
	FWMark
	CtState
	DstType // RTN_*, four bytes
	SrcType
	Random
	VNI // with the reserved byte behind it, four bytes
)

const (
	nameSize = 16
	ctNew    = 8 // NF_CT_STATE_BIT(IP_CT_NEW)

	typeUnicast, typeLocal = 1, 2 // RTN_UNICAST, RTN_LOCAL
	protoTCP, protoUDP     = 6, 17
	protoSCTP              = 132
	familyIP, familyIP6    = 2, 10 // NFPROTO_IPV4, NFPROTO_IPV6
)

// value gives the bytes of a field; ok is false for what is not known of a
// packet, and absent for what this packet has not, so that nothing matches.
func (p Packet) value(f Field) (b []byte, ok, absent bool) {
	switch f {
	case SrcAddr:
		return p.Src.AsSlice(), true, false
	case DstAddr:
		return p.Dst.AsSlice(), true, false
	case L4Proto:
		return []byte{p.Proto}, true, false
	case Family:
		if p.Dst.Is6() {
			return []byte{familyIP6}, true, false
		}
		return []byte{familyIP}, true, false
	case SrcPort:
		return p.port(p.SrcPort)
	case DstPort:
		return p.port(p.DstPort)
	case InName:
		return name(p.In), true, false
	case OutName:
		return name(p.Out), true, false
	case FWMark:
		return word(p.Mark), true, false
	case CtState:
		return word(ctNew), true, false
	case DstType:
		return addrType(p.ToHost), true, false
	case SrcType:
		return addrType(p.FromHost), true, false
	case VNI:
		return binary.BigEndian.AppendUint32(nil, p.VNI<<8), p.VNI != 0, p.Proto != protoUDP
	}
	return nil, false, false
}

func (p Packet) port(n uint16) (b []byte, ok, absent bool) {
	if p.Proto != protoTCP && p.Proto != protoUDP && p.Proto != protoSCTP {
		return nil, true, true
	}
	return binary.BigEndian.AppendUint16(nil, n), true, false
}

func name(s string) []byte {
	b := make([]byte, nameSize)
	copy(b, s)
	return b
}

func word(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func addrType(local bool) []byte {
	if local {
		return word(typeLocal)
	}
	return word(typeUnicast)
}

// answer to a condition.
type answer byte

const (
	no answer = iota
	yes
	unknown
)

// key lays the fields one behind the other, each filled to whole words where
// there is more than one.
func (p Packet) key(fields []Field) ([]byte, answer) {
	var out []byte
	for _, f := range fields {
		b, ok, absent := p.value(f)
		if absent {
			return nil, no
		}
		if !ok {
			return nil, unknown
		}
		out = append(out, b...)
		for len(fields) > 1 && len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out, yes
}

func (r Ruleset) meets(c Chain, cond Cond, p Packet) answer {
	if cond.Chance {
		return yes
	}
	have, a := p.key(cond.Fields)
	if a != yes {
		return a
	}
	have = masked(have, cond.Mask)
	values := cond.Values
	if cond.Set != "" {
		set, ok := r.Sets[SetKey{c.Family, c.Table, cond.Set}]
		if !ok {
			return unknown
		}
		for _, e := range set.Elems {
			values = append(values, e.Key)
		}
	}
	hit := false
	for _, v := range values {
		hit = hit || v.holds(have)
	}
	if hit != cond.Not {
		return yes
	}
	return no
}

func masked(b, mask []byte) []byte {
	out := bytes.Clone(b)
	for i := range min(len(out), len(mask)) {
		out[i] &= mask[i]
	}
	return out
}

// holds compares as much as the value says: a name that ends in * is short.
func (v Range) holds(b []byte) bool {
	n := len(v.From)
	if n > len(b) || len(v.To) != n {
		return false
	}
	return bytes.Compare(v.From, b[:n]) <= 0 && bytes.Compare(b[:n], v.To) <= 0
}

// find gives the element of a set for the packet.
func (r Ruleset) find(c Chain, set string, fields []Field, p Packet) (Elem, answer) {
	s, ok := r.Sets[SetKey{c.Family, c.Table, set}]
	if !ok {
		return Elem{}, unknown
	}
	have, a := p.key(fields)
	if a != yes {
		return Elem{}, a
	}
	for _, e := range s.Elems {
		if e.Key.holds(have) {
			return e, yes
		}
	}
	return Elem{}, no
}
