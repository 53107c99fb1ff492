package kerneltest

import (
	"net/netip"
	"strings"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// side is one address family of the overlay that the cases build. Both
// devices have one VNI and one port: the family of Local tells them apart.
type side struct {
	dev     string
	link    dataplane.Link
	spare   netip.Prefix // another address of the uplink
	outside netip.Prefix // an address that is not of the cluster
	gateway netip.Addr   // a router next to the uplink
	subnet  netip.Prefix // of node 0; the others follow
	peer    netip.Addr   // underlay address of node 0
	macByte byte
	metric  int
}

const uplink = "up0"

func sides() [2]side {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return [2]side{{
		dev: "flannel.1",
		link: dataplane.Link{
			VNI: 1, Port: 8472, Local: addr("192.0.2.1"), Parent: uplink,
			MAC: mac.Addr{0x02, 0x42, 0, 0, 0, 1}, MTU: 1450, Up: true,
		},
		spare: prefix("192.0.2.2/24"), outside: prefix("198.51.100.1/32"), gateway: addr("192.0.2.254"),
		subnet: prefix("10.42.0.0/26"), peer: addr("198.18.0.0"), macByte: 0x02,
	}, {
		dev: "flannel-v6.1",
		link: dataplane.Link{
			VNI: 1, Port: 8472, Local: addr("2001:db8::1"), Parent: uplink,
			MAC: mac.Addr{0x06, 0x42, 0, 0, 0, 1}, MTU: 1430, Up: true,
		},
		spare: prefix("2001:db8::2/64"), outside: prefix("2001:db8:ff::1/128"), gateway: addr("2001:db8::fe"),
		subnet: prefix("fd00:42::/64"), peer: addr("2001:db8:1::"), macByte: 0x06, metric: 1024,
	}}
}

func domain() dataplane.Domain {
	d := dataplane.Domain{
		Links:    map[string]dataplane.Link{},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")},
		Uplink:   uplink,
		Tables:   []string{"weft", "flannel-ipv4"},
		Chains:   ownedKeys(),

		Leftovers: leftoverKeys(),
	}
	for _, s := range sides() {
		d.Links[s.dev] = s.link
	}
	return d
}

// node is the subnet of the node with this number, up to 1,000.
func (s side) node(n int) netip.Prefix {
	a := s.subnet.Addr().AsSlice()
	if s.subnet.Addr().Is4() {
		n *= 64
		a[2], a[3] = byte(n>>8), byte(n)
	} else {
		a[6], a[7] = byte(n>>8), byte(n)
	}
	ip, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(ip, s.subnet.Bits())
}

func (s side) vtep(n int) netip.Addr {
	a := s.peer.AsSlice()
	a[len(a)-2], a[len(a)-1] = byte(n>>8), byte(n)
	ip, _ := netip.AddrFromSlice(a)
	return ip
}

func (s side) mac(n int) mac.Addr { return mac.Addr{s.macByte, 0, 0, 0, byte(n >> 8), byte(n)} }

// named is the name of our device with something else than flannel in it.
func (s side) named(what string) string { return strings.Replace(s.dev, "flannel", what, 1) }

// Keys and values of one peer.
func (s side) fdbKey(n int) dataplane.FDBKey { return dataplane.FDBKey{Link: s.dev, MAC: s.mac(n)} }

func (s side) neighKey(n int) dataplane.NeighKey {
	return dataplane.NeighKey{Link: s.dev, IP: s.node(n).Addr()}
}

func (s side) routeKey(n int) dataplane.RouteKey {
	return dataplane.RouteKey{Prefix: s.node(n), Metric: s.metric}
}

func (s side) route(n int) dataplane.Route {
	return dataplane.Route{Via: s.node(n).Addr(), Link: s.dev, OnLink: true}
}

func (s side) addrKey() dataplane.AddrKey {
	own := s.node(1).Addr()
	return dataplane.AddrKey{Link: s.dev, Prefix: netip.PrefixFrom(own, own.BitLen())}
}

func (s side) chainKey() ruleset.Key {
	return ruleset.Key{IPv6: s.link.Local.Is6(), Table: "weft", Chain: "postrouting"}
}

// overlay is the part of the want that stands on the device: ours, and n peers.
func (s side) overlay(peers int) dataplane.State {
	out := dataplane.State{
		Links:  map[string]dataplane.Link{s.dev: s.link},
		Addrs:  map[dataplane.AddrKey]struct{}{s.addrKey(): {}},
		FDB:    map[dataplane.FDBKey]netip.Addr{},
		Neighs: map[dataplane.NeighKey]mac.Addr{},
		Routes: map[dataplane.RouteKey]dataplane.Route{},
	}
	for n := 2; n < 2+peers; n++ {
		out.FDB[s.fdbKey(n)] = s.vtep(n)
		out.Neighs[s.neighKey(n)] = s.mac(n)
		out.Routes[s.routeKey(n)] = s.route(n)
	}
	return out
}

// members is what lets n peers in.
func (s side) members(peers int) (out dataplane.State) {
	for n := 2; n < 2+peers; n++ {
		out.Merge(someElems(s.known(n), s.bound(n)))
	}
	return out
}

// The elements of one peer.
func (s side) known(n int) ruleset.Elem {
	set := ruleset.Set{IPv6: s.link.Local.Is6(), Bits: s.link.Local.BitLen(), Table: "weft"}
	return ruleset.Elem{Set: set, VTEP: s.vtep(n), Inner: s.vtep(n)}
}

func (s side) bound(n int) ruleset.Elem {
	set := ruleset.Set{IPv6: s.link.Local.Is6(), Bits: s.subnet.Bits(), Table: "weft"}
	return ruleset.Elem{Set: set, VTEP: s.vtep(n), Inner: s.node(n).Addr()}
}

// tunnel has every condition on a packet of the tunnel's.
func (s side) tunnel() []ruleset.Rule {
	inside := ruleset.Match{Prefix: s.node(1)}
	from := ruleset.Match{Prefix: netip.PrefixFrom(s.link.Local, s.link.Local.BitLen())}
	t := func(t ruleset.Tunnel) ruleset.Tunnel { t.Port, t.VNI = 8472, 0xabcdef; return t }
	return []ruleset.Rule{
		{Tunnel: t(ruleset.Tunnel{Pair: ruleset.FromInside, Bits: s.subnet.Bits()}), Verdict: ruleset.Return},
		{Tunnel: t(ruleset.Tunnel{Pair: ruleset.FromInside, Bits: inside.Prefix.Addr().BitLen()}), Verdict: ruleset.Return},
		{Tunnel: t(ruleset.Tunnel{Other: true}), Verdict: ruleset.Return, Comment: "another overlay's"},
		{Tunnel: t(ruleset.Tunnel{Inner: inside}), Verdict: ruleset.DropCounted},
		{Tunnel: t(ruleset.Tunnel{Pair: ruleset.Inside}), Verdict: ruleset.DropCounted},
		{Tunnel: t(ruleset.Tunnel{Pair: ruleset.To}), Src: from, Verdict: ruleset.DropCounted, Comment: "two of them"},
		{Tunnel: t(ruleset.Tunnel{Pair: ruleset.From}), Verdict: ruleset.Untrack},
		{Tunnel: ruleset.Tunnel{Port: 8472}, Verdict: ruleset.DropCounted},
	}
}

// firewall has every verdict, match and field that a rule can have.
func (s side) firewall() dataplane.State {
	cluster := ruleset.Match{Prefix: netip.PrefixFrom(s.node(0).Addr(), 16)}
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if s.link.Local.Is6() {
		cluster.Prefix = netip.PrefixFrom(s.node(0).Addr(), 48)
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	elsewhere := ruleset.Match{Prefix: cluster.Prefix, Not: true}
	own := ruleset.Match{Prefix: s.node(1)}
	k := s.chainKey()
	return dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{
		k: {Type: "nat", Hook: ruleset.Postrouting, Priority: 100, Rules: []ruleset.Rule{
			{Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: "marked by kube-proxy"},
			{Src: own, Dst: cluster, Verdict: ruleset.Return},
			{Src: elsewhere, Dst: own, Verdict: ruleset.Return},
			{Src: cluster, Dst: ruleset.Match{Prefix: multicast, Not: true}, Verdict: ruleset.MasqueradeFullyRandom},
			{Src: elsewhere, Dst: cluster, Verdict: ruleset.Masquerade, Comment: "from outside"},
		}},
		{IPv6: k.IPv6, Table: "weft", Chain: "forward"}: {Type: "filter", Hook: ruleset.Forward, Rules: []ruleset.Rule{
			{Src: cluster, Verdict: ruleset.Accept},
			{Dst: cluster, Verdict: ruleset.Accept, Comment: "to pods"},
		}},
		{IPv6: k.IPv6, Table: "weft", Chain: "guard"}: {Type: "filter", Hook: ruleset.Prerouting, Priority: -150,
			Rules: []ruleset.Rule{{Src: own, Dst: elsewhere, Mark: 7, Mask: 0xff, Verdict: ruleset.Drop}}},
		{IPv6: k.IPv6, Table: "weft", Chain: "tunnel-in"}: {Type: "filter", Hook: ruleset.Input, Priority: -310,
			Rules: s.tunnel()},
		{IPv6: k.IPv6, Table: "weft", Chain: "tunnel-out"}: {Type: "filter", Hook: ruleset.Output, Priority: -300,
			Rules: s.tunnel()},
	}}
}

// everything is one of each kind, in both families.
func everything(peers int) dataplane.State {
	out := dataplane.State{Sysctls: map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1",
	}}
	for _, s := range sides() {
		out.Merge(s.overlay(peers))
		out.Merge(s.members(peers))
		out.Merge(s.firewall())
	}
	return out
}

// underlay is what the administrator has set up before weft comes.
func underlay() dataplane.State {
	return dataplane.State{
		Links: map[string]dataplane.Link{uplink: {MTU: 1500, Up: true}},
		Addrs: map[dataplane.AddrKey]struct{}{
			{Link: uplink, Prefix: netip.MustParsePrefix("192.0.2.1/24")}:   {},
			{Link: uplink, Prefix: netip.MustParsePrefix("2001:db8::1/64")}: {},
		},
	}
}

func oneRoute(k dataplane.RouteKey, r dataplane.Route) dataplane.State {
	return dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{k: r}}
}

func oneLink(name string, l dataplane.Link) dataplane.State {
	return dataplane.State{Links: map[string]dataplane.Link{name: l}}
}

func oneAddr(link string, p netip.Prefix) dataplane.State {
	return dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{{Link: link, Prefix: p}: {}}}
}

func someElems(elems ...ruleset.Elem) dataplane.State {
	s := dataplane.State{Elems: map[ruleset.Elem]struct{}{}}
	for _, el := range elems {
		s.Elems[el] = struct{}{}
	}
	return s
}

func oneFDB(k dataplane.FDBKey, dst netip.Addr) dataplane.State {
	return dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{k: dst}}
}

func oneNeigh(k dataplane.NeighKey, m mac.Addr) dataplane.State {
	return dataplane.State{Neighs: map[dataplane.NeighKey]mac.Addr{k: m}}
}
