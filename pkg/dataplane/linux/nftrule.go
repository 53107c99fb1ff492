package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// A rule of ours carries in its user data what `nft list` shows as its comment,
// and in a TLV of our own the ruleset.Rule that it was made from. A reader
// decodes the latter, makes the expressions anew and compares them with those
// that the kernel holds: whatever else is there is not what we wrote.
const (
	udataRule  = userdata.Type('w') // not used by nft (libnftnl, udata.h)
	udataMax   = 128                // bytes of comment that nft reads (NFTNL_UDATA_COMMENT_MAXLEN)
	ruleFormat = 1                  // first byte of our TLV
	// tunnelFormat is the same with conditions on a tunnel's packet behind it.
	tunnelFormat = 2
)

var errUserData = errors.New("not the user data of a weft rule")

// offset and length of the addresses in the network header (RFC 791, RFC 8200).
type header struct{ src, dst, size uint32 }

func headerOf(f nftables.TableFamily) header {
	if f == nftables.TableFamilyIPv4 {
		return header{src: 12, dst: 16, size: 4}
	}
	return header{src: 8, dst: 24, size: 16}
}

// expressions are what `nft --debug=netlink` prints for the rule.
func expressions(f nftables.TableFamily, r ruleset.Rule) ([]expr.Any, error) {
	out, err := tunnelExpressions(f, r.Tunnel)
	if err != nil {
		return nil, fmt.Errorf("rule %q: %w", r, err)
	}
	if r.Mask != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
		out = append(out, masked(binaryutil.NativeEndian.PutUint32(r.Mask)),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(r.Mark & r.Mask)})
	}
	h := headerOf(f)
	for _, side := range []struct {
		match  ruleset.Match
		offset uint32
	}{{r.Src, h.src}, {r.Dst, h.dst}} {
		if !side.match.Prefix.IsValid() {
			continue
		}
		field := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: side.offset, Len: h.size}
		matched, err := compare(field, side.match, h)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r, err)
		}
		out = append(out, matched...)
	}
	verdict, err := verdictOf(r.Verdict)
	if err != nil {
		return nil, fmt.Errorf("rule %q: %w", r, err)
	}
	return append(out, verdict...), nil
}

// compare matches an address that is loaded into the first register.
func compare(field expr.Any, m ruleset.Match, h header) ([]expr.Any, error) {
	p := m.Prefix
	if p.Addr().BitLen() != int(h.size)*8 {
		return nil, fmt.Errorf("%s is of the other address family than its table", p)
	}
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		field, masked(ones(p.Bits(), int(h.size))), &expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}, nil
}

func verdictOf(v ruleset.Verdict) ([]expr.Any, error) {
	switch v {
	case ruleset.Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case ruleset.Return:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, nil
	case ruleset.Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case ruleset.DropCounted:
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case ruleset.Untrack:
		return []expr.Any{&expr.Notrack{}, &expr.Verdict{Kind: expr.VerdictReturn}}, nil
	case ruleset.Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case ruleset.MasqueradeFullyRandom:
		return []expr.Any{&expr.Masq{FullyRandom: true}}, nil
	}
	return nil, fmt.Errorf("verdict %q can't be written", v)
}

func masked(mask []byte) expr.Any { return maskedAt(1, mask) }

func maskedAt(register uint32, mask []byte) expr.Any {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}
}

func ones(bits, size int) []byte {
	b := make([]byte, size)
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// verdicts in the order of their codes in the user data.
func verdicts() []ruleset.Verdict {
	return []ruleset.Verdict{
		ruleset.Accept, ruleset.Return, ruleset.Drop, ruleset.Masquerade, ruleset.MasqueradeFullyRandom,
		ruleset.DropCounted, ruleset.Untrack,
	}
}

// encodeRule makes the user data. It is only called with rules that can be
// written.
func encodeRule(r ruleset.Rule) ([]byte, error) {
	if len(r.Comment) >= udataMax || bytes.IndexByte([]byte(r.Comment), 0) >= 0 {
		return nil, fmt.Errorf("rule %q: its comment is longer than %d bytes or has a zero", r, udataMax-1)
	}
	b := []byte{ruleFormat, 0}
	for i, v := range verdicts() {
		if v == r.Verdict {
			b[1] = byte(i)
		}
	}
	b = binary.BigEndian.AppendUint32(b, r.Mark)
	b = binary.BigEndian.AppendUint32(b, r.Mask)
	b = appendMatch(appendMatch(b, r.Src), r.Dst)
	if r.Tunnel != (ruleset.Tunnel{}) {
		b[0] = tunnelFormat
		b = appendTunnel(b, r.Tunnel)
	}
	var out []byte
	if r.Comment != "" {
		out = userdata.AppendString(out, userdata.TypeComment, r.Comment)
	}
	return userdata.Append(out, udataRule, b), nil
}

const (
	matchNone = iota
	matchIs
	matchNot
)

// appendMatch writes a match as its kind, the bits of the prefix, the length of
// the address and the address.
func appendMatch(b []byte, m ruleset.Match) []byte {
	if !m.Prefix.IsValid() {
		return append(b, matchNone)
	}
	kind := byte(matchIs)
	if m.Not {
		kind = matchNot
	}
	ip := m.Prefix.Addr().AsSlice()
	return append(append(b, kind, byte(m.Prefix.Bits()), byte(len(ip))), ip...)
}

// splitUserData gives the comment that nft shows, and what is ours, if any.
func splitUserData(data []byte) (comment string, ours []byte, err error) {
	for len(data) >= 2 {
		size := 2 + int(data[1])
		if size > len(data) {
			return "", nil, errUserData
		}
		switch userdata.Type(data[0]) {
		case userdata.TypeComment:
			comment = string(bytes.TrimRight(data[2:size], "\x00"))
		case udataRule:
			ours = data[2:size]
		}
		data = data[size:]
	}
	return comment, ours, nil
}

func decodeRule(data []byte) (ruleset.Rule, error) {
	var r ruleset.Rule
	comment, b, err := splitUserData(data)
	if err != nil {
		return r, err
	}
	r.Comment = comment
	known := verdicts()
	if len(b) < 10 || b[0] != ruleFormat && b[0] != tunnelFormat || int(b[1]) >= len(known) {
		return ruleset.Rule{}, errUserData
	}
	r.Verdict = known[b[1]]
	r.Mark, r.Mask = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:])
	tunnel := b[0] == tunnelFormat
	b = b[10:]
	for _, m := range []*ruleset.Match{&r.Src, &r.Dst} {
		var err error
		if *m, b, err = takeMatch(b); err != nil {
			return ruleset.Rule{}, err
		}
	}
	if tunnel {
		if r.Tunnel, b, err = takeTunnel(b); err != nil {
			return ruleset.Rule{}, err
		}
	}
	if len(b) != 0 {
		return ruleset.Rule{}, errUserData
	}
	return r, nil
}

func takeMatch(b []byte) (ruleset.Match, []byte, error) {
	switch {
	case len(b) >= 1 && b[0] == matchNone:
		return ruleset.Match{}, b[1:], nil
	case len(b) < 3 || b[0] > matchNot || len(b) < 3+int(b[2]):
		return ruleset.Match{}, nil, errUserData
	}
	ip, ok := netip.AddrFromSlice(b[3 : 3+int(b[2])])
	p := netip.PrefixFrom(ip, int(b[1]))
	if !ok || !p.IsValid() {
		return ruleset.Match{}, nil, errUserData
	}
	return ruleset.Match{Prefix: p, Not: b[0] == matchNot}, b[3+int(b[2]):], nil
}

// readRule is the rule that the kernel holds, or one that is never wanted.
func readRule(f nftables.TableFamily, have *nftables.Rule) ruleset.Rule {
	unknown := ruleset.Rule{Verdict: ruleset.Unknown}
	r, err := decodeRule(have.UserData)
	if err != nil {
		return unknown
	}
	want, err := expressions(f, r)
	if err != nil || len(want) != len(have.Exprs) {
		return unknown
	}
	for i := range want {
		if !sameExpression(f, want[i], have.Exprs[i]) {
			return unknown
		}
	}
	return r
}
