// Package ruleset is the firewall part of a desired kernel state: chains of
// rules as plain values, in a form that two engines can write (nftables over
// netlink today).
//
// It owns what a rule can say, the order of rules in a chain and when two
// chains are equal. It refuses to know how an engine stores a rule.
package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Key names one chain.
type Key struct {
	IPv6  bool   // the kernel keeps the tables of the two families apart
	Table string // "weft"
	Chain string
}

// String is the chain as `nft list chain` wants it: "ip weft postrouting".
func (k Key) String() string {
	family := "ip"
	if k.IPv6 {
		family = "ip6"
	}
	return family + " " + k.Table + " " + k.Chain
}

// Hook is the place in the packet's way where a base chain stands.
type Hook string

// The hooks that weft uses (netfilter, include/uapi/linux/netfilter.h).
const (
	Prerouting  Hook = "prerouting"
	Forward     Hook = "forward"
	Postrouting Hook = "postrouting"
)

// Chain is a base chain with policy accept. Rules are tried in order.
type Chain struct {
	Type     string // "filter" or "nat"
	Hook     Hook
	Priority int // 0 is filter, 100 is srcnat
	Rules    []Rule
}

// Equal tells whether both chains would treat every packet alike, rule by rule.
func (c Chain) Equal(o Chain) bool {
	return c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority && slices.Equal(c.Rules, o.Rules)
}

// Match compares one address of the packet with a prefix. The zero value
// matches every packet.
type Match struct {
	Prefix netip.Prefix
	Not    bool
}

// Verdict is what happens to a packet that a rule matches.
type Verdict string

// The verdicts. Unknown is never wanted: a reader of the kernel reports it for
// a rule that is not what weft wrote.
const (
	Accept                Verdict = "accept"
	Return                Verdict = "return"
	Drop                  Verdict = "drop"
	Masquerade            Verdict = "masquerade"
	MasqueradeFullyRandom Verdict = "masquerade fully-random"
	Unknown               Verdict = "unknown"
)

// Rule matches a packet that satisfies all of its conditions. It is comparable.
type Rule struct {
	Src, Dst Match
	Mark     uint32 // the packet's mark, under Mask, must be this
	Mask     uint32 // 0: marks don't matter
	Verdict  Verdict
	Comment  string // for the reader of `nft list ruleset`; at most 128 bytes
}

// String is the rule nearly as nft prints it.
func (r Rule) String() string {
	var b strings.Builder
	if r.Mask != 0 {
		fmt.Fprintf(&b, "meta mark & %#x == %#x ", r.Mask, r.Mark)
	}
	r.Src.write(&b, "saddr")
	r.Dst.write(&b, "daddr")
	b.WriteString(string(r.Verdict))
	if r.Comment != "" {
		fmt.Fprintf(&b, " comment %q", r.Comment)
	}
	return b.String()
}

func (m Match) write(b *strings.Builder, field string) {
	if !m.Prefix.IsValid() {
		return
	}
	family := "ip"
	if m.Prefix.Addr().Is6() {
		family = "ip6"
	}
	op := ""
	if m.Not {
		op = "!= "
	}
	fmt.Fprintf(b, "%s %s %s%s ", family, field, op, m.Prefix)
}
