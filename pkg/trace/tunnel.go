package trace

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

const mendEntry = "weftd writes it: systemctl restart weftd; if it stays away, weftctl status says why the peer is " +
	"left out"

// tunnel wraps the packet, and sends what it is wrapped in.
func (k *walker) tunnel(l tables.Link, next netip.Addr) bool {
	node := k.world.Node
	n, ok := node.Neigh(l.Index, next)
	if !ok || n.MAC.IsZero() {
		return k.stop(mendEntry, "no neighbour entry for the peer's end of the tunnel: %s dev %s", next, l.Name)
	}
	k.hop("neighbour", fmt.Sprintf("%s dev %s lladdr %s %s", next, l.Name, n.MAC, n.State))
	f, ok := node.Forward(l.Index, n.MAC)
	if !ok || !f.Dst.IsValid() {
		return k.stop(mendEntry, "no forwarding entry says which node %s is: %s dev %s", next, n.MAC, l.Name)
	}
	k.hop("forwarding", fmt.Sprintf("%s dev %s dst %s", n.MAC, l.Name, f.Dst))
	k.narrow(l.MTU)
	k.hop("tunnel", fmt.Sprintf("%s mtu %d, VNI %d, from %s to %s port %d", l.Name, l.MTU, l.VXLAN.VNI, l.VXLAN.Local,
		f.Dst, l.VXLAN.Port))
	k.pkt = firewall.Packet{
		Src: l.VXLAN.Local, Dst: f.Dst, Proto: 17, SrcPort: ephemeral, DstPort: uint16(l.VXLAN.Port),
		VNI: uint32(l.VXLAN.VNI),
	}
	return k.outer(l)
}

// outer is the way of the UDP packet around.
func (k *walker) outer(l tables.Link) bool {
	node := k.world.Node
	if _, mine := node.Owner(l.VXLAN.Local); !mine {
		return k.stop(mendEntry, "%s sends from %s, which is no address of this node", l.Name, l.VXLAN.Local)
	}
	found, ok := node.Lookup(tables.Ask{Src: k.pkt.Src, Dst: k.pkt.Dst})
	r := found.Route
	if !ok {
		return k.stop("ip route get "+k.pkt.Dst.String(), "this node has no route to the peer's address %s", k.pkt.Dst)
	}
	var notes []string
	if parent := node.Name(l.VXLAN.Parent); l.VXLAN.Parent != 0 && r.Link != l.VXLAN.Parent {
		notes = append(notes,
			fmt.Sprintf("%s stands on %s, but the peer is reached by %s", l.Name, parent, node.Name(r.Link)))
	}
	k.hop("outer route", node.Text(r), notes...)
	if r.Refuses() || r.Type == "local" {
		return k.stop("ip route get "+k.pkt.Dst.String(), "the way to the peer's address ends here: %s", node.Text(r))
	}
	link, _ := node.Link(r.Link)
	k.pkt.Out = link.Name
	for _, h := range []firewall.Hook{firewall.Output, firewall.Postrouting} {
		if _, ok := k.rules(h); !ok {
			return false
		}
	}
	if !link.Up || !link.Carrier {
		return k.stop("ip link show "+link.Name, "%s is down or has no carrier", link.Name)
	}
	next := nextHop(r, k.pkt.Dst)
	if _, ok := k.neighbour(node, link, next); !ok {
		return false
	}
	k.hop("device", fmt.Sprintf("%s mtu %d", link.Name, link.MTU))
	overhead := overhead4
	if k.pkt.Dst.Is6() {
		overhead = overhead6
	}
	k.narrow(link.MTU - overhead)
	if l.MTU > link.MTU-overhead {
		k.out.Hops[len(k.out.Hops)-1].Notes = []string{
			fmt.Sprintf("%s is larger than what %s carries: packets over %d bytes are lost", l.Name, link.Name,
				link.MTU-overhead),
		}
	}
	return k.end("node %s by %s; what it does there, weftctl trace on that node tells", k.pkt.Dst, link.Name)
}
