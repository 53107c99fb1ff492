package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const bridge = "br0"

// What stands here works on the namespace of the calling thread: see Do.

func addBridge(mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridge, mtu
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge %s: %w", bridge, err)
	}
	return linkUp(bridge)
}

// plug joins a namespace to the underlay's bridge by a veth pair. The pair is
// made inside, so that no link of ours is ever seen on the host.
func plug(underlay, ns *Namespace, port string, mtu int) error {
	peer, err := ns.open()
	if err != nil {
		return err
	}
	defer peer.Close()
	return underlay.Do(func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", bridge, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.MasterIndex = port, mtu, br.Attrs().Index
		pair := &netlink.Veth{
			LinkAttrs: attrs, PeerName: Eth0, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(peer)),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth %s: %w", port, err)
		}
		return linkUp(port)
	})
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

func addAddress(name string, p netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(p.String())
	if err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, name, err)
	}
	return nil
}

func addDefaultRoute(via netip.Addr) error {
	if err := netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add default route via %s: %w", via, err)
	}
	return nil
}

// awaitCarrier waits until the link passes packets. A veth gets its carrier
// when the far end comes up, but the kernel attaches its queue and opens its
// bridge port a moment later, in a work queue (net/core/link_watch.c); what is
// sent in between is dropped. The operational state tells when that is done.
func awaitCarrier(name string) error {
	var err error
	up := eventually(func() bool {
		var link netlink.Link
		link, err = netlink.LinkByName(name)
		return err != nil || link.Attrs().OperState == netlink.OperUp
	})
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if !up {
		return fmt.Errorf("link %s: no carrier within %s", name, patience)
	}
	return nil
}

// disableDAD turns duplicate address detection off for one interface: it would
// keep IPv6 silent for a second. The flag IFA_F_NODAD would do so too, but
// hides when the address can be asked for: see awaitAddresses. A kernel without
// IPv6 has no such file.
func disableDAD(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("turn duplicate address detection of %s off: %w", name, err)
	}
	return nil
}

// awaitAddresses waits until the interface answers for its addresses. Also
// without detection the kernel joins the group that neighbours ask by in a work
// queue, and takes the mark "tentative" off an address after that
// (addrconf_dad_begin in net/ipv6/addrconf.c).
func awaitAddresses(name string) error {
	var err error
	ready := eventually(func() bool {
		var link netlink.Link
		var addrs []netlink.Addr
		if link, err = netlink.LinkByName(name); err != nil {
			return true
		}
		addrs, err = netlink.AddrList(link, netlink.FAMILY_ALL)
		return err != nil || !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			return a.Flags&unix.IFA_F_TENTATIVE != 0
		})
	})
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", name, err)
	}
	if !ready {
		return fmt.Errorf("addresses of %s: tentative for more than %s", name, patience)
	}
	return nil
}
