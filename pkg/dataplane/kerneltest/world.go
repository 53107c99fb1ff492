// Package kerneltest is the contract of dataplane.Kernel as tests: the same
// cases run on the kernel in memory and on the real one in a namespace.
//
// It owns what a Kernel must do and what the outside world may do to it. It
// refuses to know how either is done: an implementation brings a World.
package kerneltest

import (
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// World is one fresh network namespace: `lo` is up, IPv6 is on, and there is
// nothing else. Each case asks for a new one and uses it from one goroutine,
// beside a Watch that runs in another.
type World struct {
	Kernel dataplane.Kernel
	// Reopen gives a second Kernel on the same namespace, with no memory of
	// the first: a restarted daemon. The first is not used any more.
	Reopen   func() dataplane.Kernel
	Admin    Admin
	Firewall Firewall
	// Engines are those that the kernel has, nftables among them.
	Engines []ruleset.Engine
	// RoutesStay says that IPv4 routes through our device outlive its last
	// address: in the real kernel those that go by nexthop objects do.
	RoutesStay bool
}

// Admin is somebody else with root and iproute2. Nothing that it writes bears
// weft's mark. A verb that can't be done fails the test (t.Fatal); nothing
// returns before the kernel has the change.
type Admin interface {
	// Put makes what is not there and changes what is, in the order links,
	// addresses, elements, FDB, neighbours, routes, sysctls. Chains are not its matter.
	//
	//   - Link, absent, VNI 0: an ordinary Ethernet interface that has a
	//     carrier (a dummy; where the kernel has none, a veth whose peer is
	//     up and stays out of Dump). MAC zero: the kernel chooses one. Local,
	//     Parent and the rest don't matter.
	//   - Link, absent, VNI set: a VXLAN device with all that Link says.
	//   - Link, present: MTU, MAC (unless zero), Local (of a VXLAN device)
	//     and Up become what Link says, each only if it differs, and so does
	//     TXChecksum, unless it is as is (`ethtool -K`); the rest is not looked at. MTU is in bytes and never 0.
	//   - Addr: added (`ip addr add`, IPv6 with nodad so that it can be used at
	//     once). One that is there is left alone.
	//   - Elem: `nft add element`; its set is there.
	//   - FDB: `bridge fdb replace MAC dev LINK dst ADDR self permanent`.
	//   - Neigh: `ip neigh replace IP lladdr MAC dev LINK nud permanent`.
	//   - Route: `ip route replace`, protocol boot, with the metric of the
	//     key (IPv4 0 means none; IPv6 always has one), in the key's table
	//     (0 is main), with all that Route says but Unmarked.
	//   - Sysctl: written below /proc/sys, in the namespace.
	Put(dataplane.State)
	// Delete removes the entries with these keys, top down: routes,
	// neighbours, FDB, elements, addresses, links. Values don't matter, except that a
	// route is deleted by its key alone whoever wrote it. What is not there
	// fails the test. Chains and sysctls are not its matter.
	Delete(dataplane.State)
	// Rename gives a link another name and keeps whether it is up. (Linux
	// renames interfaces that are up since 6.2; where it does not, the link
	// goes down for that moment, with all that this brings.)
	Rename(from, to string)
	// Dump is everything in the namespace but `lo` and sysctls, ours and
	// foreign, as sorted lines for cmp.Diff: links (name, kind, MTU, MAC,
	// up or not; for VXLAN VNI, port, local and parent), addresses but not
	// IPv6 link-local ones, permanent FDB entries, permanent neighbours,
	// unicast and blackhole routes of table main that the kernel did not make
	// by itself (protocol kernel), elements of nftables sets, and chains with their rules, of every
	// engine. Nothing in it may change by itself: no index, handle, counter,
	// age, lifetime or DAD state. Empty tables are left out, and so are
	// built-in chains of iptables' without rules.
	Dump() string
}

// Firewall is somebody else with nft and iptables; the key says which. A verb
// that can't be done fails the test.
type Firewall interface {
	// InsertRule puts a rule before all others of the chain: one that
	// accepts every packet and says nothing else. Where there is no such
	// table it is made, and where there is no such chain a regular one (with
	// no hook) is made. In iptables the chain may be a built-in one.
	InsertRule(ruleset.Key)
	// DropRule deletes one rule of the chain by its position, 0 being the
	// first, and changes nothing else.
	DropRule(k ruleset.Key, position int)
	// DeleteTable removes the table of the key's family with all of it.
	// The key's Chain does not matter. In iptables built-in chains stay, empty.
	DeleteTable(ruleset.Key)
	// InsertJump puts a rule before all others of the hook's built-in chain of
	// iptables, which sends all packets to the key's chain; an empty comment
	// is none.
	InsertJump(k ruleset.Key, from ruleset.Hook, comment string)
}
