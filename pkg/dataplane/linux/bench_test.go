package linux_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

// benchPeers is what the architecture measures itself by.
const benchPeers = 10_000

// peers are n of them in one family, as the vxlan backend makes them.
func peers(n int, ipv6 bool) dataplane.State {
	s := dataplane.State{
		FDB:    map[dataplane.FDBKey]netip.Addr{},
		Neighs: map[dataplane.NeighKey]mac.Addr{},
		Routes: map[dataplane.RouteKey]dataplane.Route{},
	}
	for i := 1; i <= n; i++ {
		hi, lo := byte(i>>8), byte(i)
		hw := mac.Addr{2, 0, 0, 1, hi, lo}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + hi>>6, hi<<2 | lo>>6, lo << 2}), 30)
		metric := 0
		if ipv6 {
			a := netip.MustParseAddr("fd00:42::").As16()
			a[6], a[7] = hi, lo
			p, metric = netip.PrefixFrom(netip.AddrFrom16(a), 64), 1024
		}
		s.FDB[dataplane.FDBKey{Link: dev, MAC: hw}] = netip.AddrFrom4([4]byte{198, 18, hi, lo})
		s.Neighs[dataplane.NeighKey{Link: dev, IP: p.Addr()}] = hw
		s.Routes[dataplane.RouteKey{Prefix: p, Metric: metric}] = dataplane.Route{Via: p.Addr(), Link: dev, OnLink: true}
	}
	return s
}

type bench struct {
	*testing.B
	*linux.Kernel
	domain dataplane.Domain
	ipv6   bool // the peers' family
}

func newBench(b *testing.B) *bench {
	b.Helper()
	n := netnstest.New(b)
	a := newAdmin(b, n)
	a.Put(dataplane.State{
		Links: map[string]dataplane.Link{uplink: {MTU: 1500, Up: true}},
		Addrs: map[dataplane.AddrKey]struct{}{{Link: uplink, Prefix: netip.MustParsePrefix("192.0.2.1/24")}: {}},
	})
	d := scope(true, dataplane.State{}).Domain
	d.Networks = append(d.Networks, netip.MustParsePrefix("100.64.0.0/10"))
	out := &bench{B: b, Kernel: open(b, n), domain: d}
	out.apply(links())
	return out
}

func (b *bench) observe(s dataplane.Scope) dataplane.Observed {
	b.Helper()
	s.Domain = b.domain
	o, err := b.Observe(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	return o
}

func (b *bench) apply(want dataplane.State) {
	b.Helper()
	p := dataplane.Diff(want, b.observe(dataplane.Scope{All: true}))
	for _, err := range b.Apply(b.Context(), p) {
		b.Fatal(err)
	}
}

// each gives the want with all peers.
func each(b *testing.B, run func(b *bench, want dataplane.State)) {
	for _, ipv6 := range []bool{false, true} {
		b.Run(fmt.Sprintf("ipv6=%t", ipv6), func(b *testing.B) {
			h := newBench(b)
			h.ipv6 = ipv6
			want := links()
			want.Merge(peers(benchPeers, ipv6))
			run(h, want)
		})
	}
}

func BenchmarkApplyAll(b *testing.B) {
	each(b, func(b *bench, want dataplane.State) {
		for b.Loop() {
			b.apply(want)
			b.StopTimer()
			b.apply(dataplane.State{})
			b.apply(links())
			b.StartTimer()
		}
	})
}

func BenchmarkObserveAll(b *testing.B) {
	each(b, func(b *bench, want dataplane.State) {
		b.apply(want)
		for b.Loop() {
			if o := b.observe(dataplane.Scope{All: true}); len(o.Have.Routes) != benchPeers {
				b.Fatalf("%d routes", len(o.Have.Routes))
			}
		}
	})
}

// Some peers among 10,000 are what every change costs.
func BenchmarkObservePeers(b *testing.B) {
	for _, some := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(some), func(b *testing.B) {
			each(b, func(b *bench, want dataplane.State) {
				b.apply(want)
				keys := peers(some, b.ipv6)
				for b.Loop() {
					if o := b.observe(dataplane.Scope{Keys: keys}); o.Have.Len() != 3*some {
						b.Fatalf("%d entries", o.Have.Len())
					}
				}
			})
		})
	}
}

func BenchmarkFacts(b *testing.B) {
	each(b, func(b *bench, want dataplane.State) {
		b.apply(want)
		for b.Loop() {
			if _, err := b.Facts(b.Context(), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What DirectRouting and host-gw ask at every change of the host's routes.
func BenchmarkPaths(b *testing.B) {
	each(b, func(b *bench, want dataplane.State) {
		b.apply(want)
		peers := make([]netip.Addr, 0, benchPeers)
		for k := range want.Routes {
			peers = append(peers, k.Prefix.Addr().Next())
		}
		for b.Loop() {
			if f, err := b.Facts(b.Context(), peers); err != nil || len(f.Paths) != benchPeers {
				b.Fatalf("%d paths, %v", len(f.Paths), err)
			}
		}
	})
}
