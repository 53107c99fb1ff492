// Package dataplane is the pure heart of weft: what the kernel shall hold, as
// values, and the plan that leads there from what it holds now.
//
//	want (layers of fragments) ─┐
//	                            ├─ Diff ─→ Plan ─→ Kernel.Apply
//	have (Kernel.Observe) ──────┘                        │
//	          ▲──────────────── read back ───────────────┘
//
// It owns State, Scope, Diff, Plan and the Kernel contract. It refuses I/O,
// clocks, randomness and logs; those who touch a kernel live below it in
// linux and fake, and the one loop that drives them in reconcile.
package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/offload"
)

// State is a set of kernel entries, each map keyed as the kernel keys it. A nil
// map is an empty one. As a want it is complete within its Scope; as a have it
// holds only what weft owns.
type State struct {
	Links   map[string]Link
	Addrs   map[AddrKey]struct{}
	Elems   map[ruleset.Elem]struct{}
	FDB     map[FDBKey]netip.Addr // → underlay address of the VTEP
	Neighs  map[NeighKey]mac.Addr
	Routes  map[RouteKey]Route
	Chains  map[ruleset.Key]ruleset.Chain
	Sysctls map[string]string // "net/ipv4/ip_forward" → "1"; set, never reverted
}

// Link is a VXLAN device (RFC 7348). Its identity in the kernel is (kind, VNI,
// Port, family of Local): the kernel refuses a second such device in the
// namespace whatever its name, and a user may have renamed it.
type Link struct {
	VNI      int
	Port     int        // UDP destination port; 8472 is the kernel's default
	Local    netip.Addr // outer source address
	Parent   string     // underlay interface
	MAC      mac.Addr
	MTU      int // bytes of inner IP packet
	Up       bool
	Learning bool // let the device learn FDB entries from what it receives
	GBP      bool // group policy extension: only at creation, an existing device keeps its own
	// TXChecksum is whether the checksums of what it carries are left to the
	// network card (ethtool's tx-checksum-ip-generic). A have says Off or
	// nothing: on is what the kernel gives a new device.
	TXChecksum offload.Setting
	// Actual is the name that the kernel has for it, where it is not the
	// wanted one. Only in a have.
	Actual string
}

// AddrKey is an address on a link, with the prefix length as set.
type AddrKey struct {
	Link   string
	Prefix netip.Prefix
}

// String is "10.42.1.0/32 dev flannel.1".
func (k AddrKey) String() string { return k.Prefix.String() + " dev " + k.Link }

// FDBKey is an entry of a VXLAN device's forwarding table.
type FDBKey struct {
	Link string
	MAC  mac.Addr
}

// String is "2e:13:b9:65:3e:03 dev flannel.1".
func (k FDBKey) String() string { return k.MAC.String() + " dev " + k.Link }

// NeighKey is a permanent neighbour (ARP or NDP) entry.
type NeighKey struct {
	Link string
	IP   netip.Addr
}

// String is "10.42.1.0 dev flannel.1".
func (k NeighKey) String() string { return k.IP.String() + " dev " + k.Link }

// RouteKey tells routes apart as the kernel does: one prefix may stand once per
// metric. IPv6 routes get metric 1024 unless given (kernel fact), so wants
// carry it explicitly. Table 0 stands for main (RT_TABLE_MAIN, 254).
type RouteKey struct {
	Prefix netip.Prefix
	Metric int
	Table  int
}

// String is "10.42.1.0/24", with metric and table where they are not 0.
func (k RouteKey) String() string {
	s := k.Prefix.String()
	if k.Metric != 0 {
		s += fmt.Sprintf(" metric %d", k.Metric)
	}
	if k.Table != 0 {
		s += fmt.Sprintf(" table %d", k.Table)
	}
	return s
}

// Route is where a prefix leads. It is unicast with global scope.
type Route struct {
	Via    netip.Addr // invalid: directly connected
	Link   string
	OnLink bool       // the gateway needs no route of its own
	Src    netip.Addr // preferred source; invalid: the kernel chooses
	// Blackhole drops what has no longer prefix and no better metric to go
	// by; the fields above are zero then. (IPv6 says `dev lo`: not here.)
	Blackhole bool
	// Unmarked is true only in what was observed: the entry is as flannel
	// leaves it, with no route protocol of its own. Adopting it is one
	// replacing write.
	Unmarked bool
	// Usurps is true only in what is occupied: the entry stands where this
	// Kernel has seen one of ours before, which weft did not delete.
	Usurps bool
}

// LeftFor tells whether an observed foreign route gives way to the wanted one:
// it is the same in all but weft's mark (such a route is adopted, whoever wrote
// it; flannel's DirectRouting leaves some), or it took the place of ours, which
// is drift.
func (r Route) LeftFor(want Route) bool {
	want.Unmarked = true
	return r == want || r.Usurps
}

// Domain is weft's territory on a host: what makes an entry ours besides its
// mark. Observe needs it to recognise what is there under another name and
// what somebody else left for us.
type Domain struct {
	Links    map[string]Link // wanted name → its identity (VNI, Port, family of Local)
	Networks []netip.Prefix  // the cluster's; marked routes inside them are ours
	Uplink   string          // foreign interface that routes of ours may lead through
	Tables   []string        // nftables table names, in both families
	Chains   []ruleset.Key   // iptables chains that are ours by their names
	// Leftovers are iptables chains that are ours if their rules speak of
	// Networks: flannel has one name for all.
	Leftovers []ruleset.Key
}

// Observed is what the kernel says about a Scope.
type Observed struct {
	Have State // ours
	// Occupied is what stands, foreign, on the scope's keys. It may be
	// incomplete after a full observation (a foreign route is found when its
	// exclusive creation fails, never by dumping foreign tables).
	Occupied State
	// Absent are links of the Domain that are missing or down, other than
	// those that the scope names. What stands on them went along or can't be
	// written: who finds entries of theirs gone should look at the link first.
	Absent map[string]bool
	// Mark stands for all that Have holds of the tables that grow with the number
	// of peers (elements, FDB, neighbours, routes) after a full observation, and changes with
	// any of it but for one time in 2^64. 0: there is none.
	Mark uint64
	// Same says that these tables are as when the scope's Unless was given. Have
	// leaves them out then, and is complete in all else.
	Same bool
	// Dropped counts, for each chain of Have with rules that count, the packets
	// that they dropped since the chain was written last.
	Dropped map[ruleset.Key]uint64
}

// Iface is one network interface of the host, as a fact.
type Iface struct {
	Index int
	MTU   int
	MAC   mac.Addr
	Up    bool
	Addrs []netip.Prefix // best first: global before link-local, permanent before dynamic, no deprecated ones
	VXLAN *Link          // set for a VXLAN device: VNI, Port, Local
}

// Facts is what a decision needs to know about the host.
type Facts struct {
	Ifaces   map[string]Iface
	Defaults map[RouteKey]Route // default routes of the main table
	// Paths are those to the addresses that were asked for: how the host itself
	// would send a packet there, by all of its tables and rules, with the
	// source that it would choose. The gateway may be of the other family. An
	// address that there is no way to is not in it.
	Paths map[netip.Addr]Route
	// PathMTU are the MTUs that routes on these paths say, in bytes, where they say
	// one: not what was learned by chance, which the kernel forgets.
	PathMTU  map[netip.Addr]int
	Firewall ruleset.Facts
}
