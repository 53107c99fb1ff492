package linux

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// route is an entry of a routing table.
type route struct {
	key      dataplane.RouteKey
	protocol uint8
	index    int // of the interface; 0 for none or several
	via, src netip.Addr
	onlink   bool
	unicast  bool
	black    bool // a blackhole
	// plain: unicast with one next hop or a blackhole, and nothing that
	// dataplane.Route can't say (multipath, tunnels, metrics).
	plain   bool
	nexthop uint32 // the object that it goes by; 0 is none
	// other: the kernel keeps it apart from the route with the same key (it
	// is for one type of service only, or from one source).
	other bool
}

// routeFilter is what a dump asks for; zero fields don't matter.
type routeFilter struct {
	family   uint8
	protocol uint8
	index    int
	table    int // as in the kernel: 254 is main
	defaults bool
}

// rtaNexthop is RTA_NH_ID (linux/rtnetlink.h), which x/sys lacks.
const rtaNexthop = 30

func parseRoute(m []byte) (route, bool) {
	if len(m) < unix.SizeofRtMsg {
		return route{}, false
	}
	header := nl.DeserializeRtMsg(m)
	if header.Flags&unix.RTM_F_CLONED != 0 || header.Family != unix.AF_INET && header.Family != unix.AF_INET6 {
		return route{}, false
	}
	dst := anyPrefix(header.Family).Addr()
	table := uint32(header.Table)
	r := route{
		protocol: header.Protocol,
		onlink:   header.Flags&unix.RTNH_F_ONLINK != 0,
		unicast:  header.Type == unix.RTN_UNICAST,
		black:    header.Type == unix.RTN_BLACKHOLE,
		plain:    header.Type == unix.RTN_UNICAST || header.Type == unix.RTN_BLACKHOLE,
		other:    header.Tos != 0 || header.Src_len != 0,
	}
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		switch a.kind {
		case unix.RTA_DST:
			dst = a.addr()
		case unix.RTA_TABLE:
			table = a.uint32()
		default:
			r.take(a)
		}
	}
	if table != unix.RT_TABLE_MAIN {
		r.key.Table = int(table)
	}
	r.key.Prefix = netip.PrefixFrom(dst, int(header.Dst_len))
	if r.black {
		r.plain = r.nexthop == 0
		r.index = 0 // IPv6 has one for every route: the loopback's here
	}
	return r, r.key.Prefix.IsValid()
}

func (r *route) take(a attr) {
	switch a.kind {
	case unix.RTA_PRIORITY:
		r.key.Metric = int(a.uint32())
	case unix.RTA_OIF:
		r.index = int(a.uint32())
	case unix.RTA_GATEWAY:
		r.via = a.addr()
	case unix.RTA_PREFSRC:
		r.src = a.addr()
	case unix.RTA_MULTIPATH:
		r.plain = false
		r.firstHop(a.value)
	case rtaNexthop:
		r.nexthop = a.uint32()
	case unix.RTA_VIA, unix.RTA_METRICS, unix.RTA_ENCAP_TYPE, unix.RTA_NEWDST:
		r.plain = false
	}
}

// firstHop reads the first next hop of several: enough to name the route.
func (r *route) firstHop(b []byte) {
	if len(b) < unix.SizeofRtNexthop {
		return
	}
	hop := nl.DeserializeRtNexthop(b)
	r.index = int(hop.Ifindex)
	size := min(len(b), max(unix.SizeofRtNexthop, int(hop.RtNexthop.Len)))
	for a := range attrs(b[unix.SizeofRtNexthop:size]) {
		if a.kind == unix.RTA_GATEWAY {
			r.via = a.addr()
		}
	}
}

// routesBy dumps the routes that the filter lets through, in all tables if it
// names none. The kernel filters from 4.20 on; what it sends too much is
// dropped here.
func (k *Kernel) routesBy(f routeFilter) ([]route, error) {
	c, err := k.route()
	if err != nil {
		return nil, err
	}
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: f.family}}
	data := []nl.NetlinkRequestData{header}
	if c.strict {
		header.Protocol = f.protocol
		if f.table != 0 {
			data = append(data, uint32Attr(unix.RTA_TABLE, uint32(f.table)))
		}
		if f.index != 0 {
			data = append(data, uint32Attr(unix.RTA_OIF, uint32(f.index)))
		}
	}
	all, err := dump(k, unix.RTM_GETROUTE, func(m []byte) (route, bool) {
		if f.defaults && len(m) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m).Dst_len != 0 {
			return route{}, false // the kernel can't filter by prefix: skip them cheaply
		}
		r, ok := parseRoute(m)
		return r, ok && f.lets(r)
	}, data...)
	if err != nil && !gone(err) { // gone: no such table, no such interface
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

func (f routeFilter) lets(r route) bool {
	return (f.protocol == 0 || r.protocol == f.protocol) &&
		(f.index == 0 || r.index == f.index) &&
		(f.table == 0 || kernelTable(r.key.Table) == f.table)
}

func kernelTable(table int) int {
	if table == 0 {
		return unix.RT_TABLE_MAIN
	}
	return table
}

// value is the route in canonical form.
func (r route) value(link string) dataplane.Route {
	return dataplane.Route{Via: r.via, Link: link, OnLink: r.onlink, Src: r.src, Blackhole: r.black}
}

// verdict of a single get about a key.
type verdict byte

const (
	unsure verdict = iota // only a dump can tell
	found
	absent
)

// routeAt asks for the route that a packet to the key's prefix would take
// (RTM_F_FIB_MATCH: the entry of the table, not a cache entry made from it).
// The kernel picks the longest prefix and, among the same, the lowest metric,
// so the answer tells about the key unless another entry hides it.
func (k *Kernel) routeAt(key dataplane.RouteKey) (r route, is verdict, err error) {
	err = k.routesAt([]dataplane.RouteKey{key}, func(_ dataplane.RouteKey, at route, v verdict) { r, is = at, v })
	return r, is, err
}

// routesAt is routeAt for many keys. What it calls must not send anything.
func (k *Kernel) routesAt(keys []dataplane.RouteKey, tell func(dataplane.RouteKey, route, verdict)) error {
	return gets(k, keys, func(e *encoder, key dataplane.RouteKey) {
		ip, flags := key.Prefix.Addr(), uint32(unix.RTM_F_FIB_MATCH)
		if ip.Is4() {
			flags |= unix.RTM_F_LOOKUP_TABLE // IPv6 always names the table, and refuses the flag
		}
		e.begin(unix.RTM_GETROUTE, 0)
		e.bytes(family(ip), uint8(ip.BitLen()), 0, 0, 0, 0, 0, 0)
		e.uint32(flags)
		e.addrAttr(unix.RTA_DST, ip)
		e.end()
	}, func(key dataplane.RouteKey, m message) error {
		if m.typ == unix.NLMSG_ERROR {
			switch err := m.failure(); {
			case errors.Is(err, unix.ENETUNREACH):
				tell(key, route{}, absent)
			case refusal(err) || err == nil:
				tell(key, route{}, unsure) // a blackhole, unreachable or prohibit route; or an old kernel
			default:
				return fmt.Errorf("look up route %s: %w", key, err)
			}
			return nil
		}
		if r, ok := parseRoute(m.data); ok {
			tell(key, r, judge(key, r))
		} else {
			tell(key, route{}, unsure)
		}
		return nil
	})
}

// refusal is how the kernel answers for a route that lets nothing pass.
func refusal(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.EOPNOTSUPP)
}

func judge(key dataplane.RouteKey, r route) verdict {
	switch {
	case r.other || r.key.Table != key.Table:
		return unsure
	case r.key == key:
		return found
	case r.key.Prefix == key.Prefix && r.key.Metric > key.Metric,
		r.key.Prefix.Bits() < key.Prefix.Bits():
		return absent
	}
	return unsure
}

// routeWrite is a route with what the kernel is told besides.
type routeWrite struct {
	key      dataplane.RouteKey
	route    dataplane.Route
	protocol uint8
	index    int    // of the link
	nexthop  uint32 // the object that it goes by; 0 is none
	flags    int    // what to do about one that is there
}

// putRoute creates a route, or replaces what stands on its key.
func (e *encoder) putRoute(w routeWrite) {
	h := unix.RtMsg{Protocol: w.protocol, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST}
	if w.route.Blackhole {
		h.Type = unix.RTN_BLACKHOLE
	}
	if w.route.OnLink && w.nexthop == 0 {
		h.Flags = unix.RTNH_F_ONLINK
	}
	e.beginRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|w.flags, w.key, h)
	if w.nexthop != 0 {
		e.uint32Attr(rtaNexthop, w.nexthop)
	} else {
		e.hopOf(w.route.Via, w.index)
	}
	if w.route.Src.IsValid() {
		e.addrAttr(unix.RTA_PREFSRC, w.route.Src)
	}
	e.end()
}

// deleteRoute names the protocol, so that it can't hit a foreign route which
// took the key meanwhile. It names gateway and interface where there can be no
// object: the kernel finds no route that goes by one by what the object says.
func (e *encoder) deleteRoute(w routeWrite) {
	h := unix.RtMsg{Protocol: w.protocol, Scope: unix.RT_SCOPE_NOWHERE}
	_, tunnelled := tunnel(w.route, w.index)
	switch {
	case w.route.Unmarked:
		h.Protocol, tunnelled = unix.RTPROT_BOOT, false
	case tunnelled:
		h.Type = unix.RTN_UNICAST
	}
	e.beginRoute(unix.RTM_DELROUTE, 0, w.key, h)
	if !tunnelled {
		e.hopOf(w.route.Via, w.index)
	}
	e.end()
}

func (e *encoder) beginRoute(typ, flags int, key dataplane.RouteKey, h unix.RtMsg) {
	e.begin(typ, flags)
	e.bytes(family(key.Prefix.Addr()), uint8(key.Prefix.Bits()), 0, 0, 0, h.Protocol, h.Scope, h.Type)
	e.uint32(h.Flags)
	e.addrAttr(unix.RTA_DST, key.Prefix.Addr())
	e.uint32Attr(unix.RTA_TABLE, uint32(kernelTable(key.Table)))
	if key.Metric != 0 {
		e.uint32Attr(unix.RTA_PRIORITY, uint32(key.Metric))
	}
}

// hopOf names the gateway and the interface, as far as there are.
func (e *encoder) hopOf(via netip.Addr, index int) {
	if via.IsValid() {
		e.addrAttr(unix.RTA_GATEWAY, via)
	}
	if index != 0 {
		e.uint32Attr(unix.RTA_OIF, uint32(index))
	}
}
