package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

func rulesChecks() []Check {
	return []Check{
		{
			"port-blocked", "what the rules do with VXLAN packets from and to a peer",
			"a rule of this node drops the tunnel's packets",
			"let UDP on the tunnel's port in and out, for example: nft insert rule inet filter input udp dport 8472 accept",
			portBlocked,
		},
		{
			"forward-drop", "what the rules do with packets from and to pods",
			"a rule or a FORWARD policy of this node drops pods' packets: an accept elsewhere does not undo it",
			"iptables -P FORWARD ACCEPT, or a rule that accepts the cluster's network in that chain", forwardDrop,
		},
		{
			"masquerade", "what the rules do with packets from pods to the outside", "nothing masquerades pods' packets",
			"systemctl restart weftd, with --ip-masq", noMasquerade,
		},
		{
			"firewalld", "firewalld's table and its zones",
			"firewalld runs, and the tunnel and the bridge are in none of its zones",
			"firewall-cmd --permanent --zone=trusted --add-interface=flannel.1 --add-interface=cni0; " +
				"firewall-cmd --permanent --add-port=8472/udp; firewall-cmd --reload", firewalldZones,
		},
		{
			"br-netfilter", "kube-proxy's rules, bridges and bridge-nf-call-iptables",
			"answers of a Service to a pod on the same bridge pass kube-proxy by",
			"modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1", bridgeNetfilter,
		},
	}
}

const udp = 17

// example gives a peer of a family, and our own part of the lease.
func (f Facts) example(ipv6 bool) (self, peer Member, ok bool) {
	of := func(list []Member) (Member, bool) {
		i := slices.IndexFunc(list, func(m Member) bool { return m.Subnet.Addr().Is6() == ipv6 })
		if i < 0 {
			return Member{}, false
		}
		return list[i], true
	}
	self, has := of(f.Overlay.Self)
	peer, ok = of(f.Peers)
	return self, peer, has && ok
}

// portBlocked looks at others' rules: what weft's own filter lets in depends on
// what is inside a packet, and weftd keeps it.
func portBlocked(f Facts) (out []Finding) {
	rules := f.Tables.Firewall.Without(func(table string) bool {
		return table == "weft" || strings.HasPrefix(table, "weft-")
	})
	for _, ipv6 := range f.families() {
		l, there := f.ours(ipv6)
		_, peer, ok := f.example(ipv6)
		if !there || !ok {
			continue
		}
		uplink := f.Tables.Name(l.VXLAN.Parent)
		port := uint16(f.Overlay.Port)
		in := firewall.Packet{
			Src: peer.Public, Dst: l.VXLAN.Local, Proto: udp, SrcPort: 40000, DstPort: port, In: uplink, ToHost: true,
		}
		away := firewall.Packet{
			Src: l.VXLAN.Local, Dst: peer.Public, Proto: udp, SrcPort: 40000, DstPort: port, Out: uplink, FromHost: true,
		}
		for _, try := range []struct {
			hook   firewall.Hook
			packet firewall.Packet
			words  string
		}{
			{firewall.Prerouting, in, "from"}, {firewall.Input, in, "from"},
			{firewall.Output, away, "to"}, {firewall.Postrouting, away, "to"},
		} {
			if res := rules.Walk(try.hook, try.packet); res.Dropped != "" {
				out = append(out, Finding{Evidence: fmt.Sprintf("UDP port %d %s %s is dropped in %s by %s", port, try.words,
					peer.Public, try.hook, res.Dropped)})
			}
		}
	}
	return out
}

// bridge is the one that has an address of a subnet, or any pod's link.
func (f Facts) bridge(subnet netip.Prefix) string {
	for _, a := range f.Tables.Addrs {
		l, ok := f.Tables.Link(a.Link)
		if ok && l.Kind == "bridge" && subnet.Contains(a.Prefix.Addr()) {
			return l.Name
		}
	}
	return "cni0"
}

func podOf(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next().Next() }

func forwardDrop(f Facts) (out []Finding) {
	for _, ipv6 := range f.families() {
		self, peer, ok := f.example(ipv6)
		l, there := f.ours(ipv6)
		if !ok || !there {
			continue
		}
		bridge := f.bridge(self.Subnet)
		to := firewall.Packet{
			Src: podOf(self.Subnet), Dst: podOf(peer.Subnet), Proto: 6, SrcPort: 40000, DstPort: 80, In: bridge, Out: l.Name,
		}
		from := to
		from.Src, from.Dst, from.In, from.Out = to.Dst, to.Src, to.Out, to.In
		for _, p := range []firewall.Packet{to, from} {
			if res := f.Tables.Firewall.Walk(firewall.Forward, p); res.Dropped != "" {
				out = append(out, Finding{
					Evidence: fmt.Sprintf("a packet from %s to %s is dropped by %s", p.Src, p.Dst, res.Dropped),
				})
				break
			}
		}
	}
	return out
}

// noMasquerade says nothing where rules can't be read that may do it.
func noMasquerade(f Facts) (out []Finding) {
	legacy := slices.ContainsFunc(f.Tables.Unread, func(s string) bool { return strings.Contains(s, "iptables-legacy") })
	if !f.Overlay.Masquerade || legacy {
		return nil
	}
	for _, self := range f.Overlay.Self {
		far := netip.MustParseAddr("203.0.113.1") // TEST-NET-3 (RFC 5737)
		if self.Subnet.Addr().Is6() {
			far = netip.MustParseAddr("2001:db8::1")
		}
		found, ok := f.Tables.Lookup(tables.Ask{Src: podOf(self.Subnet), Dst: far})
		if !ok {
			continue
		}
		p := firewall.Packet{
			Src: podOf(self.Subnet), Dst: far, Proto: 6, SrcPort: 40000, DstPort: 80, Out: f.Tables.Name(found.Route.Link),
		}
		res := f.Tables.Firewall.Walk(firewall.Postrouting, p)
		if !res.Masquerade && !res.SNAT.IsValid() && len(res.Unread) == 0 {
			out = append(out, Finding{Evidence: fmt.Sprintf("a packet from %s by %s keeps its source", p.Src, p.Out)})
		}
	}
	return out
}

func firewalldZones(f Facts) []Finding {
	if !f.Tables.Firewall.Has("firewalld") {
		return nil
	}
	var missing []string
	for _, ipv6 := range f.families() {
		if l, ok := f.ours(ipv6); ok && !slices.Contains(f.Host.Zones, l.Name) {
			missing = append(missing, l.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Finding{{
		Evidence: "the table firewalld is there, and no zone names " + strings.Join(missing, ", "),
	}}
}

// kubeProxy tells whether its rules are there, in either of its modes.
func (f Facts) kubeProxy() bool {
	return f.Tables.Firewall.Has("kube-proxy") || f.Tables.Firewall.HasChain("KUBE-SERVICES")
}

func bridgeNetfilter(f Facts) (out []Finding) {
	pods := slices.ContainsFunc(f.Tables.Links, func(l tables.Link) bool { return l.Kind == "bridge" })
	if !pods || !f.kubeProxy() {
		return nil
	}
	for _, ipv6 := range f.families() {
		name := "net/bridge/bridge-nf-call-iptables"
		if ipv6 {
			name = "net/bridge/bridge-nf-call-ip6tables"
		}
		switch value, there := f.Tables.Sysctls[name]; {
		case !there:
			return []Finding{{Evidence: "kube-proxy is here, and the module br_netfilter is not loaded"}}
		case value == "0":
			out = append(out, Finding{Evidence: "kube-proxy is here, and " + name + " is 0", Mend: "sysctl -w " + name + "=1"})
		}
	}
	return out
}
