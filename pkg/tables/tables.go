// Package tables is what one network namespace of a kernel holds, as plain
// values: links, addresses, policies, routes, neighbours, forwarding entries and
// firewall chains, whoever made them.
//
//	kernel ──(pkg/dataplane/linux/tables)──→ Space ──→ trace, doctor
//
// Where pkg/dataplane says what weft wants, this says all that decides what
// becomes of a packet. It owns the look-ups that the kernel does in these tables.
// It refuses to know which entries are weft's.
package tables

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

// Space is one namespace.
type Space struct {
	Links    []Link
	Addrs    []Addr
	Policies []Policy // in the order of their priorities
	Routes   []Route
	Neighs   []Neigh
	FDB      []Forward
	Firewall firewall.Ruleset
	Sysctls  map[string]string // "net/ipv4/ip_forward" → "1"; those that were asked for
	Unread   []string          // what could not be read, and why
}

// Link is a network interface.
type Link struct {
	Index   int
	Name    string
	Kind    string // "vxlan", "veth", "bridge"; empty for real hardware
	MAC     mac.Addr
	MTU     int
	Up      bool
	Carrier bool // the other end is there
	Master  int  // the bridge that it is a port of
	Peer    int  // of a veth: the index of its other end, in that end's namespace
	VXLAN   *VXLAN
	Rx, Tx  uint64 // packets
}

// VXLAN is what a VXLAN device is besides.
type VXLAN struct {
	VNI, Port int
	Local     netip.Addr
	Parent    int
	External  bool // takes every VNI of its port, and leaves it to routes
}

// Addr is an address on a link.
type Addr struct {
	Link   int
	Prefix netip.Prefix
}

// Policy is one of `ip rule`.
type Policy struct {
	IPv6     bool
	Priority int
	Src, Dst netip.Prefix // invalid: any
	In       string       // arriving interface; "" is any
	Mark     uint32
	Mask     uint32 // 0: any mark
	Not      bool
	Table    int
	Refuses  string // "blackhole", "unreachable", "prohibit"
	Odd      string // what it says besides, which can't be judged
}

// Route is an entry of a routing table.
type Route struct {
	Table    int // 254 is main
	Prefix   netip.Prefix
	Metric   int
	Via      netip.Addr
	Link     int
	Src      netip.Addr
	Protocol int
	Type     string // "unicast", "local", "broadcast", "blackhole", …
	OnLink   bool
	Nexthop  uint32 // the object that it goes by; 0 is none
	Hops     int    // of a multipath route, more than one; Via and Link are the first's
	MTU      int    // of its own; 0 is the link's
}

// Neigh is an entry of a neighbour table.
type Neigh struct {
	Link  int
	IP    netip.Addr
	MAC   mac.Addr
	State string // "permanent", "reachable", "stale", "failed", …
}

// Forward is an entry of a bridge's or of a VXLAN device's forwarding table.
type Forward struct {
	Link int // of a bridge's entry: the port
	MAC  mac.Addr
	Dst  netip.Addr // of a VXLAN device's
}

// Main is the number of the main routing table.
const Main = 254

// Link gives the link of an index.
func (s Space) Link(index int) (Link, bool) {
	for _, l := range s.Links {
		if l.Index == index {
			return l, true
		}
	}
	return Link{}, false
}

// Named gives the link of a name.
func (s Space) Named(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Name is that of the link, or its number where there is none.
func (s Space) Name(index int) string {
	if l, ok := s.Link(index); ok {
		return l.Name
	}
	return fmt.Sprintf("link %d", index)
}

// Owner gives the link that has the address.
func (s Space) Owner(ip netip.Addr) (Link, bool) {
	for _, a := range s.Addrs {
		if a.Prefix.Addr() == ip {
			return s.Link(a.Link)
		}
	}
	return Link{}, false
}

// AddrsOn lists the addresses of a link.
func (s Space) AddrsOn(index int) (out []netip.Prefix) {
	for _, a := range s.Addrs {
		if a.Link == index {
			out = append(out, a.Prefix)
		}
	}
	return out
}

// Neigh gives the neighbour of an address on a link.
func (s Space) Neigh(link int, ip netip.Addr) (Neigh, bool) {
	for _, n := range s.Neighs {
		if n.Link == link && n.IP == ip {
			return n, true
		}
	}
	return Neigh{}, false
}

// Forward gives the entry of a VXLAN device.
func (s Space) Forward(link int, m mac.Addr) (Forward, bool) {
	for _, f := range s.FDB {
		if f.Link == link && f.MAC == m {
			return f, true
		}
	}
	return Forward{}, false
}

// PortOf gives the port of a bridge that leads to a MAC.
func (s Space) PortOf(bridge int, m mac.Addr) (Link, bool) {
	for _, f := range s.FDB {
		port, ok := s.Link(f.Link)
		if ok && f.MAC == m && port.Master == bridge {
			return port, true
		}
	}
	return Link{}, false
}
