package trace

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

// rules sends the packet through a hook. Only what speaks of it is a hop.
func (k *walker) rules(h firewall.Hook) (firewall.Result, bool) {
	node := k.world.Node
	_, k.pkt.ToHost = node.Owner(k.pkt.Dst)
	_, k.pkt.FromHost = node.Owner(k.pkt.Src)
	res := node.Firewall.Walk(h, k.pkt)
	k.pkt = res.Packet
	var notes []string
	if len(res.Others) > 0 {
		var others []string
		for _, o := range res.Others {
			others = append(others, o.String())
		}
		notes = append(notes, "by chance; it could also be "+strings.Join(others, ", "))
	}
	for _, u := range res.Unread {
		notes = append(notes, "can't be judged, taken as not matching: "+u)
	}
	switch {
	case res.Dropped != "":
		k.hop("rules", string(h)+": "+res.Dropped, notes...)
		return res, k.stop("that rule drops it: nft -a list ruleset shows it; if weft did not make it, ask who did",
			"dropped in %s by %s", h, res.Dropped)
	case res.DNAT:
		for _, r := range res.Rules {
			k.hop("rules", string(h)+": "+r)
		}
		k.hop("translation", fmt.Sprintf("the destination becomes %s", endpoint(k.pkt.Dst, k.pkt.DstPort)), notes...)
	case len(res.Rules) > 0 || len(notes) > 0:
		k.hop("rules", string(h)+": "+strings.Join(res.Rules, "; "), notes...)
	}
	return res, true
}

func endpoint(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// services tells when kube-proxy has nothing for the destination.
func (k *walker) services(translated bool) {
	fw := k.world.Node.Firewall
	if translated || k.overlay(k.pkt.Dst) || !fw.Has("kube-proxy") && !fw.HasChain("KUBE-SERVICES") {
		return
	}
	k.hop("rules", "prerouting: kube-proxy's rules translate nothing",
		"no Service of this address, protocol and port has an endpoint here")
}

// fromNode is a packet that the node itself sends.
func (k *walker) fromNode() bool {
	k.where = onNode
	r, ok := k.route("")
	if !ok {
		return false
	}
	if !k.pkt.Src.IsValid() {
		k.pkt.Src = k.world.Node.Source(r, k.pkt.Dst)
		k.out.Src = k.pkt.Src
	}
	k.pkt.Out = k.world.Node.Name(r.Link)
	res, ok := k.rules(firewall.Output)
	if !ok {
		return false
	}
	if res.DNAT {
		if r, ok = k.route(""); !ok {
			return false
		}
	}
	if r.Type == "local" {
		return k.input("lo")
	}
	return k.leave(r)
}

// forward is a packet that came in on a link of the node.
func (k *walker) forward(in tables.Link) bool {
	node := k.world.Node
	k.pkt.In, k.pkt.Out = in.Name, ""
	res, ok := k.rules(firewall.Prerouting)
	if !ok {
		return false
	}
	k.services(res.DNAT)
	if !k.reversePath(in) {
		return false
	}
	r, ok := k.route(in.Name)
	if !ok {
		return false
	}
	if r.Type == "local" {
		return k.input(in.Name)
	}
	name := "net/ipv4/ip_forward"
	if k.pkt.Dst.Is6() {
		name = "net/ipv6/conf/all/forwarding"
	}
	if node.Sysctls[name] == "0" {
		return k.stop("sysctl -w "+name+"=1 (weftd sets it at its start)", "this node forwards nothing: %s is 0", name)
	}
	k.pkt.Out = node.Name(r.Link)
	if _, ok := k.rules(firewall.Forward); !ok {
		return false
	}
	return k.leave(r)
}

func (k *walker) input(in string) bool {
	k.pkt.In, k.pkt.Out = in, ""
	if _, ok := k.rules(firewall.Input); !ok {
		return false
	}
	return k.end("this node itself, %s", endpoint(k.pkt.Dst, k.pkt.DstPort))
}

// reversePath is the strict check of sources (RFC 3704, ip-sysctl.rst): a packet
// whose answer would go by another interface is dropped without a word.
func (k *walker) reversePath(in tables.Link) bool {
	node := k.world.Node
	strict := false
	for _, name := range []string{"all", in.Name} {
		switch node.Sysctls["net/ipv4/conf/"+name+"/rp_filter"] {
		case "1":
			strict = true
		case "2": // the larger of the two counts
			return true
		}
	}
	if !strict || !k.pkt.Src.Is4() {
		return true
	}
	back, ok := node.Lookup(tables.Ask{Src: k.pkt.Dst, Dst: k.pkt.Src, Mark: k.pkt.Mark})
	if ok && back.Route.Link == in.Index {
		return true
	}
	way := "nowhere"
	if ok {
		way = "by " + node.Text(back.Route)
	}
	return k.stop("sysctl -w net/ipv4/conf/"+in.Name+"/rp_filter=2",
		"rp_filter is strict on %s, and the way back to %s leads %s", in.Name, k.pkt.Src, way)
}

// route looks the way up in the node's tables.
func (k *walker) route(in string) (tables.Route, bool) {
	node := k.world.Node
	found, ok := node.Lookup(tables.Ask{Src: k.pkt.Src, Dst: k.pkt.Dst, In: in, Mark: k.pkt.Mark})
	r := found.Route
	missing := k.overlay(k.pkt.Dst) && (!ok || r.Prefix.IsValid() && r.Prefix.Bits() == 0)
	if missing {
		if ok {
			k.hop("route", node.Text(r))
		}
		return r, k.stop("no node leases its subnet, its lease is left out (weftctl status), or weftd is not running "+
			"to write the route: systemctl restart weftd",
			"no route to %s in the cluster's network", k.pkt.Dst)
	}
	if !ok {
		return r, k.stop("ip route", "this node has no route to %s", k.pkt.Dst)
	}
	var notes []string
	for _, o := range found.Odd {
		notes = append(notes, "can't be judged, taken as not matching: policy "+o)
	}
	if found.Policy.Table != tables.Main && r.Type != "local" {
		notes = append(notes, "by policy "+found.Policy.String())
	}
	if r.Hops > 1 {
		notes = append(notes, fmt.Sprintf("one of %d next hops, by a hash", r.Hops))
	}
	if r.Nexthop != 0 {
		notes = append(notes, fmt.Sprintf("through nexthop object %d: ip nexthop show id %d", r.Nexthop, r.Nexthop))
	}
	k.hop("route", node.Text(r), notes...)
	if r.Refuses() {
		return r, k.stop("ip route del "+node.Text(r), "a route refuses it: %s", node.Text(r))
	}
	k.narrow(r.MTU)
	return r, true
}

// leave sends the packet out by a route.
func (k *walker) leave(r tables.Route) bool {
	node := k.world.Node
	link, ok := node.Link(r.Link)
	switch {
	case !ok && r.Nexthop != 0:
		return k.stop(
			fmt.Sprintf("ip nexthop show id %d; sysctl -w net.ipv4.nexthop_compat_mode=1 has it shown here", r.Nexthop),
			"where nexthop object %d leads is not told: %s", r.Nexthop, node.Text(r))
	case !ok:
		return k.stop("ip route", "the route's interface is gone: %s", node.Text(r))
	}
	k.pkt.Out = link.Name
	res, ok := k.rules(firewall.Postrouting)
	if !ok {
		return false
	}
	switch {
	case res.Masquerade:
		k.pkt.Src = node.Source(r, k.pkt.Dst)
		k.hop("translation", fmt.Sprintf("the source becomes %s, that of %s", k.pkt.Src, link.Name))
	case res.SNAT.IsValid():
		k.pkt.Src = res.SNAT
		k.hop("translation", fmt.Sprintf("the source becomes %s", k.pkt.Src))
	}
	if !link.Up {
		return k.stop("ip link set "+link.Name+" up", "%s is down", link.Name)
	}
	next := nextHop(r, k.pkt.Dst)
	switch {
	case link.VXLAN != nil:
		return k.tunnel(link, next)
	case link.Kind == "bridge":
		return k.toBridge(link, next)
	}
	if _, ok := k.neighbour(node, link, next); !ok {
		return false
	}
	k.device(link)
	if link.Kind == "veth" && r.Prefix.IsSingleIP() && !r.Via.IsValid() {
		return k.end("the pod behind %s", link.Name)
	}
	if !link.Carrier {
		return k.stop("ip link show "+link.Name, "%s has no carrier", link.Name)
	}
	return k.end("%s by %s", next, link.Name)
}

func (k *walker) device(l tables.Link) {
	k.narrow(l.MTU)
	k.hop("device", fmt.Sprintf("%s mtu %d", l.Name, l.MTU))
}

// toBridge finds the port of a pod on this node.
func (k *walker) toBridge(bridge tables.Link, next netip.Addr) bool {
	node := k.world.Node
	to, ok := k.neighbour(node, bridge, next)
	if !ok {
		return false
	}
	k.device(bridge)
	if to.IsZero() {
		return k.end("the ports of %s", bridge.Name)
	}
	return k.bridged(bridge, next, to)
}
