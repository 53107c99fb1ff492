package cniplugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/mac"
)

var errThere = errors.New("it is there already")

// loopbackIndex is that of every namespace's loopback (LOOPBACK_IFINDEX).
const loopbackIndex = 1

// hostLink is a link of the host that was found or made; none is zero.
type hostLink struct {
	index int
	mac   mac.Addr
}

// ensureBridge makes the bridge what it shall be, or finds it so. Other pods
// may do the same at this moment: what exists is success. Addresses of others
// stay. Nil gives no link.
func (k *kernel) ensureBridge(want *bridge) (hostLink, error) {
	if want == nil {
		return hostLink{}, nil
	}
	link, err := k.hostSide.link(want.name, 0)
	if errors.Is(err, unix.ENODEV) {
		if err := k.createBridge(want); err != nil {
			return hostLink{}, err
		}
		link, err = k.hostSide.link(want.name, 0)
	}
	if err != nil {
		return hostLink{}, refused("find bridge "+want.name, err)
	}
	if link.Type() != "bridge" {
		return hostLink{}, types.NewError(codeTaken,
			fmt.Sprintf("link %s is a %s, not a bridge", want.name, link.Type()),
			"rename or remove it, or set another name as bridge in the network configuration")
	}
	attrs := link.Attrs()
	if attrs.MTU != want.mtu {
		if err := k.host.LinkSetMTU(link, want.mtu); err != nil {
			return hostLink{}, refused(fmt.Sprintf("set MTU %d on bridge %s", want.mtu, want.name), err)
		}
	}
	// Before it is up, when IPv6 makes the link-local address.
	if err := setSysctls(want.sysctls); err != nil {
		return hostLink{}, err
	}
	if want.promisc && attrs.Promisc == 0 {
		if err := k.host.SetPromiscOn(link); err != nil {
			return hostLink{}, refused("set bridge "+want.name+" to promiscuous mode", err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := k.host.LinkSetUp(link); err != nil {
			return hostLink{}, refused("set bridge "+want.name+" up", err)
		}
	}
	return hostLink{attrs.Index, mac.FromBytes(attrs.HardwareAddr)}, k.addGateways(link, want)
}

// createBridge: the MAC is set, because a bridge without one takes the lowest
// of its ports', and changes with them under the pods' neighbour caches.
func (k *kernel) createBridge(want *bridge) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = want.name, want.mtu
	attrs.HardwareAddr = want.mac.Hardware()
	err := k.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return refused("create bridge "+want.name, err)
	}
	return nil
}

// addGateways asks for the addresses without looking first, which costs one
// request and no dump. Where an address was new, the bridge may be another
// program's that has no MAC of its own yet, so the one it has is made that.
func (k *kernel) addGateways(link netlink.Link, want *bridge) error {
	for _, p := range want.addrs {
		tried := fmt.Sprintf("add gateway %s to bridge %s", p, want.name)
		err := k.hostSide.apply(change{addAddress(link.Attrs().Index, p), tried, errThere})
		if errors.Is(err, errThere) {
			continue
		}
		if err != nil {
			return err
		}
		if err := k.host.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr); err != nil {
			return refused(tried, err)
		}
	}
	if want.alone {
		return k.removeOthers(link, want)
	}
	return nil
}

// createPair makes both ends at once, the pod's in its namespace under its
// final name. After an error there is no pair.
func (k *kernel) createPair(a plan) error {
	tried := fmt.Sprintf("create the veth pair %s (host) and %s (pod)", a.hostIf, a.podIf)
	if err := k.hostSide.apply(change{newPair(a, int(k.podNS)), tried, errThere}); !errors.Is(err, errThere) {
		return err
	}
	// Which end it was the kernel doesn't say.
	pod, err := k.podHandle()
	if err != nil {
		return err
	}
	if _, err := pod.LinkByName(a.podIf); err == nil {
		return types.NewError(codeTaken, fmt.Sprintf("the pod has a link %s already", a.podIf),
			"an attachment of before was not removed: DEL it, or use another CNI_IFNAME")
	}
	return types.NewError(codeTaken, fmt.Sprintf("the host has a link %s already", a.hostIf),
		"an attachment of before was not removed: DEL it")
}

// connect configures both ends. The host's end comes up first, so that the
// pod's has a carrier when it comes up.
func (k *kernel) connect(a plan, bridge hostLink) error {
	hostIndex, err := k.connectHost(a, bridge)
	if err != nil {
		return err
	}
	podIndex, err := k.podSide.ownLink(a.podIf)
	if err != nil {
		return err
	}
	if err := k.inPod(func() error { return setSysctls(a.podSysctls) }); err != nil {
		return err
	}
	if err := k.podSide.apply(
		change{setUp(loopbackIndex), "set lo up in the pod", nil},
		change{setUp(podIndex), "set " + a.podIf + " up in the pod", nil},
	); err != nil {
		return err
	}
	// The pod's end comes up with a carrier, and needs no waiting for but by
	// IPv6. In this order: a bridge is ready when one of its ports is.
	v6 := slices.ContainsFunc(a.podAddrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if v6 {
		err = settle(k.podSide, podIndex)
	}
	if err := errors.Join(err, settle(k.hostSide, hostIndex), settle(k.hostSide, bridge.index)); err != nil {
		return err
	}
	var changes []change
	for _, p := range a.podAddrs {
		changes = append(changes, change{addAddress(podIndex, p), fmt.Sprintf("add %s to %s in the pod", p, a.podIf), nil})
	}
	// A pod of IPv4 alone has but a link-local address there, which nobody needs
	// and whose duplicates are still looked for.
	if v6 {
		pod, err := k.podHandle()
		if err != nil {
			return err
		}
		err = k.podSide.apply(changes...)
		if err := errors.Join(err, answers(pod, podIndex), answers(k.host, bridge.index)); err != nil {
			return err
		}
		changes = nil
	}
	changes = append(changes, routesInPod(a, podIndex)...)
	if a.bridge != nil {
		// "Changing" the MAC is what the kernel announces (inetdev_event and
		// ndisc_netdev_event, NETDEV_CHANGEADDR); a packet socket of ours would
		// wait for RCU when it is closed.
		changes = append(changes, change{setMAC(podIndex, a.podMAC), "announce " + a.podIf + " in the pod", nil})
	}
	if err := k.podSide.apply(changes...); err != nil {
		return err
	}
	return k.proxy(a.proxies)
}

func routesInPod(a plan, index int) (out []change) {
	for _, r := range a.podRoutes {
		out = append(out, change{
			addRoute(index, r, a.onlink), fmt.Sprintf("add the route to %s via %s in the pod", r.dst, r.via),
			types.NewError(codeTaken, fmt.Sprintf("the pod has a route to %s already", r.dst),
				"another of its interfaces brought it: attach a pod to one network of weft only"),
		})
	}
	return out
}

// connectHost gives the index of the host's end.
func (k *kernel) connectHost(a plan, bridge hostLink) (int, error) {
	index, err := k.hostSide.ownLink(a.hostIf)
	if err != nil {
		return 0, err
	}
	if err := setSysctls(a.hostSysctls); err != nil {
		return 0, err
	}
	var changes []change
	if a.bridge != nil {
		changes = append(changes, change{
			setMaster(index, bridge.index), fmt.Sprintf("make %s a port of bridge %s", a.hostIf, a.bridge.name), nil,
		})
		if a.hairpin {
			changes = append(changes, change{setHairpin(index), "set hairpin mode on " + a.hostIf, nil})
		}
	}
	changes = append(changes, change{setUp(index), "set " + a.hostIf + " up", nil})
	return index, k.hostSide.apply(append(changes, routesToPod(a, index)...)...)
}

// routesToPod is the host's half of point to point.
func routesToPod(a plan, index int) (out []change) {
	for _, p := range a.hostAddrs {
		out = append(out, change{addAddress(index, p), fmt.Sprintf("add gateway %s to %s", p, a.hostIf), nil})
	}
	for _, p := range a.hostRoutes {
		out = append(out, change{
			addRoute(index, route{dst: p}, false), fmt.Sprintf("add the route to %s by %s", p, a.hostIf),
			types.NewError(codeTaken, fmt.Sprintf("the host has a route to %s already", p),
				"it belongs to another link; see ip route show "+p.String()),
		})
	}
	return out
}
