package tables

import (
	"fmt"
	"net/netip"
	"strings"
)

// Ask is a packet that looks for its way.
type Ask struct {
	Src, Dst netip.Addr // Src invalid: none chosen yet
	In       string     // arriving interface; "" for what this host sends itself
	Mark     uint32
}

// Found is the answer of the routing tables.
type Found struct {
	Route  Route
	Policy Policy   // by which the table was looked at
	Odd    []string // policies passed over that can't be judged
}

// Lookup goes through policies and tables as the kernel does (fib_rules_lookup,
// fib_table_lookup): longest prefix, then lowest metric. ok is false where
// nothing leads there; a policy or route that refuses is found.
func (s Space) Lookup(q Ask) (f Found, ok bool) {
	for _, p := range s.Policies {
		if p.IPv6 != q.Dst.Is6() {
			continue
		}
		if !p.takes(q) {
			continue
		}
		if p.Odd != "" {
			f.Odd = append(f.Odd, p.String())
			continue
		}
		if p.Refuses != "" {
			f.Policy, f.Route = p, Route{Type: p.Refuses, Prefix: p.Dst}
			return f, true
		}
		if r, hit := s.best(p.Table, q.Dst); hit {
			f.Policy, f.Route = p, r
			return f, true
		}
	}
	return f, false
}

func (p Policy) takes(q Ask) bool {
	yes := (!p.Src.IsValid() || q.Src.IsValid() && p.Src.Contains(q.Src)) &&
		(!p.Dst.IsValid() || p.Dst.Contains(q.Dst)) &&
		(p.In == "" || p.In == q.In || p.In == "lo" && q.In == "") && // what is sent here comes from lo
		(p.Mask == 0 || q.Mark&p.Mask == p.Mark)
	return yes != p.Not
}

// best is the route of a table for an address; one of the type throw sends the packet on
// to the next table (ip-route(8)).
func (s Space) best(table int, dst netip.Addr) (best Route, ok bool) {
	for _, r := range s.Routes {
		if r.Table != table || !r.Prefix.Contains(dst) {
			continue
		}
		if !ok || r.Prefix.Bits() > best.Prefix.Bits() ||
			r.Prefix.Bits() == best.Prefix.Bits() && r.Metric < best.Metric {
			best, ok = r, true
		}
	}
	return best, ok && best.Type != "throw"
}

// Source is the address that the kernel would send from by this route.
func (s Space) Source(r Route, dst netip.Addr) netip.Addr {
	if r.Src.IsValid() {
		return r.Src
	}
	for _, a := range s.AddrsOn(r.Link) {
		if a.Addr().BitLen() == dst.BitLen() && !a.Addr().IsLinkLocalUnicast() {
			return a.Addr()
		}
	}
	for _, a := range s.Addrs {
		if a.Prefix.Addr().BitLen() == dst.BitLen() && !a.Prefix.Addr().IsLoopback() &&
			!a.Prefix.Addr().IsLinkLocalUnicast() {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// Refuses tells whether the route lets nothing pass.
func (r Route) Refuses() bool {
	return r.Type == "blackhole" || r.Type == "unreachable" || r.Type == "prohibit"
}

// Text is the route nearly as `ip route` prints it.
func (s Space) Text(r Route) string {
	var b strings.Builder
	if r.Type != "unicast" {
		b.WriteString(r.Type + " ")
	}
	if r.Prefix.IsValid() && r.Prefix.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.Prefix.String())
	}
	if r.Nexthop != 0 {
		fmt.Fprintf(&b, " nhid %d", r.Nexthop)
	}
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Link != 0 {
		fmt.Fprintf(&b, " dev %s", s.Name(r.Link))
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Protocol > 4 { // what has a name of its own says nothing to the reader
		fmt.Fprintf(&b, " proto %d", r.Protocol)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Table != Main && r.Table != localTable && r.Table != 0 {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	return b.String()
}

const localTable = 255

// String is the policy nearly as `ip rule` prints it.
func (p Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", p.Priority)
	if p.Not {
		b.WriteString(" not")
	}
	if p.Src.IsValid() {
		fmt.Fprintf(&b, " from %s", p.Src)
	} else {
		b.WriteString(" from all")
	}
	if p.Dst.IsValid() {
		fmt.Fprintf(&b, " to %s", p.Dst)
	}
	if p.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", p.Mark, p.Mask)
	}
	if p.In != "" {
		fmt.Fprintf(&b, " iif %s", p.In)
	}
	if p.Odd != "" {
		b.WriteString(" " + p.Odd)
	}
	if p.Refuses != "" {
		b.WriteString(" " + p.Refuses)
	} else {
		fmt.Fprintf(&b, " lookup %d", p.Table)
	}
	return b.String()
}

// Asks tells whether packets over the link need a neighbour's MAC.
func (l Link) Asks() bool { return !l.MAC.IsZero() }
