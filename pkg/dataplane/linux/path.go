package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	mtu      int // that the route says; 0: none
}

// parseHop reads the answer. IPv6 gives a route that lets nothing pass as one
// of its type, IPv4 as an error.
func parseHop(m []byte) (hop, bool) {
	if len(m) < unix.SizeofRtMsg {
		return hop{}, false
	}
	h := hop{typ: nl.DeserializeRtMsg(m).Type}
	learned := false
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
		case unix.RTA_METRICS:
			h.mtu = metricMTU(a.value)
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo: it will be forgotten
			learned = len(a.value) >= expiresAt+4 && binary.NativeEndian.Uint32(a.value[expiresAt:]) != 0
		}
	}
	if learned {
		h.mtu = 0
	}
	if h.typ == unix.RTN_LOCAL {
		h.index = loopbackIndex // IPv6 names now this, now the interface that has the address
	}
	return h, h.typ == unix.RTN_UNICAST || h.typ == unix.RTN_LOCAL
}

func metricMTU(metrics []byte) (mtu int) {
	for metric := range attrs(metrics) {
		if metric.kind == unix.RTAX_MTU {
			mtu = int(metric.uint32())
		}
	}
	return mtu
}

const expiresAt = 8 // rta_expires in struct rta_cacheinfo

// loopbackIndex is LOOPBACK_IFINDEX (include/net/flow.h).
const loopbackIndex = 1

// paths asks for each address: what is asked for may be few of many routes, and
// only a lookup knows the host's rules.
func (k *Kernel) paths(
	ctx context.Context, peers []netip.Addr, names map[int]string,
) (out map[netip.Addr]dataplane.Route, mtus map[netip.Addr]int, err error) {
	out, mtus = make(map[netip.Addr]dataplane.Route, len(peers)), map[netip.Addr]int{}
	err = gets(k, slices.DeleteFunc(slices.Clone(peers), pathless), func(e *encoder, peer netip.Addr) {
		e.begin(unix.RTM_GETROUTE, 0)
		e.bytes(family(peer), uint8(peer.BitLen()), 0, 0, 0, 0, 0, 0)
		e.uint32(0)
		e.addrAttr(unix.RTA_DST, peer)
		e.end()
	}, func(peer netip.Addr, m message) error {
		if m.typ == unix.NLMSG_ERROR {
			if err := m.failure(); err != nil && !unreachable(err) {
				return fmt.Errorf("look up the path to %s: %w", peer, err)
			}
			return ctx.Err()
		}
		if h, ok := parseHop(m.data); ok && names[h.index] != "" {
			out[peer] = dataplane.Route{Via: h.via, Link: names[h.index], Src: h.src}
			if h.mtu > 0 {
				mtus[peer] = h.mtu
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, nil, err
	}
	return out, mtus, nil
}

// pathless tells what no lookup knows a path to.
func pathless(peer netip.Addr) bool { return !peer.IsValid() || peer.Zone() != "" }

// unreachable is how the kernel says that there is no way: no route, or one
// that lets nothing pass.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || refusal(err) || gone(err)
}
