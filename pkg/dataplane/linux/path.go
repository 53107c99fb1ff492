package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// hop is the kernel's answer to "how would you send a packet there": the result
// of a lookup (RTM_GETROUTE without RTM_F_FIB_MATCH), not an entry of a table.
type hop struct {
	typ      uint8
	index    int
	via, src netip.Addr
}

// parseHop reads the answer. IPv6 gives a route that lets nothing pass as one
// of its type, IPv4 as an error.
func parseHop(m []byte) (hop, bool) {
	if len(m) < unix.SizeofRtMsg {
		return hop{}, false
	}
	h := hop{typ: nl.DeserializeRtMsg(m).Type}
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		switch a.kind {
		case unix.RTA_OIF:
			h.index = int(a.uint32())
		case unix.RTA_GATEWAY:
			h.via = a.addr()
		case unix.RTA_VIA: // of an IPv4 route with an IPv6 gateway: struct rtvia
			if len(a.value) > 2 {
				h.via, _ = netip.AddrFromSlice(a.value[2:])
			}
		case unix.RTA_PREFSRC:
			h.src = a.addr()
		}
	}
	if h.typ == unix.RTN_LOCAL {
		h.index = loopbackIndex // IPv6 names now this, now the interface that has the address
	}
	return h, h.typ == unix.RTN_UNICAST || h.typ == unix.RTN_LOCAL
}

// loopbackIndex is LOOPBACK_IFINDEX (include/net/flow.h).
const loopbackIndex = 1

// paths asks for one address after another: what is asked for may be few of
// many routes, and only a lookup knows the host's rules.
func (k *Kernel) paths(
	ctx context.Context, peers []netip.Addr, names map[int]string,
) (map[netip.Addr]dataplane.Route, error) {
	out := make(map[netip.Addr]dataplane.Route, len(peers))
	for _, peer := range peers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !peer.IsValid() || peer.Zone() != "" {
			continue
		}
		header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family(peer), Dst_len: uint8(peer.BitLen())}}
		h, ok, err := get(k, unix.RTM_GETROUTE, parseHop, header, addrAttr(unix.RTA_DST, peer))
		if err != nil && !unreachable(err) {
			return nil, fmt.Errorf("look up the path to %s: %w", peer, err)
		}
		link := names[h.index]
		if err != nil || !ok || link == "" {
			continue
		}
		out[peer] = dataplane.Route{Via: h.via, Link: link, Src: h.src}
	}
	return out, nil
}

// unreachable is how the kernel says that there is no way: no route, or one
// that lets nothing pass.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || refusal(err) || gone(err)
}
