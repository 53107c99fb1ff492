// Package ruleset is the firewall part of a desired kernel state: chains of
// rules as plain values, in a form that every engine can write.
//
//	nftables           a base chain in a table of our own
//	iptables-nft       a chain in a table of iptables' (nat, filter) that a rule
//	iptables-legacy    in a built-in chain (POSTROUTING, FORWARD) jumps to
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

// Engine is a set of tables that the kernel keeps apart from all others. The
// two of iptables have the same names in them: what one accepts, another may
// drop.
type Engine string

// The engines. nftables is the zero value.
const (
	NFTables       Engine = ""
	IPTablesNFT    Engine = "iptables-nft"    // iptables' tables inside of nf_tables
	IPTablesLegacy Engine = "iptables-legacy" // the older tables of x_tables
)

// String is the engine's name.
func (e Engine) String() string {
	if e == NFTables {
		return "nftables"
	}
	return string(e)
}

// Facts is what the choice of an engine needs to know about the host.
type Facts struct {
	// Programs are the engines of iptables that a program is installed for;
	// the first is the one that `iptables` itself is.
	Programs []Engine
	// RandomFully tells whether those programs know --random-fully (1.6.2).
	RandomFully bool
	// Drops are iptables' built-in FORWARD chains with policy drop: in them no
	// accept of another engine counts.
	Drops      []Key
	NoNFTables bool // the kernel has no nf_tables
	// Stateful are chains of others that packets to and from the host itself pass
	// and that drop by their policy, or look at what conntrack says of a packet:
	// clauses such as "inet firewalld filter_INPUT looks at the connection state".
	// Those of kube-proxy don't count, for they drop nothing of a tunnel's.
	Stateful []string
}

// Key names one chain.
type Key struct {
	Engine Engine
	IPv6   bool   // the kernel keeps the tables of the two families apart
	Table  string // "weft"; "nat" or "filter" for iptables
	Chain  string
}

// String is the chain as `nft list chain` wants it ("ip weft postrouting"), or
// with the program that lists it ("ip6tables-legacy nat FLANNEL-POSTRTG").
func (k Key) String() string { return k.Program() + " " + k.Table + " " + k.Chain }

// Program is the family's program of iptables ("ip6tables-nft"); nftables has
// one for all, there it is the family's name ("ip6").
func (k Key) Program() string {
	switch {
	case k.Engine == NFTables && k.IPv6:
		return "ip6"
	case k.Engine == NFTables:
		return "ip"
	case k.IPv6:
		return "ip6" + strings.TrimPrefix(string(k.Engine), "ip")
	}
	return string(k.Engine)
}

// Hook is the place in the packet's way where a base chain stands.
type Hook string

// The hooks that weft uses (netfilter, include/uapi/linux/netfilter.h).
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
)

// Chain is where the hook's packets go. Rules are tried in order; what none of
// them matches is left to others.
//
// In nftables it is a base chain with policy accept. In iptables it is one that
// exactly one rule of the hook's built-in chain jumps to, for all packets; where
// among the rules there, is the administrator's business. Type and Priority are
// those of the table then, and not given.
type Chain struct {
	Type     string // nftables: "filter" or "nat"
	Hook     Hook   // in a have, empty where the jump is missing or not as it should be
	Priority int    // nftables: 0 is filter, 100 is srcnat
	Jump     string // iptables: the comment of the rule that jumps here
	Rules    []Rule
}

// Equal tells whether both chains would treat every packet alike, rule by rule.
func (c Chain) Equal(o Chain) bool {
	return c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority && c.Jump == o.Jump &&
		slices.Equal(c.Rules, o.Rules)
}

// SpeaksOf tells whether the chain is about some of the networks and, apart from
// multicast, about nothing else.
func (c Chain) SpeaksOf(networks []netip.Prefix) bool {
	ours := 0
	for _, r := range c.Rules {
		if r.Verdict == Unknown {
			return false
		}
		for _, p := range []netip.Prefix{r.Src.Prefix, r.Dst.Prefix} {
			switch {
			case slices.ContainsFunc(networks, p.Overlaps):
				ours++
			case p.IsValid() && !p.Addr().IsMulticast():
				return false
			}
		}
	}
	return ours > 0
}

// String is "nat postrouting 100, 6 rules" or "jump from postrouting, 6 rules".
func (c Chain) String() string {
	where := fmt.Sprintf("%s %s %d", c.Type, c.Hook, c.Priority)
	if c.Type == "" {
		where = "jump from " + string(c.Hook)
		if c.Hook == "" {
			where = "not hooked in"
		}
	}
	return fmt.Sprintf("%s, %d rules", where, len(c.Rules))
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
	DropCounted           Verdict = "counter drop"   // how many there were is in Observed.Dropped
	Untrack               Verdict = "notrack return" // conntrack leaves the packet alone
	Masquerade            Verdict = "masquerade"
	MasqueradeFullyRandom Verdict = "masquerade fully-random"
	Unknown               Verdict = "unknown"
)

// Rule matches a packet that satisfies all of its conditions. It is comparable.
type Rule struct {
	Tunnel   Tunnel // nftables only
	Src, Dst Match
	Mark     uint32 // the packet's mark, under Mask, must be this
	Mask     uint32 // 0: marks don't matter
	Verdict  Verdict
	Comment  string // for the reader of `nft list ruleset`; at most 128 bytes
}

// String is the rule nearly as nft prints it.
func (r Rule) String() string {
	var b strings.Builder
	r.Tunnel.write(&b)
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
