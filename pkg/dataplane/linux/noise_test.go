package linux

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/netnstest"
)

func TestRoutesThatPass(t *testing.T) {
	dual := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/15"), netip.MustParsePrefix("fd00:42:0:8000::/49")}
	type table = map[string]struct {
		networks []netip.Prefix
		protocol uint8
		dst      string
		passes   bool
	}
	const bgp = unix.RTPROT_BGP
	for name, c := range (table{
		"a foreign one":                       {dual, bgp, "198.51.100.0/24", false},
		"a foreign one of IPv6":               {dual, bgp, "2001:db8::/32", false},
		"a pod's":                             {dual, unix.RTPROT_KERNEL, "10.88.1.0/24", false},
		"in our network":                      {dual, bgp, "10.43.7.0/24", true},
		"just before it":                      {dual, bgp, "10.41.255.0/24", false},
		"just behind it":                      {dual, bgp, "10.44.0.0/24", false},
		"in our network of IPv6":              {dual, bgp, "fd00:42:0:8001::/64", true},
		"just before that":                    {dual, bgp, "fd00:42:0:7fff::/64", false},
		"just behind that":                    {dual, bgp, "fd00:42:1::/64", false},
		"in another half of the Internet":     {dual, bgp, "fd00:43:0:8001::/64", false},
		"to a single address":                 {dual, bgp, "10.42.1.7/32", true},
		"the default":                         {dual, bgp, "0.0.0.0/0", true},
		"the default of IPv6":                 {dual, bgp, "::/0", true},
		"of our protocol, anywhere":           {dual, RouteProtocol, "198.51.100.0/24", true},
		"by hand, anywhere":                   {dual, unix.RTPROT_BOOT, "198.51.100.0/24", true},
		"while our networks are not known":    {nil, bgp, "198.51.100.0/24", true},
		"while they are too many":             {slices.Repeat(dual, 3), bgp, "198.51.100.0/24", true},
		"of IPv6, in a network of IPv4 alone": {dual[:1], bgp, "fd00:42:0:8001::/64", false},
	}) {
		t.Run(name, func(t *testing.T) {
			dst := netip.MustParsePrefix(c.dst)
			for _, typ := range []int{unix.RTM_NEWROUTE, unix.RTM_DELROUTE} {
				m := routeNotice(typ, c.protocol, dst)
				passes(t, muting([]uint32{7, 8}, ourRoutes(RouteProtocol, c.networks)), m, c.passes)
			}
			passes(t, ourRoutes(RouteProtocol, c.networks), routeNotice(unix.RTM_NEWLINK, c.protocol, dst), true)
		})
	}
}

// routeNotice is what the kernel tells of a route.
func routeNotice(typ int, protocol uint8, dst netip.Prefix) []byte {
	family := uint8(unix.AF_INET)
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	var e encoder
	e.begin(typ, 0)
	e.bytes(family, uint8(dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	e.bytes(0, 0, 0, 0) // flags
	e.uint32Attr(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	if dst.Bits() > 0 {
		e.addrAttr(unix.RTA_DST, dst.Addr())
	}
	e.uint32Attr(unix.RTA_OIF, 1)
	e.end()
	return e.buf
}

// The kernel's own notifications look as the filter thinks.
func TestRoutesThatPassInTheKernel(t *testing.T) {
	n := netnstest.New(t)
	k, err := New(Options{Namespace: n.Handle()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	l, err := k.ns.listen(unix.NETLINK_ROUTE, watchBuffer, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	k.memory.domain.Networks = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}
	k.memory.hear(l, unix.NETLINK_ROUTE)
	h, err := netlink.NewHandleAt(n.Handle(), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "foreign0"
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	link, err := h.LinkByName(attrs.Name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := []string{
		"198.51.100.0/24", "10.42.7.0/24", "2001:db8::/32", "fd00:42:0:7::/64", "10.43.7.0/24", "0.0.0.0/0", "::/0", "10.42.255.0/24",
	}
	want := []string{"10.42.7.0/24", "fd00:42:0:7::/64", "0.0.0.0/0", "::/0", "10.42.255.0/24"}
	for _, text := range all {
		_, dst, _ := net.ParseCIDR(text)
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Protocol: unix.RTPROT_BGP}
		if err := h.RouteAdd(r); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	var have []string
	for !slices.Contains(have, all[len(all)-1]) {
		messages, err := l.receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			r, ok := parseRoute(m.Data)
			if ok && r.protocol == unix.RTPROT_BGP {
				have = append(have, r.key.Prefix.String())
			}
		}
	}
	if !slices.Equal(want, have) {
		t.Errorf("heard %v, want %v", have, want)
	}
}
