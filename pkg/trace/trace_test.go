package trace_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
	"github.com/weftnet/weft/pkg/trace"
)

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func station(n byte) mac.Addr { return mac.Addr{2, 0, 0, 0, 0, n} }

// policies are those that every kernel begins with.
func policies() []tables.Policy {
	return []tables.Policy{
		{Priority: 0, Table: 255}, {Priority: 32766, Table: 254}, {Priority: 32767, Table: 253},
	}
}

// Links of the node. The pod's eth0 is 2 and leads to veth1.
const (
	eth0 = iota + 2
	flannel
	cni0
	veth1
	veth2
	ptp
)

// world is a node with two pods on a bridge, one beside it, and a peer.
func world() trace.World {
	pod := tables.Space{
		Links: []tables.Link{
			{Index: 2, Name: "eth0", Kind: "veth", MAC: station(11), MTU: 1450, Up: true, Carrier: true, Peer: veth1},
		},
		Addrs:    []tables.Addr{{Link: 2, Prefix: prefix("10.42.1.2/24")}},
		Policies: policies(),
		Routes: []tables.Route{
			{Table: 255, Prefix: prefix("10.42.1.2/32"), Link: 2, Type: "local"},
			{Table: 254, Prefix: prefix("0.0.0.0/0"), Via: ip("10.42.1.1"), Link: 2, Type: "unicast", Hops: 1},
			{Table: 254, Prefix: prefix("10.42.1.0/24"), Link: 2, Type: "unicast", Hops: 1},
		},
		Neighs: []tables.Neigh{{Link: 2, IP: ip("10.42.1.1"), MAC: station(4), State: "reachable"}},
	}
	node := tables.Space{
		Links: []tables.Link{
			{Index: 1, Name: "lo", MTU: 65536, Up: true, Carrier: true},
			{Index: eth0, Name: "eth0", MAC: station(2), MTU: 1500, Up: true, Carrier: true},
			{Index: flannel, Name: "flannel.1", Kind: "vxlan", MAC: station(3), MTU: 1450, Up: true, Carrier: true, VXLAN: &tables.VXLAN{VNI: 1, Port: 8472, Local: ip("192.168.77.1"), Parent: eth0}},
			{Index: cni0, Name: "cni0", Kind: "bridge", MAC: station(4), MTU: 1450, Up: true, Carrier: true},
			{Index: veth1, Name: "veth1", Kind: "veth", MAC: station(5), MTU: 1450, Up: true, Carrier: true, Master: cni0, Peer: 2},
			{Index: veth2, Name: "veth2", Kind: "veth", MAC: station(6), MTU: 1450, Up: true, Carrier: true, Master: cni0, Peer: 2},
			{Index: ptp, Name: "veth3", Kind: "veth", MAC: station(7), MTU: 1450, Up: true, Carrier: true, Peer: 2},
		},
		Addrs: []tables.Addr{
			{Link: 1, Prefix: prefix("127.0.0.1/8")}, {Link: eth0, Prefix: prefix("192.168.77.1/24")},
			{Link: flannel, Prefix: prefix("10.42.1.0/32")}, {Link: cni0, Prefix: prefix("10.42.1.1/24")},
		},
		Policies: policies(),
		Routes: []tables.Route{
			{Table: 255, Prefix: prefix("192.168.77.1/32"), Link: eth0, Type: "local"},
			{Table: 255, Prefix: prefix("10.42.1.1/32"), Link: cni0, Type: "local"},
			{Table: 254, Prefix: prefix("0.0.0.0/0"), Via: ip("192.168.77.254"), Link: eth0, Type: "unicast", Hops: 1},
			{Table: 254, Prefix: prefix("192.168.77.0/24"), Link: eth0, Type: "unicast", Protocol: 2, Hops: 1},
			{Table: 254, Prefix: prefix("10.42.1.0/24"), Link: cni0, Type: "unicast", Protocol: 2, Hops: 1},
			{Table: 254, Prefix: prefix("10.42.1.9/32"), Link: ptp, Type: "unicast", Hops: 1},
			{Table: 254, Prefix: prefix("10.42.2.0/24"), Via: ip("10.42.2.0"), Link: flannel, Type: "unicast", OnLink: true, Nexthop: 7, Protocol: 83, Hops: 1},
		},
		Neighs: []tables.Neigh{
			{Link: flannel, IP: ip("10.42.2.0"), MAC: station(22), State: "permanent"},
			{Link: eth0, IP: ip("192.168.77.2"), MAC: station(32), State: "reachable"},
			{Link: cni0, IP: ip("10.42.1.3"), MAC: station(13), State: "stale"},
		},
		FDB: []tables.Forward{
			{Link: flannel, MAC: station(22), Dst: ip("192.168.77.2")}, {Link: veth2, MAC: station(13)},
		},
		Firewall: rules(),
		Sysctls:  map[string]string{"net/ipv4/ip_forward": "1"},
	}
	return trace.World{Pod: &pod, Node: node, Networks: []netip.Prefix{prefix("10.42.0.0/16")}}
}

func saddr(p string) firewall.Cond {
	net := prefix(p)
	b := net.Addr().AsSlice()[:net.Bits()/8] // as nft shortens the load for whole bytes
	return firewall.Cond{Fields: []firewall.Field{firewall.SrcAddr}, Values: []firewall.Range{{From: b, To: b}}}
}

func daddr(p string, not bool) firewall.Cond {
	c := saddr(p)
	c.Fields, c.Not = []firewall.Field{firewall.DstAddr}, not
	return c
}

func rules() firewall.Ruleset {
	act := func(k firewall.Kind) []firewall.Act { return []firewall.Act{{Kind: k}} }
	return firewall.Ruleset{Chains: []firewall.Chain{
		{Family: "ip", Table: "weft", Name: "forward", Hook: firewall.Forward, Type: "filter", Rules: []firewall.Rule{
			{Conds: []firewall.Cond{saddr("10.42.0.0/16")}, Acts: act(firewall.Accept)},
		}},
		{Family: "ip", Table: "weft", Name: "postrouting", Hook: firewall.Postrouting, Type: "nat", Priority: 100, Rules: []firewall.Rule{
			{Conds: []firewall.Cond{saddr("10.42.0.0/16"), daddr("10.42.0.0/16", true)}, Acts: act(firewall.Masquerade)},
		}},
	}}
}

// chain adds one of somebody else's.
func chain(w *trace.World, c firewall.Chain) {
	c.Family, c.Table, c.Type = "inet", "x", "filter"
	w.Node.Firewall.Chains = append(w.Node.Firewall.Chains, c)
}

func drop[T any](list []T, where func(T) bool) []T { return slices.DeleteFunc(list, where) }

func TestWalk(t *testing.T) {
	from := func(dst string) trace.Packet {
		return trace.Packet{Src: ip("10.42.1.2"), Dst: ip(dst), Proto: "tcp", Port: 80}
	}
	for name, c := range map[string]struct {
		packet trace.Packet
		spoil  func(*trace.World)
	}{
		"pod to a pod elsewhere": {from("10.42.2.5"), nil},
		"pod to its neighbour": {from("10.42.1.3"), func(w *trace.World) {
			w.Pod.Neighs = append(w.Pod.Neighs, tables.Neigh{Link: 2, IP: ip("10.42.1.3"), MAC: station(13), State: "stale"})
		}},
		"pod to a pod with a link":      {from("10.42.1.9"), func(w *trace.World) { w.Pod.Routes[2].Via = ip("10.42.1.1") }},
		"pod to the outside":            {from("198.51.100.1"), nil},
		"pod to its node":               {from("192.168.77.1"), nil},
		"node to a pod elsewhere":       {trace.Packet{Dst: ip("10.42.2.5"), Proto: "icmp"}, func(w *trace.World) { w.Pod = nil }},
		"node to its own pod":           {trace.Packet{Dst: ip("10.42.1.3"), Proto: "icmp"}, func(w *trace.World) { w.Pod = nil }},
		"no route in the pod":           {from("10.42.2.5"), func(w *trace.World) { w.Pod.Routes = w.Pod.Routes[:1] }},
		"a gateway that does not speak": {from("10.42.2.5"), func(w *trace.World) { w.Pod.Neighs[0].State = "failed" }},
		"no other end":                  {from("10.42.2.5"), func(w *trace.World) { w.Pod.Links[0].Peer = 99 }},
		"the end on the node is down":   {from("10.42.2.5"), func(w *trace.World) { w.Node.Links[4].Up = false }},
		"the bridge is down":            {from("10.42.2.5"), func(w *trace.World) { w.Node.Links[3].Up = false }},
		"no route to the peer": {from("10.42.2.5"), func(w *trace.World) {
			w.Node.Routes = drop(w.Node.Routes, func(r tables.Route) bool { return r.Nexthop != 0 })
		}},
		"no neighbour":        {from("10.42.2.5"), func(w *trace.World) { w.Node.Neighs = w.Node.Neighs[1:] }},
		"no forwarding entry": {from("10.42.2.5"), func(w *trace.World) { w.Node.FDB = w.Node.FDB[1:] }},
		"the tunnel is down":  {from("10.42.2.5"), func(w *trace.World) { w.Node.Links[2].Up = false }},
		"the tunnel sends from nowhere": {from("10.42.2.5"), func(w *trace.World) {
			w.Node.Addrs = drop(w.Node.Addrs, func(a tables.Addr) bool { return a.Link == eth0 })
		}},
		"the tunnel is too large": {from("10.42.2.5"), func(w *trace.World) { w.Node.Links[1].MTU = 1400 }},
		"no way to the peer": {from("10.42.2.5"), func(w *trace.World) {
			w.Node.Routes = drop(w.Node.Routes, func(r tables.Route) bool { return r.Link == eth0 })
		}},
		"forwarding is off": {from("10.42.2.5"), func(w *trace.World) { w.Node.Sysctls["net/ipv4/ip_forward"] = "0" }},
		"a blackhole":       {from("198.51.100.1"), func(w *trace.World) { w.Node.Routes[2].Type = "blackhole" }},
		"a policy of its own": {from("198.51.100.1"), func(w *trace.World) {
			p := tables.Policy{Priority: 100, Src: prefix("10.42.0.0/16"), Table: 100}
			w.Node.Policies = slices.Insert(w.Node.Policies, 1, p)
			w.Node.Routes = append(w.Node.Routes, tables.Route{
				Table: 100, Prefix: prefix("0.0.0.0/0"), Via: ip("192.168.77.253"), Link: eth0, Type: "unicast", Hops: 2,
			})
		}},
		"strict reverse path": {from("198.51.100.1"), func(w *trace.World) {
			w.Node.Sysctls["net/ipv4/conf/cni0/rp_filter"] = "1"
			r := tables.Route{Table: 254, Prefix: prefix("10.42.1.2/32"), Link: eth0, Type: "unicast", Hops: 1}
			w.Node.Routes = append(w.Node.Routes, r)
		}},
		"a policy that drops": {from("10.42.2.5"), func(w *trace.World) {
			chain(w, firewall.Chain{Name: "f", Hook: firewall.Forward, Priority: 1, Drops: true})
		}},
		"a rule of unknown meaning": {from("10.42.2.5"), func(w *trace.World) {
			w.Node.Unread = []string{"rules of iptables-legacy (tables nat): see iptables-legacy-save"}
			recent := firewall.Rule{Unread: []string{"match recent"}, Acts: []firewall.Act{{Kind: firewall.Drop}}}
			w.Node.Firewall.Chains[0].Rules = slices.Insert(w.Node.Firewall.Chains[0].Rules, 0, recent)
		}},
		"a tunnel that is blocked": {from("10.42.2.5"), func(w *trace.World) {
			udp := firewall.Cond{
				Fields: []firewall.Field{firewall.L4Proto}, Values: []firewall.Range{{From: []byte{17}, To: []byte{17}}},
			}
			rule := firewall.Rule{Conds: []firewall.Cond{udp}, Acts: []firewall.Act{{Kind: firewall.Drop}}}
			chain(w, firewall.Chain{Name: "o", Hook: firewall.Output, Rules: []firewall.Rule{rule}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := world()
			if c.spoil != nil {
				c.spoil(&w)
			}
			path := trace.Walk(w, c.packet)
			if path.Stops() == (path.End != "") {
				t.Errorf("it stops (%q) and ends (%q)", path.Missing, path.End)
			}
			golden.Check(t, name, path.String())
		})
	}
}
