package cniplugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// proxy makes the host answer, on a bridge that has the gateway of the subnet,
// for pods of the subnet that are not on it. For IPv4 the kernel goes by its
// routes: it answers for what leads elsewhere (proxy_arp). For IPv6 it wants to
// be told each address. Where there is no such bridge nobody asks.
func (k *kernel) proxy(proxies []proxy) error {
	for _, p := range proxies {
		if index, err := k.hostSide.conn.LinkIndex(p.bridge); err == nil && index == 0 {
			continue // the usual case, at no cost
		}
		link, addrs, err := k.bridgeAddrs(p.bridge)
		if err != nil || link == nil {
			return err
		}
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(p.gateway.AsSlice()) }) {
			continue
		}
		if err := setSysctls(p.sysctls); err != nil {
			return err
		}
		if p.addr.Is4() {
			continue
		}
		if err := k.host.NeighSet(proxyNeigh(link, p.addr)); err != nil {
			return refused(fmt.Sprintf("answer for %s on %s", p.addr, p.bridge), err)
		}
	}
	return nil
}

// unproxy takes the answers for addresses back, before another has them.
func (k *kernel) unproxy(bridge string, addrs []netip.Addr) error {
	if !slices.ContainsFunc(addrs, netip.Addr.Is6) {
		return nil
	}
	link, err := k.host.LinkByName(bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return refused("find bridge "+bridge, err)
	}
	for _, a := range addrs {
		if a.Is4() {
			continue
		}
		err := k.host.NeighDel(proxyNeigh(link, a))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return refused(fmt.Sprintf("stop answering for %s on %s", a, bridge), err)
		}
	}
	return nil
}

// bridgeAddrs gives the link's addresses; nil is no link, or one of another kind.
func (k *kernel) bridgeAddrs(name string) (netlink.Link, []netlink.Addr, error) {
	link, err := k.host.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) || err == nil && link.Type() != "bridge" {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, refused("find bridge "+name, err)
	}
	addrs, err := k.host.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, refused("read the addresses of bridge "+name, err)
	}
	return link, addrs, nil
}

func proxyNeigh(link netlink.Link, addr netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY, IP: addr.AsSlice(),
	}
}

// removeOthers leaves a bridge the addresses that it shall have, as the bridge
// plugin's forceAddress: of IPv4 none besides, of IPv6 none that overlaps. The
// others go last, since an interface's last address takes its routes along.
func (k *kernel) removeOthers(link netlink.Link, want *bridge) error {
	have, err := k.host.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return refused("read the addresses of bridge "+want.name, err)
	}
	for _, a := range have {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if !ok || !inTheWay(netip.PrefixFrom(ip.Unmap(), ones), want.addrs) {
			continue
		}
		if err := k.host.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return refused(fmt.Sprintf("remove %s from bridge %s", a.IPNet, want.name), err)
		}
	}
	return nil
}

// inTheWay tells whether an address has to go for the ones that are wanted.
func inTheWay(have netip.Prefix, want []netip.Prefix) bool {
	if slices.Contains(want, have) {
		return false
	}
	return slices.ContainsFunc(want, func(w netip.Prefix) bool {
		if have.Addr().Is4() {
			return w.Addr().Is4()
		}
		return have.Overlaps(w)
	})
}
