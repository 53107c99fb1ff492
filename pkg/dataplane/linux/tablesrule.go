package linux

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/tables/firewall"
)

// content of registers, from the first on: what an expression put there.
type content struct {
	fields []firewall.Field
	mask   []byte
	xor    []byte
	value  []byte // of an immediate
	set    string // fields were looked up in this map
	size   int    // bytes
	index  bool   // an interface by number
}

// ruleReader turns the expressions of one rule into conditions and acts. The
// kernel works on 16 registers of four bytes, which old users address in fours
// (NFT_REG_1 is the first of NFT_REG32_00 to 03).
type ruleReader struct {
	rules *rulesReader
	table *nftables.Table
	regs  map[uint32]content
	out   firewall.Rule
}

func (r *rulesReader) rule(t *nftables.Table, rule *nftables.Rule) firewall.Rule {
	w := ruleReader{rules: r, table: t, regs: map[uint32]content{}}
	w.out.Handle = rule.Handle
	if comment, _, err := splitUserData(rule.UserData); err == nil {
		w.out.Comment = comment
	}
	w.out.Unread = append(w.out.Unread, r.opaque[ruleID{t.Family, t.Name, rule.Handle}]...)
	for _, e := range rule.Exprs {
		w.expression(e)
	}
	return w.out
}

func slot(reg uint32) uint32 {
	if reg >= unix.NFT_REG32_00 {
		return reg - unix.NFT_REG32_00
	}
	return (reg - 1) * 4
}

func (w *ruleReader) unread(what string) { w.out.Unread = append(w.out.Unread, what) }

func (w *ruleReader) act(a firewall.Act) { w.out.Acts = append(w.out.Acts, a) }

// expression handles what loads and compares; what acts is in action.
func (w *ruleReader) expression(e expr.Any) {
	switch e := e.(type) {
	case *expr.Payload:
		w.payload(e)
	case *expr.Meta:
		w.meta(e)
	case *expr.Ct:
		w.ct(e)
	case *expr.Fib:
		w.fib(e)
	case *expr.Numgen:
		w.regs[slot(e.Register)] = content{fields: []firewall.Field{firewall.Random}, size: 4}
	case *expr.Hash:
		w.regs[slot(e.DestRegister)] = content{fields: []firewall.Field{firewall.Random}, size: 4}
	case *expr.Immediate:
		w.regs[slot(e.Register)] = content{value: e.Data, size: len(e.Data)}
	case *expr.Bitwise:
		c := w.regs[slot(e.SourceRegister)]
		if len(e.Mask) == 0 || c.mask != nil {
			c = content{size: int(e.Len)} // a shift, or two registers together
		}
		c.mask, c.xor = e.Mask, e.Xor
		w.regs[slot(e.DestRegister)] = c
	case *expr.Exthdr:
		if e.SourceRegister == 0 {
			w.regs[slot(e.DestRegister)] = content{size: int(e.Len)}
		}
	default:
		w.compare(e)
	}
}

func (w *ruleReader) compare(e expr.Any) {
	switch e := e.(type) {
	case *expr.Cmp:
		w.cmp(e)
	case *expr.Range:
		w.cond(e.Register, e.Op == expr.CmpOpNeq, firewall.Range{From: e.FromData, To: e.ToData})
	case *expr.Lookup:
		w.lookup(e)
	case *expr.Match:
		w.match(e)
	default:
		w.action(e)
	}
}

func (w *ruleReader) action(e expr.Any) {
	switch e := e.(type) {
	case *expr.Verdict:
		if a, ok := verdictAct(e); ok {
			w.act(a)
		}
	case *expr.Masq:
		w.act(firewall.Act{Kind: firewall.Masquerade})
	case *expr.Reject:
		w.act(firewall.Act{Kind: firewall.Reject})
	case *expr.NAT:
		w.nat(e)
	case *expr.Target:
		w.target(e)
	case *expr.Counter, *expr.Log, *expr.Objref, *expr.Notrack, *expr.FlowOffload, *expr.Dynset, *expr.SecMark:
		w.act(firewall.Act{Kind: firewall.Other})
	case *expr.Limit:
		w.unread("limit")
	case *expr.Redir:
		w.unread("redirect")
		w.act(firewall.Act{Kind: firewall.DNAT})
	case *expr.Queue:
		w.unread("queue")
		w.act(firewall.Act{Kind: firewall.Drop})
	default:
		w.unread(fmt.Sprintf("%T", e)[len("*expr."):])
	}
}

func verdictAct(v *expr.Verdict) (firewall.Act, bool) {
	switch v.Kind {
	case expr.VerdictAccept:
		return firewall.Act{Kind: firewall.Accept}, true
	case expr.VerdictDrop:
		return firewall.Act{Kind: firewall.Drop}, true
	case expr.VerdictReturn:
		return firewall.Act{Kind: firewall.Return}, true
	case expr.VerdictJump:
		return firewall.Act{Kind: firewall.Jump, Chain: v.Chain}, true
	case expr.VerdictGoto:
		return firewall.Act{Kind: firewall.Goto, Chain: v.Chain}, true
	}
	return firewall.Act{}, false // continue, break: as if it said nothing
}

// payload knows addresses, the protocol and ports (RFC 791, RFC 8200, RFC 9293).
func (w *ruleReader) payload(e *expr.Payload) {
	if e.OperationType != expr.PayloadLoad {
		w.act(firewall.Act{Kind: firewall.Other})
		return
	}
	w.regs[slot(e.DestRegister)] = content{
		fields: []firewall.Field{payloadField(w.table.Family, e)}, size: int(e.Len),
	}
}

// part is where a field stands: from an offset on, at most so many bytes.
type part struct {
	base         expr.PayloadBase
	offset, size uint32
	field        firewall.Field
}

// parts of the headers of a table's family. nft loads the first bytes of an
// address alone where its prefix ends with them. In a table of both families,
// where the addresses stand tells which header it is.
func parts(f nftables.TableFamily) []part {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	out := []part{
		{transport, 0, 2, firewall.SrcPort}, {transport, 2, 2, firewall.DstPort}, {transport, vniAt, 4, firewall.VNI},
	}
	if f != nftables.TableFamilyIPv6 {
		out = append(out, part{network, 12, 4, firewall.SrcAddr}, part{network, 16, 4, firewall.DstAddr},
			part{network, 9, 1, firewall.L4Proto})
	}
	if f != nftables.TableFamilyIPv4 {
		out = append(out, part{network, 8, 16, firewall.SrcAddr}, part{network, 24, 16, firewall.DstAddr},
			part{network, 6, 1, firewall.L4Proto})
	}
	return out
}

func payloadField(f nftables.TableFamily, e *expr.Payload) firewall.Field {
	for _, p := range parts(f) {
		address := p.field == firewall.SrcAddr || p.field == firewall.DstAddr
		if e.Base == p.base && e.Offset == p.offset && (e.Len == p.size || address && e.Len < p.size) {
			return p.field
		}
	}
	return firewall.None
}

func (w *ruleReader) meta(e *expr.Meta) {
	if e.SourceRegister {
		w.setMeta(e)
		return
	}
	c := content{size: 4, fields: []firewall.Field{firewall.None}}
	switch e.Key {
	case expr.MetaKeyL4PROTO:
		c = content{size: 1, fields: []firewall.Field{firewall.L4Proto}}
	case expr.MetaKeyNFPROTO:
		c = content{size: 1, fields: []firewall.Field{firewall.Family}}
	case expr.MetaKeyIIFNAME:
		c = content{size: unix.IFNAMSIZ, fields: []firewall.Field{firewall.InName}}
	case expr.MetaKeyOIFNAME:
		c = content{size: unix.IFNAMSIZ, fields: []firewall.Field{firewall.OutName}}
	case expr.MetaKeyIIF:
		c = content{size: 4, index: true, fields: []firewall.Field{firewall.InName}}
	case expr.MetaKeyOIF:
		c = content{size: 4, index: true, fields: []firewall.Field{firewall.OutName}}
	case expr.MetaKeyMARK:
		c.fields = []firewall.Field{firewall.FWMark}
	case expr.MetaKeyPRANDOM:
		c.fields = []firewall.Field{firewall.Random}
	}
	w.regs[slot(e.Register)] = c
}

func (w *ruleReader) setMeta(e *expr.Meta) {
	if e.Key != expr.MetaKeyMARK {
		w.act(firewall.Act{Kind: firewall.Other})
		return
	}
	c := w.regs[slot(e.Register)]
	switch {
	case len(c.value) == 4:
		w.act(firewall.Act{Kind: firewall.Mark, Mark: binary.NativeEndian.Uint32(c.value), Mask: ^uint32(0)})
	case slices.Equal(c.fields, []firewall.Field{firewall.FWMark}) && len(c.mask) == 4 && len(c.xor) == 4:
		w.act(firewall.Act{
			Kind: firewall.Mark, Mark: binary.NativeEndian.Uint32(c.xor), Mask: ^binary.NativeEndian.Uint32(c.mask),
		})
	default:
		w.unread("mark set")
		w.act(firewall.Act{Kind: firewall.Mark})
	}
}

func (w *ruleReader) ct(e *expr.Ct) {
	if e.SourceRegister {
		w.act(firewall.Act{Kind: firewall.Other})
		return
	}
	c := content{size: 4, fields: []firewall.Field{firewall.None}}
	if e.Key == expr.CtKeySTATE {
		c.fields = []firewall.Field{firewall.CtState}
	}
	w.regs[slot(e.Register)] = c
}

func (w *ruleReader) fib(e *expr.Fib) {
	c := content{size: 4, fields: []firewall.Field{firewall.None}}
	switch {
	case e.ResultADDRTYPE && e.FlagDADDR:
		c.fields = []firewall.Field{firewall.DstType}
	case e.ResultADDRTYPE && e.FlagSADDR:
		c.fields = []firewall.Field{firewall.SrcType}
	}
	w.regs[slot(e.Register)] = c
}

// cond makes a condition of a register and values.
func (w *ruleReader) cond(reg uint32, not bool, values ...firewall.Range) {
	c, ok := w.regs[slot(reg)]
	if !ok || len(c.fields) == 0 || slices.ContainsFunc(c.xor, func(b byte) bool { return b != 0 }) {
		w.unread("compare")
		return
	}
	if c.index {
		for i := range values {
			values[i] = firewall.Range{From: w.linkName(values[i].From), To: w.linkName(values[i].To)}
		}
	}
	w.out.Conds = append(w.out.Conds, firewall.Cond{Fields: c.fields, Mask: c.mask, Not: not, Values: values})
}

// linkName is the name of an interface's number, filled up.
func (w *ruleReader) linkName(b []byte) []byte {
	out := make([]byte, unix.IFNAMSIZ)
	if len(b) == 4 {
		copy(out, w.rules.names[int(binary.NativeEndian.Uint32(b))])
	}
	return out
}

func (w *ruleReader) cmp(e *expr.Cmp) {
	same := firewall.Range{From: e.Data, To: e.Data}
	low, high := make([]byte, len(e.Data)), bytes.Repeat([]byte{0xff}, len(e.Data))
	switch e.Op {
	case expr.CmpOpEq:
		w.cond(e.Register, false, same)
	case expr.CmpOpNeq:
		w.cond(e.Register, true, same)
	case expr.CmpOpGte:
		w.cond(e.Register, false, firewall.Range{From: e.Data, To: high})
	case expr.CmpOpLt:
		w.cond(e.Register, true, firewall.Range{From: e.Data, To: high})
	case expr.CmpOpLte:
		w.cond(e.Register, false, firewall.Range{From: low, To: e.Data})
	case expr.CmpOpGt:
		w.cond(e.Register, true, firewall.Range{From: low, To: e.Data})
	}
}

// gather is what lies in the registers from reg on, as many bytes as the keys
// of the set have. Of an empty set nothing is known, and nothing is in it.
func (w *ruleReader) gather(reg uint32, set string) (fields []firewall.Field, ok bool) {
	key := firewall.SetKey{Family: familyName(w.table.Family), Table: w.table.Name, Name: set}
	s, there := w.rules.out.Sets[key]
	if !there {
		return nil, false
	}
	if len(s.Elems) == 0 {
		return []firewall.Field{firewall.L4Proto}, true
	}
	for at, left := slot(reg), len(s.Elems[0].Key.From); left > 0; {
		c, known := w.regs[at]
		if !known || c.size == 0 || c.index || c.mask != nil || len(c.fields) != 1 {
			return nil, false
		}
		fields = append(fields, c.fields[0])
		words := (c.size + 3) / 4
		at += uint32(words)
		left -= words * 4
	}
	return fields, true
}

func (w *ruleReader) lookup(e *expr.Lookup) {
	fields, ok := w.gather(e.SourceRegister, e.SetName)
	if !ok {
		w.unread("lookup @" + e.SetName)
	}
	switch {
	case e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT:
		random := slices.Contains(fields, firewall.Random)
		w.act(firewall.Act{Kind: firewall.VMap, Set: e.SetName, Fields: fields, Random: random})
	case e.IsDestRegSet:
		w.regs[slot(e.DestRegister)] = content{set: e.SetName, fields: fields}
	case ok:
		w.out.Conds = append(w.out.Conds, firewall.Cond{Fields: fields, Set: e.SetName, Not: e.Invert})
	}
}

func (w *ruleReader) nat(e *expr.NAT) {
	a := firewall.Act{Kind: firewall.DNAT}
	if e.Type == expr.NATTypeSourceNAT {
		a.Kind = firewall.SNAT
	}
	if e.RegAddrMin != 0 {
		c := w.regs[slot(e.RegAddrMin)]
		a.Addr, a.Set = addressOf(c.value), c.set
		if c.set != "" {
			a.Fields = c.fields
		}
	}
	if c := w.regs[slot(max(e.RegProtoMin, 1))]; e.RegProtoMin != 0 && len(c.value) >= 2 {
		a.Port = binary.BigEndian.Uint16(c.value)
	}
	w.act(a)
}
