package hostports

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
)

// ForgetUDP makes the kernel forget where UDP packets for the attachment's ports
// went before, in the namespace of the calling thread: a client that goes on
// sending from one port keeps its entry alive, and would never meet another
// pod. With strays, what leads to the pod already is kept.
func ForgetUDP(a attachment.Attachment, strays bool) error {
	var ports []uint16
	for _, p := range a.Ports {
		if p.Protocol == "udp" {
			ports = append(ports, p.Host)
		}
	}
	if len(ports) == 0 {
		return nil
	}
	for _, pod := range a.Addrs {
		filter := udpTo{ports: ports}
		if strays {
			filter.but = pod.Addr()
		}
		family := netlink.InetFamily(unix.AF_INET)
		if pod.Addr().Is6() {
			family = unix.AF_INET6
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		// A kernel without conntrack has nothing to forget.
		absent := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT)
		if err != nil && !absent {
			return fmt.Errorf("forget UDP connections to host ports: %w", err)
		}
	}
	return nil
}

// udpTo matches connections by the port that the client sent to, but for those
// that lead to one address.
type udpTo struct {
	ports []uint16
	but   netip.Addr
}

func (u udpTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP || !slices.Contains(u.ports, flow.Forward.DstPort) {
		return false
	}
	answers, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !u.but.IsValid() || answers.Unmap() != u.but
}
