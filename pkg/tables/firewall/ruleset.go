// Package firewall says what rules do with a packet: those of nf_tables, and of
// iptables as nf_tables keeps them.
//
// A rule is a list of conditions and what it does then. A condition compares
// fields of the packet with values in the form in which the kernel keeps them,
// bytes; what a reader of the kernel did not understand is kept as such, and a
// rule with it is never taken to match: it is named in the result instead.
//
// It owns the walk through chains. It refuses to guess.
package firewall

import (
	"net/netip"
	"slices"
)

// Ruleset is all chains of a namespace, of both families, and their sets.
type Ruleset struct {
	Chains []Chain
	Sets   map[SetKey]Set
}

// Chain is a chain of a table.
type Chain struct {
	Family   string // "ip", "ip6" or "inet"
	Table    string
	Name     string
	Hook     Hook // "" for one that is only jumped to
	Type     string
	Priority int
	Drops    bool // its policy
	Rules    []Rule
}

// Hook is where a base chain stands.
type Hook string

// The hooks of the network layer.
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
)

// String is "ip weft forward".
func (c Chain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// Rule does what it does to packets that meet all conditions.
type Rule struct {
	Handle  uint64
	Comment string
	Conds   []Cond
	Unread  []string // parts that can't be read
	Acts    []Act
}

// Cond compares fields of a packet, laid one behind the other as in the
// kernel's registers, with values.
type Cond struct {
	Fields []Field
	Mask   []byte // laid over the fields first; nil is none
	Not    bool
	Values []Range
	Set    string // the values are this set's, instead
	Chance bool   // true for some packets only: the statistic match
}

// Range is a closed interval of values; a shorter one is a prefix (of a name).
type Range struct{ From, To []byte }

// SetKey names a set of a table.
type SetKey struct{ Family, Table, Name string }

// Set is a set or map.
type Set struct{ Elems []Elem }

// Elem is an element. Act is that of a verdict map, Data that of another map.
type Elem struct {
	Key  Range
	Act  *Act
	Data []byte
}

// Kind is what a rule does.
type Kind string

// The kinds. VMap does what the element that it finds says.
const (
	Accept     Kind = "accept"
	Drop       Kind = "drop"
	Reject     Kind = "reject"
	Return     Kind = "return"
	Jump       Kind = "jump"
	Goto       Kind = "goto"
	DNAT       Kind = "dnat"
	SNAT       Kind = "snat"
	Masquerade Kind = "masquerade"
	Mark       Kind = "mark"
	VMap       Kind = "vmap"
	Other      Kind = "other" // counts, logs and the like: changes nothing
)

// Act is one thing that a rule does.
type Act struct {
	Kind  Kind
	Chain string     // Jump, Goto
	Addr  netip.Addr // DNAT, SNAT; invalid: kept
	Port  uint16     // 0: kept
	Mark  uint32     // mark = mark & ^Mask ^ Mark
	Mask  uint32
	// Fields are looked up in Set: of VMap, or of a DNAT that a map says.
	Fields []Field
	Set    string
	Random bool // VMap by a random number: every element is possible
}

// base lists the chains of a hook and family, as the kernel visits them.
func (r Ruleset) base(h Hook, ipv6 bool) (out []Chain) {
	for _, c := range r.Chains {
		if c.Hook == h && c.of(ipv6) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Chain) int { return a.Priority - b.Priority })
	return out
}

func (c Chain) of(ipv6 bool) bool {
	return c.Family == "inet" || (c.Family == "ip6") == ipv6
}

// Without leaves out the chains of the tables that f names.
func (r Ruleset) Without(f func(table string) bool) Ruleset {
	r.Chains = slices.DeleteFunc(slices.Clone(r.Chains), func(c Chain) bool { return f(c.Table) })
	return r
}

// Has tells whether there is a table of that name.
func (r Ruleset) Has(table string) bool {
	return slices.ContainsFunc(r.Chains, func(c Chain) bool { return c.Table == table })
}

// HasChain tells whether there is a chain of that name in any table.
func (r Ruleset) HasChain(name string) bool {
	return slices.ContainsFunc(r.Chains, func(c Chain) bool { return c.Name == name })
}

func (r Ruleset) chain(of Chain, name string) (Chain, bool) {
	for _, c := range r.Chains {
		if c.Family == of.Family && c.Table == of.Table && c.Name == name {
			return c, true
		}
	}
	return Chain{}, false
}
