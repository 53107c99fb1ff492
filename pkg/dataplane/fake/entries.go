package fake

import (
	"maps"
	"net/netip"
	"syscall"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// What stands on links: the second half of the kernel's habits (see links.go).

func (k *Kernel) putAddr(i *iface, p netip.Prefix) error {
	if i == nil {
		return syscall.ENODEV
	}
	if i.addrs[p] {
		return syscall.EEXIST
	}
	i.addrs[p] = true
	if k.countsForHost(i, p) {
		k.stale()
	}
	k.tell(i, func(link string) dataplane.State {
		return dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{{Link: link, Prefix: p}: {}}}
	})
	return nil
}

// deleteAddr, of the last IPv4 address of a link, takes the link's IPv4 routes
// and neighbours without a word. Routes that use the address as their source
// go as well.
func (k *Kernel) deleteAddr(i *iface, p netip.Prefix) error {
	if i == nil {
		return syscall.ENODEV
	}
	if !i.addrs[p] {
		return syscall.EADDRNOTAVAIL
	}
	delete(i.addrs, p)
	if k.countsForHost(i, p) {
		k.stale()
	}
	if p.Addr().Is4() {
		last := true
		for other := range i.addrs {
			last = last && !other.Addr().Is4()
		}
		k.dropRoutes(func(key dataplane.RouteKey, r route) bool {
			return key.Prefix.Addr().Is4() && (last && r.Link == i.name || r.Src == p.Addr())
		})
		maps.DeleteFunc(i.neighs, func(ip netip.Addr, _ mac.Addr) bool { return last && ip.Is4() })
		k.tellLink(i) // nobody else tells what went along
		return nil
	}
	k.tell(i, func(link string) dataplane.State {
		return dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{{Link: link, Prefix: p}: {}}}
	})
	return nil
}

func (k *Kernel) putFDB(i *iface, m mac.Addr, f forward) error {
	if i == nil {
		return syscall.ENODEV
	}
	if i.vxlan == nil {
		return syscall.EOPNOTSUPP
	}
	if local := i.vxlan.Local; local.IsValid() && local.Is4() != f.dst.Is4() {
		return syscall.EAFNOSUPPORT
	}
	i.fdb[m] = f
	if !f.learned {
		k.tellFDB(i, m)
	}
	return nil
}

func (k *Kernel) deleteFDB(i *iface, m mac.Addr) error {
	if i == nil {
		return syscall.ENODEV
	}
	if _, ok := i.fdb[m]; !ok {
		return syscall.ENOENT
	}
	delete(i.fdb, m)
	k.tellFDB(i, m)
	return nil
}

func (k *Kernel) putNeigh(i *iface, ip netip.Addr, m mac.Addr) error {
	if i == nil {
		return syscall.ENODEV
	}
	i.neighs[ip] = m
	k.tell(i, func(link string) dataplane.State {
		return dataplane.State{Neighs: map[dataplane.NeighKey]mac.Addr{{Link: link, IP: ip}: {}}}
	})
	return nil
}

func (k *Kernel) deleteNeigh(i *iface, ip netip.Addr) error {
	if i == nil {
		return syscall.ENODEV
	}
	if _, ok := i.neighs[ip]; !ok {
		return syscall.ENOENT
	}
	delete(i.neighs, ip)
	k.tell(i, func(link string) dataplane.State {
		return dataplane.State{Neighs: map[dataplane.NeighKey]mac.Addr{{Link: link, IP: ip}: {}}}
	})
	return nil
}

// putRoute asks for no neighbour when the route is onlink. Link is a name of
// the moment here.
func (k *Kernel) putRoute(key dataplane.RouteKey, r route, replace bool) error {
	key = canonical(key)
	i := k.ifaces[r.Link]
	switch {
	case r.Blackhole:
	case i == nil:
		return syscall.ENODEV
	case !i.up:
		return syscall.ENETDOWN
	case r.Via.IsValid() && !r.OnLink && !k.onLink(i, r.Via):
		return syscall.ENETUNREACH
	case r.Src.IsValid() && k.holder(r.Src) == nil:
		return syscall.EINVAL
	}
	if _, there := k.routeAt(key); there && !replace {
		return syscall.EEXIST
	}
	k.tellRoute(key)
	k.routes[key] = r
	k.tellRoute(key)
	k.tellPath(key)
	return nil
}

func (k *Kernel) deleteRoute(key dataplane.RouteKey) error {
	key = canonical(key)
	if _, ok := k.routes[key]; !ok {
		return syscall.ESRCH
	}
	k.tellRoute(key)
	k.tellPath(key)
	delete(k.routes, key)
	return nil
}

// routeAt is what stands on a key, the kernel's own routes included.
func (k *Kernel) routeAt(key dataplane.RouteKey) (dataplane.Route, bool) {
	if r, ok := k.routes[key]; ok {
		return r.Route, true
	}
	own, ok := k.connected()[key]
	return own, ok
}

// onLink tells whether an address of the interface or a route without a gateway
// has the address on its link.
func (k *Kernel) onLink(i *iface, a netip.Addr) bool {
	for p := range i.addrs {
		if p.Contains(a) {
			return true
		}
	}
	for key, r := range k.routes {
		if key.Table == 0 && r.Link == i.name && !r.Via.IsValid() && key.Prefix.Contains(a) {
			return true
		}
	}
	return false
}
