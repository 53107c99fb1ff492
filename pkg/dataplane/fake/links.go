package fake

import (
	"maps"
	"net/netip"
	"strings"
	"syscall"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/offload"
)

// This file is the kernel proper: what each request does besides what it says,
// measured on Linux 6.18. Callers hold k.mu; errors are the kernel's.

func (k *Kernel) newIface(name string) *iface {
	k.created++
	i := &iface{
		name: name, index: k.created, mtu: ethernetMTU,
		mac:   mac.Addr{0x02, 0xfa, 0x6e, 0, byte(k.created >> 8), byte(k.created)},
		addrs: map[netip.Prefix]bool{}, fdb: map[mac.Addr]forward{}, neighs: map[netip.Addr]mac.Addr{},
	}
	if name == loopback {
		i.mac = mac.Addr{}
	}
	k.ifaces[name] = i
	return i
}

func (k *Kernel) addLink(name string, l dataplane.Link) error {
	if k.ifaces[name] != nil {
		return syscall.EEXIST
	}
	if l.VNI != 0 {
		if l.Parent != "" && k.ifaces[l.Parent] == nil {
			return syscall.ENODEV
		}
		for _, i := range k.ifaces {
			if i.vxlan != nil && sameIdentity(*i.vxlan, l) {
				return syscall.EEXIST // whatever its name
			}
		}
	}
	i := k.newIface(name)
	if l.VNI != 0 {
		i.vxlan = &dataplane.Link{VNI: l.VNI, Port: l.Port, Parent: l.Parent, Learning: l.Learning, GBP: l.GBP}
		i.vxlan.Local = l.Local
	}
	k.tune(i, l)
	k.tellLink(i)
	return nil
}

// setLink changes in place what can be changed in place.
func (k *Kernel) setLink(i *iface, l dataplane.Link) error {
	if v := i.vxlan; v != nil {
		if v.Local.IsValid() && l.Local.IsValid() && v.Local.Is4() != l.Local.Is4() {
			return syscall.EINVAL
		}
		v.Local = l.Local
	}
	k.tune(i, l)
	k.tellLink(i)
	return nil
}

// tune sets what every interface has. Down takes routes, neighbours and IPv6
// addresses; IPv4 addresses and the FDB stay, and up brings nothing back but a
// link-local address. A new MAC takes the neighbours.
func (k *Kernel) tune(i *iface, l dataplane.Link) {
	if i.mtu != l.MTU || i.up != l.Up {
		k.tellHost(i)
	}
	i.mtu = l.MTU
	if !l.MAC.IsZero() && l.MAC != i.mac {
		i.mac = l.MAC
		clear(i.neighs)
	}
	if i.up && !l.Up {
		k.dropRoutes(func(_ dataplane.RouteKey, r route) bool { return r.Link == i.name })
		clear(i.neighs)
		maps.DeleteFunc(i.addrs, func(p netip.Prefix, _ bool) bool { return p.Addr().Is6() })
	}
	if !i.up && l.Up {
		i.addrs[i.linkLocal()] = true
	}
	i.up = l.Up
	if v := i.vxlan; v != nil && l.TXChecksum != offload.AsIs {
		v.TXChecksum = offload.AsIs // on is not told
		if l.TXChecksum == offload.Off {
			v.TXChecksum = offload.Off
		}
	}
}

// linkLocal is the address that a link gets when it comes up (RFC 4291,
// appendix A).
func (i *iface) linkLocal() netip.Prefix {
	m := i.mac
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: m[0] ^ 0x02, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	}), 64)
}

func (k *Kernel) renameLink(i *iface, to string) error {
	if k.ifaces[to] != nil {
		return syscall.EEXIST
	}
	k.tellLink(i) // under its old name
	k.tellHost(i)
	for key, r := range k.routes {
		if r.Link == i.name {
			r.Link = to
			k.routes[key] = r
		}
	}
	for _, other := range k.ifaces {
		if other.vxlan != nil && other.vxlan.Parent == i.name {
			other.vxlan.Parent = to
		}
	}
	for key, value := range maps.Clone(k.sysctls) {
		if sysctlLink(key) == i.name {
			delete(k.sysctls, key)
			k.sysctls[strings.Replace(key, "/"+i.name+"/", "/"+to+"/", 1)] = value
		}
	}
	delete(k.ifaces, i.name)
	i.name = to
	k.ifaces[to] = i
	k.tellLink(i)
	return nil
}

// deleteLink takes all that is on the interface, and the VXLAN devices above it.
func (k *Kernel) deleteLink(i *iface) {
	k.tellLink(i)
	k.tellHost(i)
	k.dropRoutes(func(_ dataplane.RouteKey, r route) bool { return r.Link == i.name })
	delete(k.ifaces, i.name)
	maps.DeleteFunc(k.sysctls, func(key, _ string) bool { return sysctlLink(key) == i.name })
	for _, child := range k.ifaces {
		if child.vxlan != nil && child.vxlan.Parent == i.name {
			k.deleteLink(child)
		}
	}
}

func (k *Kernel) dropRoutes(lost func(dataplane.RouteKey, route) bool) {
	maps.DeleteFunc(k.routes, lost)
}

// setSysctl fails where there is no such file, as for a link that is not there.
func (k *Kernel) setSysctl(key, value string) error {
	if name := sysctlLink(key); name != "" && k.ifaces[name] == nil {
		return syscall.ENOENT
	}
	k.sysctls[key] = value
	return nil
}

// sysctlLink is the link of "net/ipv4/conf/LINK/…" and its like, or "".
func sysctlLink(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) < 5 || parts[0] != "net" || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	if parts[3] == "all" || parts[3] == "default" {
		return ""
	}
	return parts[3]
}
