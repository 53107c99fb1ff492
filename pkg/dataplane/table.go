package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/offload"
)

// Kind is a kind of kernel entry. Its order is the order of creation: an entry
// needs only entries of lower kinds.
type Kind int

// The kinds, bottom up.
const (
	KindSysctl Kind = iota
	KindLink
	KindAddr
	KindElem
	KindFDB
	KindNeigh
	KindRoute
	KindChain
)

// String is the word that iproute2 or nft has for the kind.
func (k Kind) String() string {
	return [...]string{"sysctl", "link", "address", "element", "fdb", "neigh", "route", "chain"}[k]
}

// table is one kind of entry for every generic function of this package. A new
// kind is one field of State and one table.
type table[K comparable, V any] struct {
	kind  Kind
	of    func(*State) *map[K]V
	equal func(have, want V) bool
	less  func(a, b K) int         // for a deterministic order
	link  func(K, V) string        // the link that the entry dies with; "" for none
	text  func(K, V) string        // as an operator would type it
	keep  bool                     // never deleted
	flush func(old, new Link) bool // does this change of its link flush the entry?
	// adopts tells whether something foreign may be taken for the wanted
	// entry; nil: never.
	adopts func(there, want V) bool
}

func equal[V comparable](a, b V) bool { return a == b }

// recreated tells whether a change is one of identity, which the kernel has no
// way to make in place.
func recreated(old, new Link) bool {
	return old.VNI != new.VNI || old.Port != new.Port || old.Local.Is6() != new.Local.Is6()
}

var sysctls = &table[string, string]{
	kind: KindSysctl, keep: true,
	of:    func(s *State) *map[string]string { return &s.Sysctls },
	equal: equal[string],
	less:  cmp.Compare[string],
	text:  func(k, v string) string { return k + " = " + v },
}

var links = &table[string, Link]{
	kind: KindLink,
	of:   func(s *State) *map[string]Link { return &s.Links },
	equal: func(have, want Link) bool {
		want.GBP = have.GBP // can't change in place: an adopted device keeps its own
		if want.TXChecksum.Suits(have.TXChecksum) {
			want.TXChecksum = have.TXChecksum
		}
		return have == want
	},
	less: cmp.Compare[string],
	text: linkText,
}

var addrs = &table[AddrKey, struct{}]{
	kind:  KindAddr,
	of:    func(s *State) *map[AddrKey]struct{} { return &s.Addrs },
	equal: equal[struct{}],
	less: func(a, b AddrKey) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), comparePrefix(a.Prefix, b.Prefix))
	},
	link:  func(k AddrKey, _ struct{}) string { return k.Link },
	text:  func(k AddrKey, _ struct{}) string { return k.String() },
	flush: recreated,
}

// elems are let in before anything leads to them, and shut out when nothing does.
var elems = &table[ruleset.Elem, struct{}]{
	kind:  KindElem,
	of:    func(s *State) *map[ruleset.Elem]struct{} { return &s.Elems },
	equal: equal[struct{}],
	less: func(a, b ruleset.Elem) int {
		return cmp.Or(cmp.Compare(a.Set.Table, b.Set.Table), a.VTEP.Compare(b.VTEP),
			cmp.Compare(b.Set.Bits, a.Set.Bits), a.Inner.Compare(b.Inner))
	},
	text: func(k ruleset.Elem, _ struct{}) string { return k.String() },
}

var fdb = &table[FDBKey, netip.Addr]{
	kind:  KindFDB,
	of:    func(s *State) *map[FDBKey]netip.Addr { return &s.FDB },
	equal: equal[netip.Addr],
	less: func(a, b FDBKey) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), cmp.Compare(string(a.MAC[:]), string(b.MAC[:])))
	},
	link: func(k FDBKey, _ netip.Addr) string { return k.Link },
	text: func(k FDBKey, v netip.Addr) string {
		return fmt.Sprintf("%s dst %s self permanent", k, v)
	},
	flush: recreated,
}

var neighs = &table[NeighKey, mac.Addr]{
	kind:  KindNeigh,
	of:    func(s *State) *map[NeighKey]mac.Addr { return &s.Neighs },
	equal: equal[mac.Addr],
	less:  func(a, b NeighKey) int { return cmp.Or(cmp.Compare(a.Link, b.Link), a.IP.Compare(b.IP)) },
	link:  func(k NeighKey, _ mac.Addr) string { return k.Link },
	text: func(k NeighKey, v mac.Addr) string {
		return fmt.Sprintf("%s lladdr %s dev %s nud permanent", k.IP, v, k.Link)
	},
	// A MAC change of a VXLAN link flushes its static neighbours (kernel fact).
	flush: func(old, new Link) bool { return recreated(old, new) || old.MAC != new.MAC },
}

var routes = &table[RouteKey, Route]{
	kind:  KindRoute,
	of:    func(s *State) *map[RouteKey]Route { return &s.Routes },
	equal: equal[Route],
	less: func(a, b RouteKey) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), comparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.Metric, b.Metric))
	},
	link:   func(_ RouteKey, v Route) string { return v.Link },
	text:   routeText,
	flush:  recreated,
	adopts: Route.LeftFor,
}

var chains = &table[ruleset.Key, ruleset.Chain]{
	kind:  KindChain,
	of:    func(s *State) *map[ruleset.Key]ruleset.Chain { return &s.Chains },
	equal: func(have, want ruleset.Chain) bool { return have.Equal(want) },
	less:  func(a, b ruleset.Key) int { return cmp.Compare(a.String(), b.String()) },
	text: func(k ruleset.Key, v ruleset.Chain) string {
		return fmt.Sprintf("%s (%s)", k, v)
	},
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func linkText(name string, l Link) string {
	s := fmt.Sprintf("%s mtu %d", name, l.MTU)
	if !l.MAC.IsZero() {
		s += " address " + l.MAC.String()
	}
	if l.Up {
		s += " up"
	}
	if l.TXChecksum == offload.Off {
		s += " tx-checksum off"
	}
	s += vxlanText(l)
	if l.Actual != "" {
		s += " (now named " + l.Actual + ")"
	}
	return s
}

// vxlanText leaves out what a foreign link may not have; without a port it is
// no VXLAN device at all.
func vxlanText(l Link) string {
	if l.Port == 0 {
		return " (not a vxlan device)"
	}
	s := fmt.Sprintf(" vxlan id %d", l.VNI)
	if l.Local.IsValid() {
		s += " local " + l.Local.String()
	}
	if l.Parent != "" {
		s += " dev " + l.Parent
	}
	s += fmt.Sprintf(" dstport %d", l.Port)
	if l.Learning {
		s += " learning"
	}
	if l.GBP {
		s += " gbp"
	}
	return s
}

func routeText(k RouteKey, v Route) string {
	s := k.Prefix.String()
	if v.Blackhole {
		s = "blackhole " + s
	}
	if v.Via.IsValid() {
		s += " via " + v.Via.String()
	}
	if v.Link != "" {
		s += " dev " + v.Link
	}
	if v.Src.IsValid() {
		s += " src " + v.Src.String()
	}
	if k.Metric != 0 {
		s += fmt.Sprintf(" metric %d", k.Metric)
	}
	if k.Table != 0 {
		s += fmt.Sprintf(" table %d", k.Table)
	}
	if v.OnLink {
		s += " onlink"
	}
	if v.Unmarked {
		s += " (not marked)"
	}
	return s
}
