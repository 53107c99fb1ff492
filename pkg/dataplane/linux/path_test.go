package linux_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// Paths in shapes that kerneltest can't make: by the host's rules, by gateways
// of the other family, and routes that let nothing pass.
func TestPaths(t *testing.T) {
	h := newHost(t)
	index := h.admin.index(uplink)
	add := func(dst string, r netlink.Route) {
		r.Dst = ipNet(netip.MustParsePrefix(dst))
		h.admin.must(h.admin.RouteAdd(&r))
	}
	rule := netlink.NewRule()
	rule.Dst, rule.Table, rule.Family = ipNet(netip.MustParsePrefix("198.51.100.0/24")), 77, netlink.FAMILY_V4
	h.admin.must(h.admin.RuleAdd(rule))
	add("198.51.100.0/24", netlink.Route{Gw: net.IPv4(192, 0, 2, 8), Table: 77})
	add("203.0.113.0/24", netlink.Route{
		LinkIndex: index, Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("2001:db8::9")},
	})
	add("192.0.2.128/25", netlink.Route{LinkIndex: index, Src: net.IPv4(192, 0, 2, 1), Scope: netlink.SCOPE_LINK})
	types := []int{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW}
	asked := []string{
		"198.51.100.7", "203.0.113.7", "192.0.2.200", "2001:db8::7", "192.0.2.255", "224.0.0.1", "fe80::1%eth0",
		"255.255.255.255",
	}
	for i, typ := range types {
		p4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 0}), 24)
		p6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, byte(i)}), 48)
		for _, p := range []netip.Prefix{p4, p6} {
			add(p.String(), netlink.Route{Type: typ})
			asked = append(asked, p.Addr().Next().String())
		}
	}
	for dst, mtu := range map[string]int{"203.0.113.128/25": 1400, "2001:db8:5::/48": 1380} {
		gateway := net.IPv4(192, 0, 2, 8)
		if netip.MustParsePrefix(dst).Addr().Is6() {
			gateway = net.ParseIP("2001:db8::8")
		}
		add(dst, netlink.Route{Gw: gateway, MTU: mtu})
	}
	bound := map[netip.Addr]int{
		netip.MustParseAddr("203.0.113.200"): 1400, netip.MustParseAddr("2001:db8:5::7"): 1380,
	}
	var peers []netip.Addr
	for _, a := range asked {
		peers = append(peers, netip.MustParseAddr(a))
	}
	facts, err := h.Facts(t.Context(), append(peers, netip.Addr{}))
	if err != nil {
		t.Fatal(err)
	}
	more, err := h.Facts(t.Context(), append(peers, slices.Collect(maps.Keys(bound))...))
	if err != nil {
		t.Fatal(err)
	}
	h.same(bound, more.PathMTU)
	us4, us6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	h.same(map[netip.Addr]dataplane.Route{
		netip.MustParseAddr("198.51.100.7"): {Via: netip.MustParseAddr("192.0.2.8"), Link: uplink, Src: us4},
		netip.MustParseAddr("203.0.113.7"):  {Via: netip.MustParseAddr("2001:db8::9"), Link: uplink, Src: us4},
		netip.MustParseAddr("192.0.2.200"):  {Link: uplink, Src: us4},
		netip.MustParseAddr("2001:db8::7"):  {Link: uplink, Src: us6},
	}, facts.Paths)
}
