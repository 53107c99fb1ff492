package doctor

import (
	"fmt"
	"net/netip"
)

func pathChecks() []Check {
	return []Check{
		{
			"underlay", "echoes to peers' own addresses and through the tunnel",
			"a peer can't be reached at all, beside the tunnel as well",
			"ip route get the peer's address; is it up?", underlayDown,
		},
		{
			"tunnel-blocked", "echoes through the tunnel to peers that answer beside it",
			"the tunnel's packets are lost on the way: something blocks its UDP port",
			"let UDP on the tunnel's port through between the nodes: security groups, firewalls, and weftctl doctor on the peer",
			tunnelBlocked,
		},
		{
			"one-way", "the same, while the peer's VXLAN packets do arrive here",
			"the tunnel works in one direction only: what we send, or the answers to it, is lost",
			"weftctl doctor on the peer, which sees the other half; then the firewalls on the way", oneWay,
		},
		{
			"mtu", "echoes of the device's full size with DF, and MTUs",
			"large packets are lost on the way: its MTU is smaller than the device's",
			"set Backend.MTU to what the way carries (before VXLAN's overhead), or raise the MTU of the network between",
			blackHole,
		},
		{
			"checksum-offload", "TCP to a peer through the tunnel, with the checksum left to the device and without",
			"the network card computes wrong checksums of what is inside the tunnel",
			"ethtool -K flannel.1 tx-checksum-ip-generic off", checksums,
		},
	}
}

// answered tells whether anything came back through the tunnel.
func (p Probe) answered() bool { return p.Small || p.TCP || p.RawTCP }

func underlayDown(f Facts) (out []Finding) {
	for _, p := range f.Probes {
		if !p.Underlay && !p.answered() && p.Heard == 0 {
			out = append(out, Finding{
				Evidence: fmt.Sprintf("peer %s (%s): no answer beside the tunnel and through it", p.Peer.Public, p.Peer.Subnet),
				Mend:     fmt.Sprintf("ip route get %s; is it up, and does it lease %s still?", p.Peer.Public, p.Peer.Subnet),
			})
		}
	}
	return firstOf(out, "peers")
}

func tunnelBlocked(f Facts) (out []Finding) {
	for _, p := range f.Probes {
		if p.Underlay && !p.answered() && p.Heard == 0 {
			out = append(out, Finding{Evidence: fmt.Sprintf(
				"peer %s (%s) answers beside the tunnel, not through it, and no VXLAN packet of it came", p.Peer.Public,
				p.Peer.Subnet)})
		}
	}
	return firstOf(out, "peers")
}

func oneWay(f Facts) (out []Finding) {
	for _, p := range f.Probes {
		if !p.answered() && p.Heard > 0 {
			out = append(out, Finding{Evidence: fmt.Sprintf(
				"peer %s (%s) does not answer through the tunnel, but %d VXLAN packets of it came meanwhile", p.Peer.Public,
				p.Peer.Subnet, p.Heard)})
		}
	}
	return firstOf(out, "peers")
}

func blackHole(f Facts) (out []Finding) {
	for _, ipv6 := range f.families() {
		l, ok := f.ours(ipv6)
		if !ok {
			continue
		}
		parent, ok := f.Tables.Link(l.VXLAN.Parent)
		overhead := overheadOf(ipv6)
		if ok && l.MTU > parent.MTU-overhead {
			out = append(out, Finding{
				Evidence: fmt.Sprintf("%s has MTU %d, but %s carries %d less %d bytes of VXLAN", l.Name, l.MTU, parent.Name,
					parent.MTU, overhead),
				Mend: fmt.Sprintf("systemctl restart weftd, or ip link set %s mtu %d", l.Name, parent.MTU-overhead),
			})
		}
	}
	for _, p := range f.Probes {
		if p.Small && !p.Large {
			out = append(out, Finding{Evidence: fmt.Sprintf("peer %s: an echo of 64 bytes came back, one of %d bytes did not",
				p.Peer.Public, p.Size)})
		}
	}
	return firstOf(out, "peers")
}

// overheadOf is VXLAN's (RFC 7348), as the inner MTU sees it.
func overheadOf(ipv6 bool) int {
	if ipv6 {
		return 70
	}
	return 50
}

func checksums(f Facts) (out []Finding) {
	for _, p := range f.Probes {
		if !p.TCP && p.RawTCP {
			dev := f.deviceName(p.Peer.Subnet.Addr().Is6())
			out = append(out, Finding{
				Evidence: fmt.Sprintf("peer %s answers a TCP packet with a finished checksum, and none whose checksum the device "+
					"must compute", p.Peer.Public),
				Mend: "ethtool -K " + dev + " tx-checksum-ip-generic off",
			})
		}
	}
	return firstOf(out, "peers")
}

// Tunnel is the address of a member's end of the tunnel, which is also where
// probes go.
func (m Member) Tunnel() netip.Addr { return m.Subnet.Masked().Addr() }
