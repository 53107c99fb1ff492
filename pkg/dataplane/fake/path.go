package fake

import (
	"cmp"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
)

// path is a lookup in table main: the longest prefix, of those the lowest
// metric. There are no rules here that would lead to another table.
func (k *Kernel) path(to netip.Addr) (dataplane.Route, bool) {
	if i := k.holder(to); i != nil {
		return dataplane.Route{Link: loopback, Src: to}, true
	}
	var best dataplane.RouteKey
	var route dataplane.Route
	found := false
	try := func(key dataplane.RouteKey, r dataplane.Route) {
		better := !found || cmp.Or(best.Prefix.Bits()-key.Prefix.Bits(), key.Metric-best.Metric) < 0
		i := k.ifaces[r.Link]
		if usable := r.Blackhole || i != nil && i.up; key.Table == 0 && usable && key.Prefix.Contains(to) && better {
			best, route, found = key, r, true
		}
	}
	for key, r := range k.connected() {
		try(key, r)
	}
	for key, r := range k.routes {
		try(key, r.Route)
	}
	if !found || route.Blackhole {
		return dataplane.Route{}, false
	}
	i := k.ifaces[route.Link]
	next := to
	if route.Via.IsValid() {
		next = route.Via
	}
	src := route.Src
	if !src.IsValid() {
		src = i.sourceFor(next)
	}
	return dataplane.Route{Via: route.Via, Link: i.name, Src: src}, true
}

// holder is the interface that has the address.
func (k *Kernel) holder(a netip.Addr) *iface {
	for _, i := range k.ifaces {
		for p := range i.addrs {
			if p.Addr() == a {
				return i
			}
		}
	}
	return nil
}

// sourceFor prefers an address whose network has the next hop in it.
func (i *iface) sourceFor(next netip.Addr) netip.Addr {
	var first netip.Addr
	for _, p := range i.sortedAddrs() {
		switch {
		case p.Addr().BitLen() != next.BitLen():
		case p.Contains(next):
			return p.Addr()
		case !first.IsValid():
			first = p.Addr()
		}
	}
	return first
}

// SetRouteMTU gives the way to a prefix an MTU, as a route's metric does; 0: none.
func (k *Kernel) SetRouteMTU(to netip.Prefix, mtu int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mtus == nil {
		k.mtus = map[netip.Prefix]int{}
	}
	k.mtus[to] = mtu
	k.tellPath(dataplane.RouteKey{Prefix: to})
}

func (k *Kernel) routeMTU(to netip.Addr) int {
	for p, mtu := range k.mtus {
		if p.Contains(to) {
			return mtu
		}
	}
	return 0
}
