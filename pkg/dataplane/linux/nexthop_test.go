package linux_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/linux"
)

// nhmsg is struct nhmsg of a request.
type nhmsg struct {
	family, protocol uint8
	flags            uint32
}

func (m nhmsg) Len() int { return 8 }

func (m nhmsg) Serialize() []byte {
	return append([]byte{m.family, 0, m.protocol, 0}, nl.Uint32Attr(m.flags)...)
}

// nexthop asks the kernel about objects, with vishvananda's codec.
func (h *host) nexthop(typ, flags int, m nhmsg, attrs ...*nl.RtAttr) (answers [][]byte) {
	h.Helper()
	h.ns.Do(func() {
		req := nl.NewNetlinkRequest(typ, flags)
		req.AddData(m)
		for _, a := range attrs {
			req.AddData(a)
		}
		var err error
		if answers, err = req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			h.Fatalf("nexthop request %d: %v", typ, err)
		}
	})
	return answers
}

// putNexthop is `ip nexthop replace id ID via VIA dev LINK onlink proto PROTOCOL`.
func (h *host) putNexthop(id uint32, via, link string, protocol uint8) {
	h.Helper()
	h.nexthop(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK,
		nhmsg{unix.AF_INET, protocol, unix.RTNH_F_ONLINK}, nl.NewRtAttr(unix.NHA_ID, nl.Uint32Attr(id)),
		nl.NewRtAttr(unix.NHA_OIF, nl.Uint32Attr(uint32(h.admin.index(link)))),
		nl.NewRtAttr(unix.NHA_GATEWAY, netip.MustParseAddr(via).AsSlice()))
}

func (h *host) deleteNexthop(id uint32) {
	h.Helper()
	h.nexthop(unix.RTM_DELNEXTHOP, unix.NLM_F_ACK, nhmsg{}, nl.NewRtAttr(unix.NHA_ID, nl.Uint32Attr(id)))
}

// objects are all nexthops: id → "VIA protocol PROTOCOL".
func (h *host) objects() map[uint32]string {
	h.Helper()
	out := map[uint32]string{}
	for _, m := range h.nexthop(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP, nhmsg{}) {
		attrs, err := nl.ParseRouteAttrAsMap(m[8:])
		h.admin.must(err)
		via, _ := netip.AddrFromSlice(attrs[unix.NHA_GATEWAY].Value)
		out[nl.NativeEndian().Uint32(attrs[unix.NHA_ID].Value)] = fmt.Sprintf("%s protocol %d", via, m[2])
	}
	return out
}

// users are the routes that go by objects: prefix → id.
func (h *host) users() map[string]uint32 {
	h.Helper()
	out := map[string]uint32{}
	h.ns.Do(func() {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}})
		answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
		h.admin.must(err)
		for _, m := range answers {
			attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofRtMsg:])
			h.admin.must(err)
			if id, ok := attrs[30]; ok { // RTA_NH_ID
				to, _ := netip.AddrFromSlice(attrs[unix.RTA_DST].Value)
				out[netip.PrefixFrom(to, int(m[1])).String()] = nl.NativeEndian().Uint32(id.Value)
			}
		}
	})
	return out
}

func newNexthopHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	if !h.HasNexthops() {
		t.Skip("this kernel has no nexthop objects: Linux 5.3 has")
	}
	h.settle(links())
	return h
}

// via is a want with routes to subnets of 10.42.0.0/16, each by its gateway.
func via(routes map[string]string) dataplane.State {
	want := links()
	want.Routes = map[dataplane.RouteKey]dataplane.Route{}
	for prefix, gateway := range routes {
		want.Routes[dataplane.RouteKey{Prefix: netip.MustParsePrefix(prefix)}] = dataplane.Route{
			Via: netip.MustParseAddr(gateway), Link: dev, OnLink: true,
		}
	}
	return want
}

func (h *host) idOf(gateway string, probe int) uint32 {
	h.Helper()
	return linux.NexthopID(h.admin.index(dev), netip.MustParseAddr(gateway), probe)
}

func ours(gateway string) string { return fmt.Sprintf("%s protocol %d", gateway, linux.RouteProtocol) }

// The life of objects: made with the first route, shared, gone with the last.
func TestNexthops(t *testing.T) {
	h := newNexthopHost(t)
	two, five := h.idOf("10.42.2.0", 0), h.idOf("10.42.5.0", 0)
	h.settle(via(map[string]string{"10.42.2.0/24": "10.42.2.0", "10.42.3.0/24": "10.42.2.0", "10.42.5.0/24": "10.42.5.0"}))
	h.same(map[uint32]string{two: ours("10.42.2.0"), five: ours("10.42.5.0")}, h.objects())
	h.same(map[string]uint32{"10.42.2.0/24": two, "10.42.3.0/24": two, "10.42.5.0/24": five}, h.users())
	h.settle(via(map[string]string{"10.42.3.0/24": "10.42.2.0", "10.42.5.0/24": "10.42.5.0"}))
	h.same(map[uint32]string{two: ours("10.42.2.0"), five: ours("10.42.5.0")}, h.objects())
	h.settle(via(map[string]string{"10.42.3.0/24": "10.42.5.0", "10.42.5.0/24": "10.42.5.0"}))
	h.same(map[uint32]string{five: ours("10.42.5.0")}, h.objects())
	h.settle(links())
	h.same(map[uint32]string{}, h.objects())
}

// Other tools see gateway, interface and flag of such a route.
func TestNexthopsSeenByOthers(t *testing.T) {
	h := newNexthopHost(t)
	h.settle(via(map[string]string{"10.42.2.0/24": "10.42.2.0"}))
	routes, err := h.admin.RouteList(h.admin.link(dev), netlink.FAMILY_V4)
	h.admin.must(err)
	if len(routes) != 1 || routes[0].Gw.String() != "10.42.2.0" || routes[0].Flags&unix.RTNH_F_ONLINK == 0 ||
		routes[0].Dst.String() != "10.42.2.0/24" || routes[0].Protocol != linux.RouteProtocol {
		t.Errorf("%+v", routes)
	}
}

// What flannel does on the way back to it: it replaces each route to a peer. It
// would delete by gateway and interface, which finds no route by an object.
func TestNexthopsAndFlannel(t *testing.T) {
	h := newNexthopHost(t)
	want := via(map[string]string{"10.42.2.0/24": "10.42.2.0"})
	h.settle(want)
	for key, r := range want.Routes {
		plain := h.admin.route(key, r)
		if err := h.admin.RouteDel(plain); !errors.Is(err, unix.ESRCH) {
			t.Errorf("want %v, have %v", unix.ESRCH, err)
		}
		h.admin.must(h.admin.RouteReplace(plain))
		h.same(map[string]uint32{}, h.users())
		h.admin.must(h.admin.RouteDel(plain))
		h.admin.must(h.admin.RouteAdd(plain))
	}
	h.settle(want) // and here we are again
	h.same(map[string]uint32{"10.42.2.0/24": h.idOf("10.42.2.0", 0)}, h.users())
}

// Routes that are right stay as they are, by an object or not.
func TestNexthopsAreNoReasonToWrite(t *testing.T) {
	h := newNexthopHost(t)
	want := via(map[string]string{"10.42.2.0/24": "10.42.2.0", "10.42.5.0/24": "10.42.5.0"})
	older := open(t, h.ns)
	older.ForceFallbacks()
	before := &host{T: t, Kernel: older, admin: h.admin, ns: h.ns}
	before.settle(want)
	h.same(map[uint32]string{}, h.objects())
	if p := h.plan(want); !p.Empty() {
		t.Errorf("over plain routes:\n%s", p)
	}
	h.settle(links())
	h.settle(want)
	if p := before.plan(want); !p.Empty() {
		t.Errorf("over routes by objects:\n%s", p)
	}
	before.settle(via(map[string]string{"10.42.2.0/24": "10.42.5.0"}))
	h.same(map[string]uint32{}, h.users())
}

// Ids that somebody else has are left to him; where there are too many of them,
// and where the kernel is told not to say where objects lead, routes are plain.
func TestNexthopsOfOthers(t *testing.T) {
	tests := map[string]struct {
		taken int // ids
		mode  string
		by    int // the object that we take, -1 for none
	}{
		"one id taken":           {1, "1", 1},
		"three ids taken":        {3, "1", 3},
		"all ids taken":          {8, "1", -1},
		"compatibility mode off": {0, "0", -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newNexthopHost(t)
			h.ns.Do(func() {
				h.admin.must(os.WriteFile("/proc/sys/net/ipv4/nexthop_compat_mode", []byte(test.mode), 0o644))
			})
			for i := range test.taken {
				h.putNexthop(h.idOf("10.42.2.0", i), "192.0.2.9", uplink, unix.RTPROT_ZEBRA)
			}
			foreign := h.objects()
			h.settle(via(map[string]string{"10.42.2.0/24": "10.42.2.0"}))
			want := map[string]uint32{}
			if test.by >= 0 {
				want["10.42.2.0/24"] = h.idOf("10.42.2.0", test.by)
			}
			h.same(want, h.users())
			h.settle(links())
			h.same(foreign, h.objects())
		})
	}
}

// meddler does something between two ops of an Apply.
type meddler struct {
	context.Context
	ops int
	do  func()
}

func (m *meddler) Err() error {
	if m.ops--; m.ops == 0 {
		m.do()
	}
	return m.Context.Err()
}

// An id that was free when we looked: its route must not lead where the other's
// object does.
func TestNexthopTakenMeanwhile(t *testing.T) {
	h := newNexthopHost(t)
	want := links()
	want.Routes = peers(200, false).Routes
	p := h.plan(want)
	last := p.Ops[len(p.Ops)-1].Key.(dataplane.RouteKey).Prefix
	id := linux.NexthopID(h.admin.index(dev), last.Addr(), 0)
	ctx := &meddler{t.Context(), len(p.Ops), func() { h.putNexthop(id, "192.0.2.9", uplink, unix.RTPROT_ZEBRA) }}
	for _, err := range h.Apply(ctx, p) {
		t.Error(err)
	}
	if left := h.plan(want); !left.Empty() {
		t.Errorf("not converged:\n%s", left)
	}
	if by, there := h.users()[last.String()]; there {
		t.Errorf("the route goes by object %d, %s", by, h.objects()[by])
	}
	h.settle(links())
	h.same(map[uint32]string{id: "192.0.2.9 protocol 11"}, h.objects())
}

// What a crash left behind goes with the next write; what others put on our
// device stays.
func TestNexthopOrphans(t *testing.T) {
	h := newNexthopHost(t)
	h.putNexthop(h.idOf("10.42.7.0", 0), "10.42.7.0", dev, linux.RouteProtocol)
	h.putNexthop(4711, "10.42.8.0", dev, unix.RTPROT_STATIC)
	h.settle(via(map[string]string{"10.42.2.0/24": "10.42.2.0"}))
	h.same(map[uint32]string{
		h.idOf("10.42.2.0", 0): ours("10.42.2.0"), 4711: "10.42.8.0 protocol 4",
	}, h.objects())
}

// A device that goes down takes objects along; one Apply brings all back.
func TestNexthopsGoWithTheLink(t *testing.T) {
	h := newNexthopHost(t)
	want := via(map[string]string{"10.42.2.0/24": "10.42.2.0", "10.42.5.0/24": "10.42.5.0"})
	h.settle(want)
	before := h.objects()
	down := device()
	down.Up = false
	h.admin.Put(dataplane.State{Links: map[string]dataplane.Link{dev: down}})
	h.same(map[uint32]string{}, h.objects())
	h.settle(want)
	h.same(before, h.objects())
}

// The kernel says nothing of routes that go with their object.
func TestWatchNexthops(t *testing.T) {
	want := via(map[string]string{"10.42.2.0/24": "10.42.2.0"})
	for name, meddle := range map[string]func(h *host, id uint32){
		"deleted":                     (*host).deleteNexthop,
		"replaced, by ours":           func(h *host, id uint32) { h.putNexthop(id, "10.42.9.0", dev, linux.RouteProtocol) },
		"replaced, on another device": func(h *host, id uint32) { h.putNexthop(id, "192.0.2.9", uplink, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newNexthopHost(t)
			h.settle(want)
			w := h.watch()
			meddle(h, h.idOf("10.42.2.0", 0))
			for told := false; !told; {
				s := w.next("the meddling")
				_, link := s.Keys.Links[dev]
				told = link || len(s.Keys.Routes) == 1
			}
			h.settle(want)
		})
	}
}
