package cniplugin

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostports"
)

// addPorts leads the host's ports to the pod. A port that still leads to a pod
// that is gone is taken over: reap removes what the dead have.
func (k *kernel) addPorts(a attachment.Attachment, reap func() error) error {
	if len(a.Ports) == 0 {
		return nil
	}
	ports, err := hostports.Open()
	if err == nil {
		err = ports.Add(a)
	}
	if errors.As(err, new(*hostports.TakenError)) {
		if err := reap(); err != nil {
			return err
		}
		err = ports.Add(a)
	}
	if errors.As(err, new(*hostports.TakenError)) {
		return types.NewError(codeTaken, err.Error(),
			"delete that pod first, or use another hostPort; see nft list table inet "+hostports.Table)
	}
	if err != nil {
		return refused("lead host ports to the pod", err)
	}
	return k.flushUDP(a)
}

// removeAnyPorts takes host ports away, ours or portmap's: a pod has but one of
// them.
func (k *kernel) removeAnyPorts(network string, req request, a attachment.Attachment, ours bool) error {
	if len(a.Ports) > 0 {
		return k.removePorts(a)
	}
	return k.removePortmaps(network, req, ours)
}

// removePorts takes the host's ports away from the pod.
func (k *kernel) removePorts(a attachment.Attachment) error {
	if len(a.Ports) == 0 {
		return nil
	}
	ports, err := hostports.Open()
	if err == nil {
		k.later = append(k.later, ports.Close)
		err = ports.Remove(a)
	}
	if err != nil {
		return refused("remove the pod's host ports", err)
	}
	return k.flushUDP(a)
}

// flushUDP makes the kernel forget where UDP packets for the ports went before:
// a client that goes on sending from one port keeps its entry alive, and would
// never meet another pod.
func (k *kernel) flushUDP(a attachment.Attachment) error {
	for _, pod := range a.Addrs {
		var ports []uint16
		for _, p := range a.Ports {
			if p.Protocol == "udp" {
				ports = append(ports, p.Host)
			}
		}
		if len(ports) == 0 {
			continue
		}
		family := netlink.InetFamily(unix.AF_INET)
		if pod.Addr().Is6() {
			family = unix.AF_INET6
		}
		_, err := k.host.ConntrackDeleteFilters(netlink.ConntrackTable, family, udpTo(ports))
		// A kernel without conntrack has nothing to forget.
		absent := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT)
		if err != nil && !absent {
			return refused("forget UDP connections to the pod's host ports", err)
		}
	}
	return nil
}

// udpTo matches connections by the port that the client sent to.
type udpTo []uint16

func (u udpTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && slices.Contains(u, flow.Forward.DstPort)
}

// addrsOf are a record's addresses, bare.
func addrsOf(a attachment.Attachment) []netip.Addr {
	var out []netip.Addr
	for _, p := range a.Addrs {
		out = append(out, p.Addr())
	}
	return out
}
