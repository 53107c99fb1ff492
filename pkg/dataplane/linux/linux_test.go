package linux_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

const (
	dev    = "flannel.1"
	uplink = "up0"
)

// host is a namespace with an underlay and a Kernel.
type host struct {
	*testing.T
	*linux.Kernel
	admin *admin
	ns    *netnstest.NS
}

func newHost(t *testing.T) *host {
	t.Helper()
	n := netnstest.New(t)
	h := &host{T: t, Kernel: open(t, n), admin: newAdmin(t, n), ns: n}
	h.admin.Put(dataplane.State{
		Links: map[string]dataplane.Link{uplink: {MTU: 1500, Up: true}},
		Addrs: map[dataplane.AddrKey]struct{}{
			{Link: uplink, Prefix: netip.MustParsePrefix("192.0.2.1/24")}:   {},
			{Link: uplink, Prefix: netip.MustParsePrefix("2001:db8::1/64")}: {},
		},
	})
	return h
}

func device() dataplane.Link {
	return dataplane.Link{
		VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Parent: uplink,
		MAC: mac.Addr{2, 0x42, 0, 0, 0, 1}, MTU: 1450, Up: true,
	}
}

func links() dataplane.State {
	return dataplane.State{Links: map[string]dataplane.Link{dev: device()}}
}

func scope(all bool, keys dataplane.State) dataplane.Scope {
	return dataplane.Scope{All: all, Keys: keys, Domain: dataplane.Domain{
		Links:    map[string]dataplane.Link{dev: device()},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")},
		Tables:   []string{"weft"},
		Chains:   owned(),
	}}
}

func owned() []ruleset.Key {
	var keys []ruleset.Key
	for _, e := range []ruleset.Engine{ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		for _, ipv6 := range []bool{false, true} {
			keys = append(keys,
				ruleset.Key{Engine: e, IPv6: ipv6, Table: "nat", Chain: "FLANNEL-POSTRTG"},
				ruleset.Key{Engine: e, IPv6: ipv6, Table: "filter", Chain: "FLANNEL-FWD"})
		}
	}
	return keys
}

func (h *host) observe(s dataplane.Scope) dataplane.Observed {
	h.Helper()
	o, err := h.Observe(h.Context(), s)
	if err != nil {
		h.Fatal(err)
	}
	return o
}

func (h *host) plan(want dataplane.State) dataplane.Plan {
	h.Helper()
	return dataplane.Diff(want, h.observe(scope(true, dataplane.State{})))
}

func (h *host) settle(want dataplane.State) {
	h.Helper()
	for _, err := range h.Apply(h.Context(), h.plan(want)) {
		h.Error(err)
	}
	if p := h.plan(want); !p.Empty() {
		h.Fatalf("not converged:\n%s", p)
	}
}

func (h *host) same(want, have any) {
	h.Helper()
	if diff := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		h.Errorf("(-want +have):\n%s", diff)
	}
}

// flannel's shape: `vxlan id 1 local 192.0.2.1 dev up0 srcport 0 0 dstport 8472
// nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx`.
func TestShapeOfTheDevice(t *testing.T) {
	h := newHost(t)
	h.settle(links())
	v, ok := h.admin.link(dev).(*netlink.Vxlan)
	if !ok {
		t.Fatalf("%s is a %s", dev, h.admin.link(dev).Type())
	}
	have := *v
	have.LinkAttrs = netlink.LinkAttrs{}
	have.SrcAddr = v.SrcAddr.To4()
	h.same(netlink.Vxlan{
		VxlanId: 1, VtepDevIndex: h.admin.index(uplink), SrcAddr: net.IPv4(192, 0, 2, 1).To4(), Port: 8472, Age: 300,
		UDPCSum: true,
	}, have)
	if v.Flags&net.FlagBroadcast == 0 || v.Flags&net.FlagMulticast == 0 || v.Flags&net.FlagUp == 0 {
		t.Errorf("flags: %s", v.Flags)
	}
	h.ns.Do(func() {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + dev + "/accept_ra")
		if err != nil || strings.TrimSpace(string(b)) != "0" {
			t.Errorf("accept_ra: %q, %v", b, err)
		}
	})
}

// What fails must say who is in the way.
func TestWhoIsInTheWay(t *testing.T) {
	tests := map[string]struct {
		before func(*host)
		says   string
		is     error
	}{
		"a process holds the UDP port": {func(h *host) {
			h.ns.Do(func() {
				c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 8472})
				if err != nil {
					h.Fatal(err)
				}
				h.Cleanup(func() { _ = c.Close() })
			})
		}, "UDP port 8472 is occupied by a process", unix.EADDRINUSE},
		"an external device holds the UDP port": {func(h *host) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "cilium_vxlan"
			h.admin.must(h.admin.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: 8472}))
			h.admin.must(h.admin.LinkSetUp(h.admin.link(attrs.Name)))
		}, "UDP port 8472 is occupied by the VXLAN device cilium_vxlan", unix.EADDRINUSE},
		"the underlay is missing": {func(h *host) {
			h.admin.Delete(dataplane.State{Links: map[string]dataplane.Link{uplink: {}}})
		}, "underlay interface up0", unix.ENODEV},
		"a device came after the look": {func(h *host) {
			h.admin.Put(dataplane.State{Links: map[string]dataplane.Link{dev: {MTU: 1500}}})
		}, "flannel.1 is another kind of interface", dataplane.ErrOccupied},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			p := h.plan(links())
			test.before(h)
			failed := h.Apply(t.Context(), p)
			if len(failed) != 1 {
				t.Fatalf("want one error, have %v", failed)
			}
			if !errors.Is(failed[0], test.is) || !strings.Contains(failed[0].Error(), test.says) {
				t.Errorf("want %v with %q, have: %v", test.is, test.says, failed[0])
			}
		})
	}
}

// Routes on our key in shapes that a dataplane.Route can't say.
func TestRoutesOfOtherShapes(t *testing.T) {
	v4 := dataplane.RouteKey{Prefix: netip.MustParsePrefix("10.42.5.0/24")}
	v6 := dataplane.RouteKey{Prefix: netip.MustParsePrefix("fd00:42:0:5::/64"), Metric: 1024}
	two := func(gw ...string) []*netlink.NexthopInfo {
		var out []*netlink.NexthopInfo
		for _, g := range gw {
			out = append(out, &netlink.NexthopInfo{Gw: net.ParseIP(g)})
		}
		return out
	}
	tests := map[string]struct {
		key   dataplane.RouteKey
		route netlink.Route
	}{
		"multipath IPv4":   {v4, netlink.Route{MultiPath: two("192.0.2.8", "192.0.2.9")}},
		"multipath IPv6":   {v6, netlink.Route{MultiPath: two("2001:db8::8", "2001:db8::9")}},
		"blackhole IPv4":   {v4, netlink.Route{Type: unix.RTN_BLACKHOLE}},
		"blackhole IPv6":   {v6, netlink.Route{Type: unix.RTN_BLACKHOLE}},
		"unreachable IPv4": {v4, netlink.Route{Type: unix.RTN_UNREACHABLE}},
		"prohibit IPv6":    {v6, netlink.Route{Type: unix.RTN_PROHIBIT}},
		"with an MTU":      {v4, netlink.Route{Gw: net.IPv4(192, 0, 2, 9), MTU: 1400}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.settle(links())
			r := test.route
			r.Dst, r.Priority = ipNet(test.key.Prefix), test.key.Metric
			h.admin.must(h.admin.RouteAdd(&r))
			key := dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{test.key: {}}}
			o := h.observe(scope(false, key))
			if _, taken := o.Occupied.Routes[test.key]; !taken || len(o.Have.Routes) > 0 {
				t.Errorf("foreign: want it in Occupied, have %+v", o)
			}
			h.admin.must(h.admin.RouteDel(&r))
			r.Protocol = linux.RouteProtocol
			h.admin.must(h.admin.RouteAdd(&r))
			want := links()
			want.Routes = map[dataplane.RouteKey]dataplane.Route{
				test.key: {Via: test.key.Prefix.Addr(), Link: dev, OnLink: true},
			}
			h.settle(want)
		})
	}
}

// An aggregate route that covers the gateways makes IPv6 refuse onlink routes.
func TestAggregateRouteInTheWay(t *testing.T) {
	h := newHost(t)
	want := links()
	want.Routes = map[dataplane.RouteKey]dataplane.Route{}
	for _, p := range []string{"10.42.5.0/24", "fd00:42:0:5::/64"} {
		key := dataplane.RouteKey{Prefix: netip.MustParsePrefix(p)}
		if key.Prefix.Addr().Is6() {
			key.Metric = 1024
		}
		want.Routes[key] = dataplane.Route{Via: key.Prefix.Addr(), Link: dev, OnLink: true}
	}
	h.admin.Put(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
		{Prefix: netip.MustParsePrefix("10.42.0.0/16")}: {Via: netip.MustParseAddr("192.0.2.9"), Link: uplink},
		{Prefix: netip.MustParsePrefix("fd00:42::/48"), Metric: 1024}: {
			Via: netip.MustParseAddr("2001:db8::9"), Link: uplink,
		},
	}})
	before := h.admin.Dump()
	h.settle(want)
	h.settle(dataplane.State{})
	h.same(before, h.admin.Dump())
}

// An FDB entry with a VNI of its own leads into somebody else's network.
func TestForwardWithSettingsOfItsOwn(t *testing.T) {
	h := newHost(t)
	want := links()
	peer, vtep := mac.Addr{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("192.0.2.9")
	want.FDB = map[dataplane.FDBKey]netip.Addr{{Link: dev, MAC: peer}: vtep}
	h.settle(want)
	h.admin.must(h.admin.NeighSet(&netlink.Neigh{
		Family: unix.AF_BRIDGE, LinkIndex: h.admin.index(dev), State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		HardwareAddr: peer.Hardware(), IP: vtep.AsSlice(), VNI: 77,
	}))
	if p := h.plan(want); len(p.Ops) != 1 {
		t.Errorf("want one change, have:\n%s", p)
	}
	h.settle(want)
}

// What the kernel and the learning of a device put beside ours is not ours.
func TestNotOurs(t *testing.T) {
	h := newHost(t)
	h.settle(links())
	before := h.observe(scope(true, dataplane.State{}))
	index := h.admin.index(dev)
	hw := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	for _, n := range []netlink.Neigh{
		{Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_REACHABLE, HardwareAddr: hw},
		{State: netlink.NUD_STALE, HardwareAddr: hw},
		{State: netlink.NUD_NOARP, HardwareAddr: hw},
	} {
		n.LinkIndex, n.IP = index, net.IPv4(192, 0, 2, byte(9+n.State))
		h.admin.must(h.admin.NeighSet(&n))
	}
	h.admin.must(h.admin.NeighAppend(&netlink.Neigh{ // as the kernel makes it for a group
		Family: unix.AF_BRIDGE, LinkIndex: index, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		HardwareAddr: make([]byte, 6), IP: net.IPv4(192, 0, 2, 8),
	}))
	after := h.observe(scope(true, dataplane.State{}))
	h.same(before.Have, after.Have)
}

// Enabling IPv6 forwarding must not cost the default route.
func TestForwardingKeepsAdvertisedRoutes(t *testing.T) {
	h := newHost(t)
	_, all, _ := net.ParseCIDR("::/0")
	h.admin.must(h.admin.RouteAdd(&netlink.Route{
		Dst: all, Gw: net.ParseIP("2001:db8::9"), LinkIndex: h.admin.index(uplink), Protocol: unix.RTPROT_RA,
	}))
	h.settle(dataplane.State{Sysctls: map[string]string{"net/ipv6/conf/all/forwarding": "1"}})
	have := h.observe(scope(false, dataplane.State{Sysctls: map[string]string{
		"net/ipv6/conf/" + uplink + "/accept_ra": "", "net/ipv6/conf/all/forwarding": "", "net/no/such": "",
	}}))
	h.same(map[string]string{
		"net/ipv6/conf/" + uplink + "/accept_ra": "2", "net/ipv6/conf/all/forwarding": "1",
	}, have.Have.Sysctls)
}

func TestSysctlsStayBelowNet(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"kernel/hostname", "net/../kernel/hostname", "/etc/passwd"} {
		failed := h.Apply(t.Context(), dataplane.Plan{Ops: []dataplane.Op{
			{Verb: dataplane.Create, Kind: dataplane.KindSysctl, Key: name, New: "x"},
		}})
		if len(failed) != 1 || !strings.Contains(failed[0].Error(), "not the name of a network sysctl") {
			t.Errorf("%s: %v", name, failed)
		}
	}
}
