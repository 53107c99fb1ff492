// Package tunnel decides which packets of the tunnel a host takes in, and which of
// them conntrack looks at.
//
//	        ┌─ prerouting ── from a VTEP: untracked; from others to a VTEP, and from pods: dropped
//	packet ─┤
//	        └─ input ─────── by what is inside: its source is of the sender's subnet,
//	                         or none of the cluster's; all else is dropped
//
// It owns the meaning and the order of these rules, and which elements of sets a
// peer has: the rules are as many for ten thousand peers as for one. It refuses to
// know how the kernel stores them.
package tunnel

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Filter says whose packets are taken in.
type Filter string

// The filters.
const (
	Strict   Filter = "strict"    // of known VTEPs, with a source that is theirs
	VTEPOnly Filter = "vtep-only" // of known VTEPs
	Off      Filter = "off"       // everyone's
)

// Known tells whether there is such a filter.
func (f Filter) Known() bool { return slices.Contains([]Filter{Strict, VTEPOnly, Off}, f) }

// Options say what is wanted.
type Options struct {
	Table   string // of nftables; ours
	Devices []Device
	Filter  Filter
	Untrack bool // conntrack leaves packets between VTEPs alone
}

// Device is one family's end of the tunnel.
type Device struct {
	Port, VNI int
	Local     netip.Addr   // our own outer address
	Network   netip.Prefix // the cluster's, of the same family
	Lengths   []int        // of the subnets that peers have, those in use
}

const (
	// priority is before all that looks at connections: NF_IP_PRI_RAW less 10.
	priority = -310

	prerouting = "tunnel-prerouting"
	input      = "tunnel-input"
	output     = "tunnel-output"
)

// DevicesOf gives the ends that a backend's devices are, those of a network's family.
func DevicesOf(links map[string]dataplane.Link, networks []netip.Prefix) (out []Device) {
	for _, network := range networks {
		for _, l := range links {
			if l.Port != 0 && l.Local.BitLen() == network.Addr().BitLen() {
				out = append(out, Device{Port: l.Port, VNI: l.VNI, Local: l.Local, Network: network})
			}
		}
	}
	return out
}

// Learn notes that a peer has a subnet of that length.
func (d *Device) Learn(bits int) {
	if at, known := slices.BinarySearch(d.Lengths, bits); !known {
		d.Lengths = slices.Insert(d.Lengths, at, bits)
	}
}

// Equal tells whether both want the same.
func (o Options) Equal(other Options) bool {
	same := func(a, b Device) bool {
		return a.Port == b.Port && a.VNI == b.VNI && a.Local == b.Local && a.Network == b.Network &&
			slices.Equal(a.Lengths, b.Lengths)
	}
	return o.Table == other.Table && o.Filter == other.Filter && o.Untrack == other.Untrack &&
		slices.EqualFunc(o.Devices, other.Devices, same)
}

// Elems are those of a peer that has the subnet and sends from the address.
func (d Device) Elems(table string, f Filter, public netip.Addr, subnet netip.Prefix) iter.Seq[ruleset.Elem] {
	return func(yield func(ruleset.Elem) bool) {
		if public.BitLen() != d.Local.BitLen() || subnet.Addr().BitLen() != d.Local.BitLen() {
			return
		}
		all := ruleset.Set{IPv6: d.Local.Is6(), Bits: d.Local.BitLen(), Table: table}
		if !yield(ruleset.Elem{Set: all, VTEP: public, Inner: public}) || f != Strict {
			return
		}
		inner := all
		inner.Bits = subnet.Bits()
		yield(ruleset.Elem{Set: inner, VTEP: public, Inner: subnet.Masked().Addr()})
	}
}

// Chains gives the wanted chains.
func Chains(o Options) map[ruleset.Key]ruleset.Chain {
	out := map[ruleset.Key]ruleset.Chain{}
	for _, d := range o.Devices {
		put := func(name string, hook ruleset.Hook, rules []ruleset.Rule) {
			key := ruleset.Key{IPv6: d.Local.Is6(), Table: o.Table, Chain: name}
			out[key] = ruleset.Chain{Type: "filter", Hook: hook, Priority: priority, Rules: rules}
		}
		if o.Filter != Off || o.Untrack {
			put(prerouting, ruleset.Prerouting, d.prerouting(o))
		}
		if o.Untrack {
			put(output, ruleset.Output, []ruleset.Rule{{
				Tunnel: d.packet(ruleset.Tunnel{VNI: d.VNI, Pair: ruleset.To}), Verdict: ruleset.Untrack,
				Comment: "to other nodes: not tracked",
			}})
		}
		switch o.Filter {
		case Strict:
			put(input, ruleset.Input, d.strict())
		case VTEPOnly:
			put(input, ruleset.Input, d.vtepOnly())
		}
	}
	return out
}

// Counting are the chains that count what they drop.
func Counting(o Options) (keys []ruleset.Key) {
	for key, c := range Chains(o) {
		if slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return r.Verdict == ruleset.DropCounted }) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (d Device) packet(t ruleset.Tunnel) ruleset.Tunnel {
	t.Port = d.Port
	return t
}

// prerouting lets the packets of VTEPs pass. It drops those of others that would come
// in here, before they cost a routing decision or an entry of conntrack, and those on
// their way from here to another node: they could get this node's address, and be
// taken for its. What pods send is dropped whatever its VNI, and whichever host it goes
// to, which may be an address of a node that is not known: as its packets never
// left this host, they may still be in a burst, of which only the first can be read
// (UDP_SEGMENT in udp(7)), and the device sees them all.
func (d Device) prerouting(o Options) []ruleset.Rule {
	known := ruleset.Rule{
		Tunnel: d.packet(ruleset.Tunnel{VNI: d.VNI, Pair: ruleset.From}), Verdict: ruleset.Return,
		Comment: "of other nodes",
	}
	if o.Untrack {
		known.Verdict, known.Comment = ruleset.Untrack, "of other nodes: not tracked"
	}
	if o.Filter == Off {
		return []ruleset.Rule{known}
	}
	return []ruleset.Rule{
		known,
		{
			Tunnel: d.packet(ruleset.Tunnel{}), Src: ruleset.Match{Prefix: d.Network},
			Dst: ruleset.Match{Prefix: d.Network, Not: true}, Verdict: ruleset.DropCounted, Comment: "of a pod, to no pod",
		},
		{
			Tunnel: d.packet(ruleset.Tunnel{VNI: d.VNI}), Dst: ruleset.Match{Prefix: host(d.Local)},
			Verdict: ruleset.DropCounted, Comment: "of no node, to this one",
		},
		{
			Tunnel: d.packet(ruleset.Tunnel{VNI: d.VNI, Pair: ruleset.To}), Verdict: ruleset.DropCounted,
			Comment: "of no node, to another one",
		},
	}
}

// strict sees packets as the device will: put together again if they were in
// fragments (IPv4), and else (IPv6) what the first fragment lacks is no good. The
// first rule is that for nearly all packets.
func (d Device) strict() []ruleset.Rule {
	var rules []ruleset.Rule
	for _, bits := range d.Lengths {
		rules = append(rules, ruleset.Rule{
			Tunnel: d.packet(ruleset.Tunnel{Pair: ruleset.FromInside, Bits: bits}), Verdict: ruleset.Return,
			Comment: "of a node, from its subnet",
		})
	}
	rules = append(rules, d.pods(), d.others())
	from := func(p netip.Prefix, comment string) {
		rules = append(rules, ruleset.Rule{
			Tunnel: d.packet(ruleset.Tunnel{Inner: ruleset.Match{Prefix: p}}), Verdict: ruleset.DropCounted, Comment: comment,
		})
	}
	from(d.Network, "as if from a pod elsewhere")
	from(host(d.Local), "as if from this node")
	for _, p := range nobodys(d.Local.Is6()) {
		from(p, "as if from nobody")
	}
	whole := d.Local.BitLen()
	anything := ruleset.Match{Prefix: netip.PrefixFrom(d.Local, 0).Masked()}
	return append(rules,
		ruleset.Rule{
			Tunnel: d.packet(ruleset.Tunnel{Pair: ruleset.FromInside, Bits: whole}), Verdict: ruleset.Return,
			Comment: "of a node, from itself",
		},
		ruleset.Rule{
			Tunnel: d.packet(ruleset.Tunnel{Pair: ruleset.Inside}), Verdict: ruleset.DropCounted,
			Comment: "as if from another node",
		},
		ruleset.Rule{
			Tunnel: d.packet(ruleset.Tunnel{Pair: ruleset.From, Inner: anything}), Verdict: ruleset.Return,
			Comment: "of a node, from outside of the cluster",
		},
		d.rest())
}

func (d Device) vtepOnly() []ruleset.Rule {
	return []ruleset.Rule{
		{
			Tunnel: d.packet(ruleset.Tunnel{Pair: ruleset.From}), Verdict: ruleset.Return,
			Comment: "of a node",
		},
		d.pods(),
		d.others(),
		d.rest(),
	}
}

// pods is for what prerouting let go to an address of pods' network that is this host's.
func (d Device) pods() ruleset.Rule {
	return ruleset.Rule{
		Tunnel: d.packet(ruleset.Tunnel{}), Src: ruleset.Match{Prefix: d.Network},
		Verdict: ruleset.DropCounted, Comment: "of a pod",
	}
}

func (d Device) others() ruleset.Rule {
	return ruleset.Rule{
		Tunnel: d.packet(ruleset.Tunnel{VNI: d.VNI, Other: true}), Verdict: ruleset.Return,
		Comment: "another overlay's",
	}
}

// rest is also what can't be read: cut short, or the first of fragments so small that
// the device would learn more than we do.
func (d Device) rest() ruleset.Rule {
	return ruleset.Rule{Tunnel: d.packet(ruleset.Tunnel{}), Verdict: ruleset.DropCounted, Comment: "all else"}
}

// nobodys are sources that no packet on a network has (RFC 6890, RFC 4291): this
// network, loopback, multicast, reserved and broadcast; for IPv6 unspecified and
// loopback, mapped IPv4, link-local and multicast.
func nobodys(ipv6 bool) (out []netip.Prefix) {
	all := []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"}
	if ipv6 {
		all = []string{"::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"}
	}
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
