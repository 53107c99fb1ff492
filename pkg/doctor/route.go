package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

func routeChecks() []Check {
	return []Check{
		{
			"stale-routes", "routes inside the cluster's network that are not weft's",
			"another CNI's routes stand in the way of weft's", "ip route del the route, and remove what writes it", staleRoutes,
		},
		{
			"subnet-overlap", "addresses and routes of the host, and peers' addresses, beside the cluster's network",
			"the cluster's network is in use elsewhere", "choose another Network, or renumber the other one", hostOverlap,
		},
		{
			"service-overlap", "Services' addresses in kube-proxy's rules", "Services have addresses inside the pods' network",
			"choose another Network, or another --service-cluster-ip-range of the API server", serviceOverlap,
		},
	}
}

const (
	protoKernel = 2  // RTPROT_KERNEL
	protoBoot   = 3  // RTPROT_BOOT, which flannel's routes have
	protoWeft   = 83 // linux.RouteProtocol
)

// network gives the cluster's network that a prefix lies in.
func (f Facts) network(p netip.Prefix) (netip.Prefix, bool) {
	for _, n := range f.Overlay.Networks {
		if n.Contains(p.Addr()) && p.Bits() >= n.Bits() {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

func staleRoutes(f Facts) (out []Finding) {
	if f.Overlay.Backend != "vxlan" && f.Overlay.Backend != "host-gw" {
		return nil // another backend's routes look like anybody's
	}
	for _, r := range f.Tables.Routes {
		if _, inside := f.network(r.Prefix); !inside || r.Table != tables.Main || f.expected(r) {
			continue
		}
		out = append(out, Finding{
			Evidence: f.Tables.Text(r), Mend: "ip route del " + f.Tables.Text(r) + ", and remove what writes it",
		})
	}
	return firstOf(out, "routes")
}

// expected tells routes that belong there: weft's and flannel's, the kernel's
// own, and those of pods.
func (f Facts) expected(r tables.Route) bool {
	switch r.Protocol {
	case protoWeft, protoKernel:
		return true
	}
	l, ok := f.Tables.Link(r.Link)
	if !ok { // a blackhole for the own subnet is weft's or flannel's
		return r.Type == "blackhole" && slices.Contains(f.Overlay.Subnets, r.Prefix)
	}
	if l.VXLAN != nil && l.VXLAN.VNI == f.Overlay.VNI && l.VXLAN.Port == f.Overlay.Port {
		return true
	}
	own := slices.ContainsFunc(f.Overlay.Subnets, func(s netip.Prefix) bool { return s.Contains(r.Prefix.Addr()) })
	if own && (l.Kind == "veth" || l.Kind == "bridge" || r.Type == "blackhole") {
		return true
	}
	return r.Protocol == protoBoot && slices.ContainsFunc(f.Peers, func(p Member) bool {
		return p.Subnet == r.Prefix && p.Public == r.Via // flannel's direct route
	})
}

// firstOf keeps the first three and tells how many more there are.
func firstOf(all []Finding, what string) []Finding {
	const shown = 3
	if len(all) <= shown {
		return all
	}
	rest := len(all) - shown
	all = all[:shown]
	all[shown-1].Evidence += fmt.Sprintf(" (and %d more %s)", rest, what)
	return all
}

func hostOverlap(f Facts) (out []Finding) {
	for _, a := range f.Tables.Addrs {
		l, ok := f.Tables.Link(a.Link)
		_, inside := f.overlaps(a.Prefix)
		own := slices.ContainsFunc(f.Overlay.Subnets, func(s netip.Prefix) bool { return s.Contains(a.Prefix.Addr()) })
		if ok && inside && !own && l.VXLAN == nil {
			out = append(out, Finding{Evidence: fmt.Sprintf("%s has %s", l.Name, a.Prefix)})
		}
	}
	for _, m := range append(slices.Clone(f.Overlay.Self), f.Peers...) {
		if !m.Public.IsValid() {
			continue
		}
		if n, inside := f.network(netip.PrefixFrom(m.Public, m.Public.BitLen())); inside {
			out = append(out, Finding{Evidence: fmt.Sprintf("node %s has the address %s, inside %s", m.Node, m.Public, n)})
		}
	}
	for _, r := range f.Tables.Routes { // a larger network that leads elsewhere: another site's
		n, inside := f.overlaps(r.Prefix)
		if inside && r.Prefix.Bits() > 0 && r.Prefix.Bits() < n.Bits() && r.Type == "unicast" && r.Protocol != protoKernel {
			out = append(out, Finding{
				Level: Warn, Evidence: f.Tables.Text(r) + " leads there too",
				Cause: "another site has addresses of the cluster's network: pods can't reach them",
			})
		}
	}
	return firstOf(out, "of them")
}

// overlaps is for prefixes that may be larger than the network.
func (f Facts) overlaps(p netip.Prefix) (netip.Prefix, bool) {
	for _, n := range f.Overlay.Networks {
		if p.IsValid() && n.Overlaps(p) {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

func serviceOverlap(f Facts) (out []Finding) {
	seen := map[netip.Addr]bool{}
	for _, a := range f.services() {
		if n, inside := f.network(netip.PrefixFrom(a, a.BitLen())); inside && !seen[a] {
			seen[a] = true
			out = append(out, Finding{Evidence: fmt.Sprintf("a Service has %s, inside %s", a, n)})
		}
	}
	return firstOf(out, "Services")
}

// services are the addresses that kube-proxy's rules serve.
func (f Facts) services() (out []netip.Addr) {
	fw := f.Tables.Firewall
	add := func(family string, b []byte) {
		size := 4
		if family == "ip6" {
			size = 16
		}
		if len(b) >= size {
			a, _ := netip.AddrFromSlice(b[:size])
			out = append(out, a)
		}
	}
	for key, set := range fw.Sets {
		if key.Table == "kube-proxy" && key.Name == "service-ips" {
			for _, e := range set.Elems {
				add(key.Family, e.Key.From)
			}
		}
	}
	for _, c := range fw.Chains {
		if c.Name != "KUBE-SERVICES" {
			continue
		}
		for _, r := range c.Rules {
			for _, cond := range r.Conds {
				if len(cond.Fields) == 1 && cond.Fields[0] == firewall.DstAddr && len(cond.Values) == 1 && cond.Mask == nil {
					add(c.Family, cond.Values[0].From)
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
