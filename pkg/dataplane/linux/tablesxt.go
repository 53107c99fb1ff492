package linux

import (
	"encoding/binary"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/weftnet/weft/pkg/tables/firewall"
)

// This file knows what iptables-nft keeps in its own form: matches and targets
// of x_tables (include/uapi/linux/netfilter/xt_*.h).

func (w *ruleReader) match(e *expr.Match) {
	ok := false
	switch info := e.Info.(type) {
	case *xt.Comment:
		w.out.Comment, ok = strings.TrimRight(string(*info), "\x00"), true
	case *xt.Tcp:
		ok = w.ports(info.SrcPorts, info.DstPorts, byte(info.InvFlags)) &&
			info.Option == 0 && info.FlagsMask == 0 && info.InvFlags < xt.TcpInvFlags
	case *xt.Udp:
		ok = w.ports(info.SrcPorts, info.DstPorts, byte(info.InvFlags))
	case *xt.ConntrackMtinfo3:
		ok = w.states(info)
	case *xt.AddrTypeV1:
		ok = w.addrTypes(info)
	case *xt.Unknown:
		ok = w.rawMatch(e.Name, *info)
	}
	if !ok {
		w.unread("match " + e.Name)
	}
}

func (w *ruleReader) test(f firewall.Field, mask []byte, not bool, values ...firewall.Range) {
	w.out.Conds = append(w.out.Conds, firewall.Cond{Fields: []firewall.Field{f}, Mask: mask, Not: not, Values: values})
}

func port16(lo, hi uint16) firewall.Range {
	return firewall.Range{From: binary.BigEndian.AppendUint16(nil, lo), To: binary.BigEndian.AppendUint16(nil, hi)}
}

func word32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// ports of the matches tcp and udp; the lowest bits of inverse are source and
// destination (XT_TCP_INV_SRCPT).
func (w *ruleReader) ports(src, dst [2]uint16, inverse byte) bool {
	for i, side := range []struct {
		field firewall.Field
		ports [2]uint16
	}{{firewall.SrcPort, src}, {firewall.DstPort, dst}} {
		not := inverse&(1<<i) != 0
		if not || side.ports != [2]uint16{0, 0xffff} {
			w.test(side.field, nil, not, port16(side.ports[0], side.ports[1]))
		}
	}
	return true
}

// states is `-m conntrack --ctstate` alone. Its bits are those of nftables.
func (w *ruleReader) states(info *xt.ConntrackMtinfo3) bool {
	const state, translated = 1, 0x40 | 0x80 // XT_CONNTRACK_STATE, XT_CONNTRACK_STATE_SNAT and DNAT
	if info.MatchFlags != state || info.StateMask&translated != 0 {
		return false
	}
	zero := firewall.Range{From: word32(0), To: word32(0)}
	w.test(firewall.CtState, word32(uint32(info.StateMask)), info.InvertFlags&state == 0, zero)
	return true
}

// addrTypes is `-m addrtype` with one type on one side.
func (w *ruleReader) addrTypes(info *xt.AddrTypeV1) bool {
	const inverseSrc, inverseDst = 1, 2 // XT_ADDRTYPE_INVERT_SOURCE, XT_ADDRTYPE_INVERT_DEST
	if uint32(info.Flags)&^(inverseSrc|inverseDst) != 0 {
		return false
	}
	for _, side := range []struct {
		field firewall.Field
		types uint16
		not   bool
	}{
		{firewall.SrcType, info.Source, info.Flags&inverseSrc != 0},
		{firewall.DstType, info.Dest, info.Flags&inverseDst != 0},
	} {
		var values []firewall.Range
		for bit := range uint32(16) {
			if side.types&(1<<bit) != 0 {
				values = append(values, firewall.Range{From: word32(bit), To: word32(bit)})
			}
		}
		if len(values) > 0 {
			w.test(side.field, nil, side.not, values...)
		}
	}
	return true
}

func (w *ruleReader) rawMatch(name string, b []byte) bool {
	switch name {
	case "mark": // struct xt_mark_mtinfo1: mark, mask, invert
		if len(b) < 9 {
			return false
		}
		value := firewall.Range{From: b[0:4], To: b[0:4]}
		w.test(firewall.FWMark, b[4:8], b[8] != 0, value)
		return true
	case "statistic":
		w.out.Conds = append(w.out.Conds, firewall.Cond{Chance: true})
		return true
	case "multiport":
		return w.multiport(b)
	}
	return false
}

// multiport is struct xt_multiport_v1: flags, count, 15 ports, 15 marks of
// ranges, invert.
func (w *ruleReader) multiport(b []byte) bool {
	const ports, ranges, invert = 2, 32, 47
	if len(b) <= invert || b[0] > 1 || int(b[1]) > 15 {
		return false
	}
	field := firewall.SrcPort
	if b[0] == 1 {
		field = firewall.DstPort
	}
	var values []firewall.Range
	at := func(i int) uint16 { return binary.NativeEndian.Uint16(b[ports+2*i:]) }
	for i := 0; i < int(b[1]); i++ {
		lo, hi := at(i), at(i)
		if b[ranges+i] != 0 && i+1 < int(b[1]) {
			i++
			hi = at(i)
		}
		values = append(values, port16(lo, hi))
	}
	w.test(field, nil, b[invert] != 0, values...)
	return true
}

func (w *ruleReader) target(e *expr.Target) {
	switch e.Name {
	case "MASQUERADE":
		w.act(firewall.Act{Kind: firewall.Masquerade})
	case "REJECT":
		w.act(firewall.Act{Kind: firewall.Reject})
	case "MARK":
		w.markTarget(e)
	case "DNAT", "SNAT":
		w.natTarget(e)
	case "LOG", "NFLOG", "TRACE", "CT", "NOTRACK", "TCPMSS", "CHECKSUM", "CONNMARK", "CLASSIFY", "DSCP", "TOS":
		w.act(firewall.Act{Kind: firewall.Other})
	default:
		w.unread("target " + e.Name)
		w.act(firewall.Act{Kind: firewall.Drop})
	}
}

// markTarget is struct xt_mark_tginfo2: mark = mark & ^mask ^ value.
func (w *ruleReader) markTarget(e *expr.Target) {
	info, ok := e.Info.(*xt.Unknown)
	if !ok || len(*info) < 8 || e.Rev != 2 {
		w.unread("target MARK")
		w.act(firewall.Act{Kind: firewall.Mark})
		return
	}
	b := []byte(*info)
	w.act(firewall.Act{Kind: firewall.Mark, Mark: binary.NativeEndian.Uint32(b), Mask: binary.NativeEndian.Uint32(b[4:])})
}

func (w *ruleReader) natTarget(e *expr.Target) {
	a := firewall.Act{Kind: firewall.DNAT}
	if e.Name == "SNAT" {
		a.Kind = firewall.SNAT
	}
	take := func(flags uint, ip []byte, port uint16) {
		const mapsAddrs, mapsPorts = 1, 2 // NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED
		if flags&mapsAddrs != 0 {
			a.Addr = addressOf(ip)
		}
		if flags&mapsPorts != 0 {
			a.Port = port
		}
	}
	switch info := e.Info.(type) {
	case *xt.NatRange2:
		take(info.Flags, info.MinIP, info.MinPort)
	case *xt.NatRange:
		take(info.Flags, info.MinIP, info.MinPort)
	case *xt.NatIPv4MultiRangeCompat:
		if len(*info) == 1 {
			r := (*info)[0]
			take(r.Flags, r.MinIP, r.MinPort)
		}
	}
	if !a.Addr.IsValid() && a.Port == 0 {
		w.unread("target " + e.Name)
	}
	w.act(a)
}
