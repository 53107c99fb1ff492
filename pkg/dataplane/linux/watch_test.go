package linux_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// Watch tells of what others do, and of nothing else.
func TestWatch(t *testing.T) {
	h := newHost(t)
	want := chains()
	want.Merge(links())
	key := dataplane.RouteKey{Prefix: netip.MustParsePrefix("10.42.5.0/24")}
	want.Routes = map[dataplane.RouteKey]dataplane.Route{key: {Via: key.Prefix.Addr(), Link: dev, OnLink: true}}
	want.Neighs = map[dataplane.NeighKey]mac.Addr{{Link: dev, IP: key.Prefix.Addr()}: {2, 0, 0, 0, 0, 5}}
	want.FDB = map[dataplane.FDBKey]netip.Addr{
		{Link: dev, MAC: mac.Addr{2, 0, 0, 0, 0, 5}}: netip.MustParseAddr("192.0.2.5"),
	}
	want.Addrs = map[dataplane.AddrKey]struct{}{{Link: dev, Prefix: netip.MustParsePrefix("10.42.1.0/32")}: {}}
	want.Sysctls = map[string]string{"net/ipv4/ip_forward": "1"}
	h.plan(want)
	w := h.watch()
	h.settle(want)
	h.settle(dataplane.State{})
	h.settle(want)
	// Foreign things of all kinds.
	pod := dataplane.Link{MTU: 1500, Up: true}
	veth := dataplane.State{
		Links: map[string]dataplane.Link{"veth1": pod},
		Addrs: map[dataplane.AddrKey]struct{}{{Link: "veth1", Prefix: netip.MustParsePrefix("10.42.1.1/32")}: {}},
		Routes: map[dataplane.RouteKey]dataplane.Route{
			{Prefix: netip.MustParsePrefix("10.42.1.7/32")}:        {Link: "veth1"},
			{Prefix: netip.MustParsePrefix("198.51.100.0/24")}:     {Link: uplink},
			{Prefix: netip.MustParsePrefix("0.0.0.0/0")}:           {Via: netip.MustParseAddr("192.0.2.9"), Link: uplink},
			{Prefix: netip.MustParsePrefix("fd00::/8"), Metric: 7}: {Link: uplink},
		},
		Neighs: map[dataplane.NeighKey]mac.Addr{{Link: "veth1", IP: netip.MustParseAddr("10.42.1.7")}: {2, 0, 0, 0, 0, 9}},
	}
	h.admin.Put(veth)
	h.admin.Delete(dataplane.State{Links: veth.Links})
	newFirewall(t, h.ns).InsertRule(ruleset.Key{Table: "theirs", Chain: "x"})

	fences := map[string]dataplane.State{
		"sysctl": {Sysctls: map[string]string{"net/ipv4/ip_forward": ""}},
		"fdb":    {FDB: map[dataplane.FDBKey]netip.Addr{{Link: dev, MAC: mac.Addr{2, 0, 0, 0, 0, 5}}: {}}},
		"neigh":  {Neighs: map[dataplane.NeighKey]mac.Addr{{Link: dev, IP: key.Prefix.Addr()}: {}}},
		"route":  {Routes: map[dataplane.RouteKey]dataplane.Route{key: {}}},
		"chain":  {Chains: map[ruleset.Key]ruleset.Chain{chainKey(): {}}},
		"link":   {Links: map[string]dataplane.Link{dev: {}}},
	}
	w.h.admin.Put(dataplane.State{Sysctls: map[string]string{"net/ipv4/ip_forward": "0"}})
	w.only("sysctl", fences["sysctl"])
	h.admin.Put(dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{
		{Link: dev, MAC: mac.Addr{2, 0, 0, 0, 0, 5}}: netip.MustParseAddr("192.0.2.6"),
	}})
	w.only("fdb", fences["fdb"])
	h.admin.Delete(dataplane.State{Neighs: fences["neigh"].Neighs})
	w.only("neigh", fences["neigh"])
	h.admin.Put(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
		key: {Via: netip.MustParseAddr("192.0.2.9"), Link: uplink},
	}})
	w.only("foreign route on our key", fences["route"])
	newFirewall(t, h.ns).DropRule(chainKey(), 0)
	w.only("chain", fences["chain"])
	l := device()
	l.MTU = 1300
	h.admin.Put(dataplane.State{Links: map[string]dataplane.Link{dev: l}})
	w.only("link", fences["link"])
	h.admin.Put(dataplane.State{Links: map[string]dataplane.Link{uplink: {MTU: 1400, Up: true}}})
	w.only("uplink", dataplane.State{Links: map[string]dataplane.Link{dev: {}, uplink: {}}})
}

// A queue that runs over means that anything may have changed.
func TestWatchOverrun(t *testing.T) {
	h := newHost(t)
	h.SetWatchBuffer(1)
	want := links()
	want.FDB = map[dataplane.FDBKey]netip.Addr{}
	for i := range 500 {
		m := mac.Addr{2, 0, 0, 0, byte(i >> 8), byte(i)}
		want.FDB[dataplane.FDBKey{Link: dev, MAC: m}] = netip.MustParseAddr("192.0.2.9")
	}
	h.settle(want)
	w := h.watch()
	h.admin.Delete(links()) // tells of 500 entries before it returns
	for !w.next("the overrun").All {
	}
}

// Of a start with many peers nothing is heard, and of the FDB all again afterwards.
func TestMassesAreNotHeard(t *testing.T) {
	h := newHost(t)
	h.SetWatchBuffer(1)
	w, fence := h.fenced()
	one := func(i int) dataplane.FDBKey {
		return dataplane.FDBKey{Link: dev, MAC: mac.Addr{2, 0, 0, 0, byte(i >> 8), byte(i)}}
	}
	want := links()
	want.Neighs = map[dataplane.NeighKey]mac.Addr{fenceKey(): {2, 0, 0, 0, 0, 5}}
	want.FDB = map[dataplane.FDBKey]netip.Addr{}
	for i := range 500 {
		want.FDB[one(i)] = netip.MustParseAddr("192.0.2.9")
	}
	plan := h.plan(want)
	plan.ReadBack = true
	if failed := h.Apply(t.Context(), plan); len(failed) > 0 {
		t.Fatal(failed)
	}
	fence()
	w.nothingBut()
	gone := dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{one(7): netip.MustParseAddr("192.0.2.9")}}
	h.admin.Delete(gone)
	if s := w.next("what somebody deleted"); len(s.Keys.FDB) != 1 {
		t.Errorf("heard %+v", s)
	}
}

// A routing daemon whose sessions flap doesn't reach us: of 4,000 changes not one
// fills a queue that has room for one.
func TestForeignRoutesAreNotHeard(t *testing.T) {
	h := newHost(t)
	h.SetWatchBuffer(1)
	w, fence := h.fenced()
	index := h.admin.index(uplink)
	for i := range 2000 {
		dst := &net.IPNet{IP: net.IPv4(172, byte(16+i>>8), byte(i), 0), Mask: net.CIDRMask(24, 32)}
		r := &netlink.Route{LinkIndex: index, Dst: dst, Protocol: unix.RTPROT_BGP}
		h.admin.must(h.admin.RouteAdd(r))
		h.admin.must(h.admin.RouteDel(r))
	}
	fence()
	w.nothingBut()
}

// A DHCP client, or a router, that gives the uplink's addresses new lifetimes
// changes nothing that is to be read.
func TestRenewalsChangeNothing(t *testing.T) {
	h := newHost(t)
	up := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: h.admin.index(uplink)}}
	renew := func(i int) {
		for _, p := range []net.IPNet{
			{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}, {IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)},
		} {
			h.admin.must(h.admin.AddrReplace(up, &netlink.Addr{IPNet: &p, ValidLft: 3600 + i, PreferedLft: 1800 + i}))
		}
	}
	renew(0)
	w, fence := h.fenced()
	for i := range 200 {
		renew(i)
	}
	fence()
	w.nothingBut()
}

// fenced watches a host with a neighbour of ours on it, and gives what deletes it.
func (h *host) fenced() (w *watcher, fence func()) {
	h.Helper()
	want := links()
	want.Neighs = map[dataplane.NeighKey]mac.Addr{fenceKey(): {2, 0, 0, 0, 0, 5}}
	if _, err := h.Facts(h.Context(), nil); err != nil {
		h.Fatal(err)
	}
	h.settle(want)
	return h.watch(), func() { h.admin.Delete(dataplane.State{Neighs: want.Neighs}) }
}

func fenceKey() dataplane.NeighKey {
	return dataplane.NeighKey{Link: dev, IP: netip.MustParseAddr("10.42.5.0")}
}

// nothingBut wants to hear of the fence, and of nothing before.
func (w *watcher) nothingBut() {
	w.h.Helper()
	s := w.next("the fence")
	if _, there := s.Keys.Neighs[fenceKey()]; s.All || s.Facts || s.Keys.Len() != 1 || !there {
		w.h.Errorf("heard %+v", s)
	}
}

type watcher struct {
	h      *host
	scopes chan dataplane.Scope
}

const patience = 20 * time.Second

func (h *host) watch() *watcher {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	w := &watcher{h, make(chan dataplane.Scope)}
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(ctx, w.scopes) }()
	h.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			h.Errorf("Watch: %v", err)
		}
	})
	if s := w.next("the first scope"); !s.All {
		h.Fatalf("the first scope is %+v", s)
	}
	return w
}

func (w *watcher) next(what string) dataplane.Scope {
	w.h.Helper()
	select {
	case s := <-w.scopes:
		return s
	case <-time.After(patience):
		w.h.Fatalf("%s: no scope within %s", what, patience)
		return dataplane.Scope{}
	}
}

// only takes scopes until all keys were told of, and wants no other.
func (w *watcher) only(what string, keys dataplane.State) {
	w.h.Helper()
	var seen dataplane.State
	for covered := false; !covered; {
		s := w.next(what)
		if s.All {
			w.h.Fatalf("%s: made everything dirty", what)
		}
		seen.Merge(s.Keys)
		covered = seen.Within(dataplane.Scope{Keys: keys}).Len() == keys.Len()
	}
	list := func(s dataplane.State) map[string]bool {
		out := map[string]bool{}
		s.Keys(func(k dataplane.Kind, key any) { out[dataplane.Op{Kind: k, Key: key}.Entry()] = true })
		return out
	}
	if diff := cmp.Diff(list(keys), list(seen)); diff != "" {
		w.h.Errorf("%s (-want +have):\n%s", what, diff)
	}
}
