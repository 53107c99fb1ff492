package trace

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
)

const mendPod = "the pod's network is not as the CNI plugin made it: delete the pod, or restart weftd, which " +
	"rebuilds the node's end by the plugin's records"

// fromPod is the pod's own part of the way, up to the node's end of its veth.
func (k *walker) fromPod() bool {
	k.where = inPod
	pod := *k.world.Pod
	found, ok := pod.Lookup(tables.Ask{Src: k.pkt.Src, Dst: k.pkt.Dst})
	if !ok {
		return k.stop(mendPod, "the pod has no route to %s", k.pkt.Dst)
	}
	r := found.Route
	if !k.pkt.Src.IsValid() {
		k.pkt.Src = pod.Source(r, k.pkt.Dst)
		k.out.Src = k.pkt.Src
	}
	k.hop("route", pod.Text(r))
	switch {
	case r.Type == "local":
		return k.end("the pod itself")
	case r.Refuses():
		return k.stop("", "the pod's own route refuses it: %s", pod.Text(r))
	}
	link, _ := pod.Link(r.Link)
	if !link.Up {
		return k.stop(mendPod, "%s in the pod is down", link.Name)
	}
	next := nextHop(r, k.pkt.Dst)
	to, ok := k.neighbour(pod, link, next)
	if !ok {
		return false
	}
	k.narrow(link.MTU)
	peer, ok := otherEnd(k.world.Node, link)
	if !ok {
		return k.stop(mendPod, "the other end of %s (link %d) is not on this node", link.Name, link.Peer)
	}
	k.hop("device", fmt.Sprintf("%s mtu %d", link.Name, link.MTU),
		fmt.Sprintf("its other end is %s on the node", peer.Name))
	return k.arrive(peer, next, to)
}

// otherEnd finds the node's end of a veth. Indices are of two namespaces, so
// both must fit.
func otherEnd(node tables.Space, link tables.Link) (tables.Link, bool) {
	l, ok := node.Link(link.Peer)
	return l, ok && l.Kind == "veth" && l.Peer == link.Index
}

func nextHop(r tables.Route, dst netip.Addr) netip.Addr {
	if r.Via.IsValid() {
		return r.Via
	}
	return dst
}

// neighbour looks the MAC up. Not to know it yet is no fault: the kernel asks.
func (k *walker) neighbour(s tables.Space, l tables.Link, ip netip.Addr) (mac.Addr, bool) {
	if !l.Asks() {
		return mac.Addr{}, true
	}
	n, ok := s.Neigh(l.Index, ip)
	switch {
	case !ok || n.State == "incomplete" || n.State == "none":
		k.hop("neighbour", fmt.Sprintf("%s dev %s", ip, l.Name), "not known yet: the kernel asks for it first")
		return mac.Addr{}, true
	case n.State == "failed":
		return mac.Addr{}, k.stop("is "+ip.String()+" up, and on the same network as "+l.Name+"?",
			"nobody answers for %s on %s (neighbour entry failed)", ip, l.Name)
	}
	k.hop("neighbour", fmt.Sprintf("%s dev %s lladdr %s %s", ip, l.Name, n.MAC, n.State))
	return n.MAC, true
}

// arrive is the node's end of a pod's veth, maybe a bridge's port.
func (k *walker) arrive(port tables.Link, next netip.Addr, to mac.Addr) bool {
	k.where = onNode
	node := k.world.Node
	if !port.Up {
		return k.stop("ip link set "+port.Name+" up", "%s, the node's end of the pod's link, is down", port.Name)
	}
	if port.Master == 0 {
		return k.forward(port)
	}
	bridge, ok := node.Link(port.Master)
	if !ok || !bridge.Up {
		return k.stop("ip link set "+node.Name(port.Master)+" up", "the bridge %s is down", node.Name(port.Master))
	}
	owner, local := node.Owner(next)
	if to == bridge.MAC || to.IsZero() && local && owner.Index == bridge.Index {
		k.hop("bridge", fmt.Sprintf("%s is a port of %s, which is addressed", port.Name, bridge.Name))
		k.narrow(bridge.MTU)
		return k.forward(bridge)
	}
	return k.bridged(bridge, next, to)
}

// bridged leads to another port of the same bridge, past all routes.
func (k *walker) bridged(bridge tables.Link, next netip.Addr, to mac.Addr) bool {
	node := k.world.Node
	if to.IsZero() {
		if n, ok := node.Neigh(bridge.Index, next); ok {
			to = n.MAC
		}
	}
	var notes []string
	if node.Sysctls["net/bridge/bridge-nf-call-iptables"] == "1" && next.Is4() {
		notes = append(notes, "bridged packets pass the rules too (bridge-nf-call-iptables)")
	}
	port, ok := node.PortOf(bridge.Index, to)
	if !ok {
		k.hop("bridge", bridge.Name, append(notes, "nobody has spoken for "+next.String()+" lately: all ports are asked")...)
		return k.end("the ports of %s", bridge.Name)
	}
	k.hop("bridge", fmt.Sprintf("%s dev %s master %s", to, port.Name, bridge.Name), notes...)
	if !port.Up {
		return k.stop("ip link set "+port.Name+" up", "%s is down", port.Name)
	}
	k.narrow(port.MTU)
	return k.end("the pod behind %s", port.Name)
}
