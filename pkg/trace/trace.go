// Package trace follows a packet through the tables of a node, from a pod or
// from the node itself, hop by hop, and names the entry that decided at each.
//
//	pod: route, neighbour, veth ─▶ node: bridge, rules, route, rules
//	     ─▶ tunnel: neighbour, FDB entry, outer route ─▶ uplink
//	     ─▶ or another pod, the node itself, the outside
//
// It stops where something is missing, and says what mends it. It owns the order
// in which the kernel looks at its tables. It refuses to look at the kernel: the
// tables are values, read before.
package trace

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

// World is where the packet travels.
type World struct {
	Pod      *tables.Space // where it begins; nil: on the node
	PodName  string
	Node     tables.Space
	Networks []netip.Prefix // of the cluster: no default route may lead there
}

// Packet is what is sent. Src invalid: as the kernel chooses.
type Packet struct {
	Src, Dst netip.Addr
	Proto    string // "tcp", "udp" or "icmp"
	Port     uint16
}

// Hop is one step, with the entry that decided.
type Hop struct {
	Where string   `json:"where"` // "pod" or "node"
	What  string   `json:"what"`
	Entry string   `json:"entry"`
	Notes []string `json:"notes,omitempty"`
}

// Path is the whole way.
type Path struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Proto string     `json:"proto"`
	Port  uint16     `json:"port,omitempty"`
	Hops  []Hop      `json:"hops"`
	MTU   int        `json:"mtu"` // of the inner packet, as far as this node's tables tell
	// End is where the packet is when this node's tables have no more to say.
	End string `json:"end,omitempty"`
	// Missing is why it stops, and Mend what to do; both empty where it doesn't.
	Missing string `json:"missing,omitempty"`
	Mend    string `json:"mend,omitempty"`
	// Unread is what could not be read of this node and may matter.
	Unread []string `json:"unread,omitempty"`
}

// Stops tells whether the packet does not get as far as this node could bring it.
func (p Path) Stops() bool { return p.Missing != "" }

// walker is one packet on its way. Its methods give false where it has ended.
type walker struct {
	world World
	out   Path
	pkt   firewall.Packet
	where string
}

const (
	inPod  = "pod"
	onNode = "node"

	overhead4, overhead6 = 50, 70 // of VXLAN (RFC 7348 section 4.1), without the outer Ethernet header
)

// Walk follows the packet.
func Walk(w World, p Packet) Path {
	k := &walker{world: w, out: Path{Src: p.Src, Dst: p.Dst, Proto: p.Proto, Port: p.Port}}
	k.pkt = firewall.Packet{Src: p.Src, Dst: p.Dst, Proto: protocol(p), DstPort: p.Port, SrcPort: ephemeral}
	k.out.Unread = w.Node.Unread
	if w.Pod != nil {
		k.fromPod()
	} else {
		k.fromNode()
	}
	return k.out
}

// ephemeral stands for the port that a client gets: rules rarely look at it.
const ephemeral = 49152

func protocol(p Packet) uint8 {
	switch p.Proto {
	case "tcp":
		return 6
	case "udp":
		return 17
	}
	if p.Dst.Is6() {
		return 58
	}
	return 1
}

func (k *walker) hop(what, entry string, notes ...string) {
	k.out.Hops = append(k.out.Hops, Hop{Where: k.where, What: what, Entry: entry, Notes: notes})
}

// stop ends the way for want of something.
func (k *walker) stop(mend, format string, args ...any) bool {
	k.out.Missing, k.out.Mend = fmt.Sprintf(format, args...), mend
	return false
}

func (k *walker) end(format string, args ...any) bool {
	k.out.End = fmt.Sprintf(format, args...)
	return false
}

// narrow keeps the smallest MTU on the way.
func (k *walker) narrow(mtu int) {
	if mtu > 0 && (k.out.MTU == 0 || mtu < k.out.MTU) {
		k.out.MTU = mtu
	}
}

// overlay tells whether the address is of the cluster's pods.
func (k *walker) overlay(a netip.Addr) bool {
	for _, n := range k.world.Networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
