package cniplugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
)

// retire takes the gateways of a subnet of before off the bridge together with
// the last pod that needs them: the subnet may be another node's by now, and
// this host would look for that node's pods on the bridge. They stay as long as
// the bridge has a port that no record tells of, and where anything is unclear.
func (k *kernel) retire(conf config, gone attachment.Attachment) error {
	if gone.Bridge == nil {
		return nil
	}
	env, err := readEnv(conf.subnetFile)
	if err != nil {
		return nil //nolint:nilerr // not known to be of before
	}
	old := slices.DeleteFunc(slices.Clone(gone.Bridge.Addr), func(gateway netip.Prefix) bool {
		return slices.ContainsFunc(env.Subnets, func(s netip.Prefix) bool { return s.Contains(gateway.Addr()) })
	})
	if len(old) == 0 {
		return nil
	}
	records, err := conf.records.Load()
	if err != nil {
		return nil //nolint:nilerr // one that can't be read may need them
	}
	known := map[string]bool{}
	for _, r := range records {
		if r.Key == gone.Key || r.Bridge == nil || r.Bridge.Name != gone.Bridge.Name {
			continue
		}
		known[r.HostLink] = true
		old = slices.DeleteFunc(old, func(gateway netip.Prefix) bool { return slices.Contains(r.Bridge.Addr, gateway) })
	}
	if len(old) == 0 {
		return nil
	}
	return k.removeGateways(gone.Bridge.Name, known, old)
}

// removeGateways does that unless the bridge has other ports than those known.
func (k *kernel) removeGateways(bridge string, known map[string]bool, gateways []netip.Prefix) error {
	link, _, err := k.bridgeAddrs(bridge)
	if err != nil || link == nil {
		return err
	}
	links, err := k.host.LinkList()
	if err != nil {
		return refused("list the ports of bridge "+bridge, err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex == link.Attrs().Index && !known[a.Name] {
			return nil
		}
	}
	for _, p := range gateways {
		address := ipNet(p)
		err := k.host.AddrDel(link, &netlink.Addr{IPNet: &address})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return refused(fmt.Sprintf("remove gateway %s from bridge %s", p, bridge), err)
		}
	}
	return nil
}
