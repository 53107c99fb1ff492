package linux

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Where a VXLAN packet has things, in bytes from its UDP header (RFC 768, RFC 7348):
// that of the outer header is the kernel's to find.
const (
	portAt  = 2
	vniAt   = 8 + 4        // then a reserved byte
	frameAt = 8 + 8        // the inner Ethernet header
	typeAt  = frameAt + 12 // its EtherType
	innerAt = frameAt + 14 // the inner IP header
	vniMask = uint32(0xffffff00)
)

// Registers of 4 and of 16 bytes: NFT_REG32_01 lies behind the first 4 bytes of
// NFT_REG_1 (uapi linux/netfilter/nf_tables.h).
const (
	register1  = unix.NFT_REG_1
	register2  = unix.NFT_REG_2
	register01 = unix.NFT_REG32_01
)

// tunnelExpressions match what Tunnel says.
func tunnelExpressions(f nftables.TableFamily, t ruleset.Tunnel) ([]expr.Any, error) {
	if t == (ruleset.Tunnel{}) {
		return nil, nil
	}
	h, whole := headerOf(f), ruleset.Whole(f == nftables.TableFamilyIPv6)
	if t.Port < 1 || t.Port > 0xffff || t.VNI < 0 || t.VNI >= 1<<24 || t.Bits < 0 || t.Bits > whole {
		return nil, fmt.Errorf("port %d, VNI %d, %d bits: not those of a tunnel", t.Port, t.VNI, t.Bits)
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{unix.IPPROTO_UDP}},
		fromUDP(register1, portAt, 2),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: binary.BigEndian.AppendUint16(nil, uint16(t.Port))},
	}
	if t.VNI != 0 {
		op := expr.CmpOpEq
		if t.Other {
			op = expr.CmpOpNeq
		}
		out = append(out, fromUDP(register1, vniAt, 4), maskedAt(register1, binary.BigEndian.AppendUint32(nil, vniMask)),
			&expr.Cmp{Op: op, Register: register1, Data: binary.BigEndian.AppendUint32(nil, uint32(t.VNI)<<8)})
	}
	if t.ReadsInside() {
		out = append(out, fromUDP(register1, typeAt, 2),
			&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: etherType(f)})
	}
	pair, err := pairExpressions(f, t)
	if err != nil {
		return nil, err
	}
	out = append(out, pair...)
	if !t.Inner.Prefix.IsValid() {
		return out, nil
	}
	inner, err := compare(fromUDP(register1, innerAt+h.src, h.size), t.Inner, h)
	return append(out, inner...), err
}

func fromUDP(register, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
}

func etherType(f nftables.TableFamily) []byte {
	if f == nftables.TableFamilyIPv6 {
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	}
	return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
}

// pairExpressions put two addresses one behind the other, and look for them.
func pairExpressions(f nftables.TableFamily, t ruleset.Tunnel) ([]expr.Any, error) {
	h := headerOf(f)
	second := uint32(register01)
	if h.size == 16 {
		second = register2
	}
	outer := func(register, offset uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: h.size}
	}
	var out []expr.Any
	switch t.Pair {
	case "":
		return nil, nil
	case ruleset.From:
		out = []expr.Any{outer(register1, h.src), outer(second, h.src)}
	case ruleset.To:
		out = []expr.Any{outer(register1, h.dst), outer(second, h.dst)}
	case ruleset.Inside:
		out = []expr.Any{fromUDP(register1, innerAt+h.src, h.size), fromUDP(second, innerAt+h.src, h.size)}
	case ruleset.FromInside:
		out = []expr.Any{outer(register1, h.src), fromUDP(second, innerAt+h.src, h.size)}
		if t.Bits < int(h.size)*8 {
			out = append(out, maskedAt(second, ones(t.Bits, int(h.size))))
		}
	default:
		return nil, fmt.Errorf("unknown pair %q", t.Pair)
	}
	name := t.Set(f == nftables.TableFamilyIPv6, "").Name()
	return append(out, &expr.Lookup{SourceRegister: register1, SetName: name}), nil
}

// pairs in the order of their codes in the user data.
func pairs() []ruleset.Pair {
	return []ruleset.Pair{"", ruleset.From, ruleset.To, ruleset.FromInside, ruleset.Inside}
}

// appendTunnel writes the conditions as they stand behind those of any rule.
func appendTunnel(b []byte, t ruleset.Tunnel) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t.Port))
	vni := uint32(t.VNI)
	if t.Other {
		vni |= 1 << 31
	}
	b = binary.BigEndian.AppendUint32(b, vni)
	for i, p := range pairs() {
		if p == t.Pair {
			b = append(b, byte(i))
		}
	}
	return appendMatch(append(b, byte(t.Bits)), t.Inner)
}

func takeTunnel(b []byte) (t ruleset.Tunnel, rest []byte, err error) {
	known := pairs()
	if len(b) < 8 || int(b[6]) >= len(known) {
		return t, nil, errUserData
	}
	vni := binary.BigEndian.Uint32(b[2:])
	t = ruleset.Tunnel{
		Port: int(binary.BigEndian.Uint16(b)), VNI: int(vni &^ (1 << 31)), Other: vni>>31 == 1,
		Pair: known[b[6]], Bits: int(b[7]),
	}
	t.Inner, rest, err = takeMatch(b[8:])
	return t, rest, err
}

// sameExpression compares as the kernel keeps it: what a counter has counted is no
// part of the rule.
func sameExpression(f nftables.TableFamily, a, b expr.Any) bool {
	_, counts := a.(*expr.Counter)
	if _, too := b.(*expr.Counter); counts || too {
		return counts && too
	}
	x, errX := expr.Marshal(byte(f), a)
	y, errY := expr.Marshal(byte(f), b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// dropped is what a rule that counts has dropped.
func dropped(r *nftables.Rule) (n uint64) {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			n += c.Packets
		}
	}
	return n
}

// setsOf are those that a chain's rules look into.
func setsOf(key ruleset.Key, c ruleset.Chain) (out []ofSet) {
	for _, r := range c.Rules {
		if r.Tunnel.Pair != "" {
			out = append(out, ofSet{set: r.Tunnel.Set(key.IPv6, key.Table)})
		}
	}
	return out
}
