package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String is the rule nearly as nft prints it, as far as it could be read.
func (r Rule) String() string {
	var parts []string
	for _, c := range r.Conds {
		parts = append(parts, c.String())
	}
	for _, u := range r.Unread {
		parts = append(parts, "<"+u+">")
	}
	for _, a := range r.Acts {
		if s := a.String(); s != "" {
			parts = append(parts, s)
		}
	}
	if r.Comment != "" {
		parts = append(parts, strconv.Quote(r.Comment))
	}
	return strings.Join(parts, " ")
}

// String is one condition.
func (c Cond) String() string {
	if c.Chance {
		return "by chance"
	}
	var b strings.Builder
	b.WriteString(fieldNames(c.Fields))
	if c.Not {
		b.WriteString(" !=")
	}
	if c.Set != "" {
		b.WriteString(" @" + c.Set)
		return b.String()
	}
	var values []string
	for _, v := range c.Values {
		values = append(values, c.value(v))
	}
	b.WriteString(" " + strings.Join(values, ","))
	return b.String()
}

func fieldNames(fields []Field) string {
	var names []string
	for _, f := range fields {
		names = append(names, f.String())
	}
	return strings.Join(names, " . ")
}

// String is the field's name in nft.
func (f Field) String() string {
	switch f {
	case SrcAddr:
		return "saddr"
	case DstAddr:
		return "daddr"
	case L4Proto:
		return "l4proto"
	case Family:
		return "nfproto"
	case SrcPort:
		return "sport"
	case DstPort:
		return "dport"
	case InName:
		return "iifname"
	case OutName:
		return "oifname"
	case FWMark:
		return "mark"
	case CtState:
		return "ct state"
	case DstType:
		return "daddr type"
	case SrcType:
		return "saddr type"
	case Random:
		return "random"
	case VNI:
		return "vni"
	}
	return "?"
}

func (c Cond) value(v Range) string {
	if len(c.Fields) != 1 {
		return fmt.Sprintf("%x", v.From)
	}
	from, to := c.plain(v.From), c.plain(v.To)
	if bytes.Equal(v.From, v.To) {
		return from
	}
	return from + "-" + to
}

func (c Cond) plain(b []byte) string {
	switch c.Fields[0] {
	case SrcAddr, DstAddr:
		return prefixText(b, c.Mask)
	case L4Proto:
		return protocolName(b)
	case SrcPort, DstPort:
		if len(b) == 2 {
			return strconv.Itoa(int(binary.BigEndian.Uint16(b)))
		}
	case VNI:
		if len(b) == 4 {
			return strconv.Itoa(int(binary.BigEndian.Uint32(b) >> 8))
		}
	case InName, OutName:
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(b[:i])
		}
		return string(b) + "*"
	case FWMark, CtState, DstType, SrcType:
		return c.word(b)
	}
	return fmt.Sprintf("%x", b)
}

func (c Cond) word(b []byte) string {
	if len(b) != 4 {
		return fmt.Sprintf("%x", b)
	}
	v := binary.NativeEndian.Uint32(b)
	switch {
	case (c.Fields[0] == DstType || c.Fields[0] == SrcType) && v == typeLocal:
		return "local"
	case len(c.Mask) == 4:
		return fmt.Sprintf("%#x/%#x", v, binary.NativeEndian.Uint32(c.Mask))
	}
	return fmt.Sprintf("%#x", v)
}

// prefixText is an address, with its length where the mask or the bytes say so.
func prefixText(b, mask []byte) string {
	size := 4
	if len(b) > 4 || len(mask) > 4 {
		size = 16
	}
	full := make([]byte, size)
	copy(full, b)
	a, _ := netip.AddrFromSlice(full)
	bits := 8 * len(b)
	if mask != nil {
		bits = 0
		for _, m := range mask {
			for ; m&0x80 != 0; m <<= 1 {
				bits++
			}
		}
	}
	if bits == a.BitLen() {
		return a.String()
	}
	return netip.PrefixFrom(a, bits).String()
}

func protocolName(b []byte) string {
	if len(b) != 1 {
		return fmt.Sprintf("%x", b)
	}
	switch b[0] {
	case 1:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case 58:
		return "icmpv6"
	case protoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(b[0]))
}

// String is what the rule does; what changes nothing is left out.
func (a Act) String() string {
	switch a.Kind {
	case Other:
		return ""
	case Jump, Goto:
		return string(a.Kind) + " " + a.Chain
	case DNAT, SNAT:
		switch {
		case a.Set != "":
			return fmt.Sprintf("%s to %s map @%s", a.Kind, fieldNames(a.Fields), a.Set)
		case a.Port != 0 && a.Addr.IsValid():
			return fmt.Sprintf("%s to %s", a.Kind, netip.AddrPortFrom(a.Addr, a.Port))
		case a.Port != 0:
			return fmt.Sprintf("%s to :%d", a.Kind, a.Port)
		}
		return fmt.Sprintf("%s to %s", a.Kind, a.Addr)
	case Mark:
		return fmt.Sprintf("mark set %#x/%#x", a.Mark, a.Mask)
	case VMap:
		return fmt.Sprintf("%s vmap @%s", fieldNames(a.Fields), a.Set)
	}
	return string(a.Kind)
}
