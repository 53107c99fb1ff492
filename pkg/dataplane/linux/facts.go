package linux

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// Facts reads the host, and the paths to peers.
func (k *Kernel) Facts(ctx context.Context, peers []netip.Addr) (dataplane.Facts, error) {
	k.memory.asks(peers)
	links, err := k.allLinks()
	if err != nil {
		return dataplane.Facts{}, err
	}
	addresses, err := k.addresses(0)
	if err != nil {
		return dataplane.Facts{}, err
	}
	facts := dataplane.Facts{
		Ifaces:   make(map[string]dataplane.Iface, len(links)),
		Defaults: map[dataplane.RouteKey]dataplane.Route{},
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.index] = l.name
		facts.Ifaces[l.name] = ifaceOf(l, addresses)
	}
	for _, f := range families() {
		if err := ctx.Err(); err != nil {
			return dataplane.Facts{}, err
		}
		main, err := k.routesBy(routeFilter{family: f, table: unix.RT_TABLE_MAIN, defaults: true})
		if err != nil {
			return dataplane.Facts{}, err
		}
		for _, r := range main {
			_, better := facts.Defaults[r.key]
			if !better && r.unicast && !r.other && names[r.index] != "" {
				facts.Defaults[r.key] = r.value(names[r.index])
			}
		}
	}
	if facts.Paths, facts.PathMTU, err = k.paths(ctx, peers, names); err != nil {
		return dataplane.Facts{}, err
	}
	k.memory.told(links, addresses)
	facts.Firewall, err = k.firewallFacts()
	return facts, err
}

// Paths reads the ways to more peers than the last Facts told of, and nothing else.
func (k *Kernel) Paths(ctx context.Context, more []netip.Addr) (facts dataplane.Facts, err error) {
	k.memory.asksToo(more)
	links, err := k.allLinks()
	if err != nil {
		return dataplane.Facts{}, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.index] = l.name
	}
	facts.Paths, facts.PathMTU, err = k.paths(ctx, more, names)
	return facts, err
}

func ifaceOf(l link, all []address) dataplane.Iface {
	i := dataplane.Iface{Index: l.index, MTU: l.mtu, MAC: l.mac, Up: l.up, Addrs: ranked(l.index, all)}
	if v := l.vxlan; v != nil {
		i.VXLAN = &dataplane.Link{VNI: v.vni, Port: v.port, Local: v.local}
	}
	return i
}

// ranked gives the addresses of an interface that can be used, best first: the
// order in which flannel chooses. The kernel's order decides between equals.
func ranked(index int, all []address) []netip.Prefix {
	var mine []address
	for _, a := range all {
		if a.index == index && a.flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) == 0 {
			mine = append(mine, a)
		}
	}
	slices.SortStableFunc(mine, func(a, b address) int {
		return cmp.Compare(a.penalty(), b.penalty())
	})
	out := make([]netip.Prefix, len(mine))
	for i, a := range mine {
		out[i] = a.prefix
	}
	return out
}

// penalty is larger the worse the address is as one of ours: reach first, then
// whether it will stay, then whether it is one for privacy (RFC 8981).
func (a address) penalty() int {
	p := 0
	ip := a.prefix.Addr()
	switch {
	case ip.IsGlobalUnicast():
	case ip.IsLinkLocalUnicast():
		p += 4
	default:
		p += 8
	}
	if a.flags&unix.IFA_F_PERMANENT == 0 {
		p += 2
	}
	// For IPv4 the same bit says "secondary".
	if ip.Is6() && a.flags&unix.IFA_F_TEMPORARY != 0 {
		p++
	}
	return p
}
