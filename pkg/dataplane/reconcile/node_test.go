package reconcile_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/dataplane/layers"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// device is one family of the overlay.
type device struct {
	name   string
	link   dataplane.Link
	metric int
}

func devices() []device {
	return []device{
		{name: "flannel.1", link: dataplane.Link{
			VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Parent: "up0",
			MAC: mac.Addr{2, 0, 0, 0, 4, 1}, MTU: 1450, Up: true,
		}},
		{name: "flannel-v6.1", metric: 1024, link: dataplane.Link{
			VNI: 1, Port: 8472, Local: netip.MustParseAddr("2001:db8::1"), Parent: "up0",
			MAC: mac.Addr{2, 0, 0, 0, 6, 1}, MTU: 1430, Up: true,
		}},
	}
}

func (d device) subnet(n byte) netip.Prefix {
	if d.link.Local.Is4() {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, n, 0}), 24)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x42, 7: n}), 64)
}

func (d device) vtep(n byte) netip.Addr {
	a := d.link.Local.AsSlice()
	a[len(a)-1] = n
	ip, _ := netip.AddrFromSlice(a)
	return ip
}

func (d device) fdbKey(n byte) dataplane.FDBKey {
	return dataplane.FDBKey{Link: d.name, MAC: mac.Addr{2, 0, 0, 0, byte(d.link.MTU), n}}
}

func (d device) routeKey(n byte) dataplane.RouteKey {
	return dataplane.RouteKey{Prefix: d.subnet(n), Metric: d.metric}
}

func domain() dataplane.Domain {
	own := dataplane.Domain{
		Links:    map[string]dataplane.Link{},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")},
		Tables:   []string{"weft"},
	}
	for _, d := range devices() {
		own.Links[d.name] = d.link
	}
	return own
}

func base() dataplane.State {
	s := dataplane.State{
		Links:   map[string]dataplane.Link{},
		Addrs:   map[dataplane.AddrKey]struct{}{},
		Chains:  map[ruleset.Key]ruleset.Chain{},
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"},
	}
	for _, d := range devices() {
		own := d.subnet(1).Addr()
		s.Links[d.name] = d.link
		s.Addrs[dataplane.AddrKey{Link: d.name, Prefix: netip.PrefixFrom(own, own.BitLen())}] = struct{}{}
		s.Chains[ruleset.Key{IPv6: own.Is6(), Table: "weft", Chain: "forward"}] = ruleset.Chain{
			Type: "filter", Hook: ruleset.Forward, Rules: []ruleset.Rule{{Verdict: ruleset.Accept}},
		}
	}
	return s
}

func peer(n byte) dataplane.State {
	s := dataplane.State{
		FDB:    map[dataplane.FDBKey]netip.Addr{},
		Neighs: map[dataplane.NeighKey]mac.Addr{},
		Routes: map[dataplane.RouteKey]dataplane.Route{},
	}
	for _, d := range devices() {
		via := d.subnet(n).Addr()
		s.FDB[d.fdbKey(n)] = d.vtep(n)
		s.Neighs[dataplane.NeighKey{Link: d.name, IP: via}] = d.fdbKey(n).MAC
		s.Routes[d.routeKey(n)] = dataplane.Route{Via: via, Link: d.name, OnLink: true}
	}
	return s
}

func want(peers ...byte) dataplane.State {
	s := base()
	for _, n := range peers {
		s.Merge(peer(n))
	}
	return s
}

func fragments(peers ...byte) []layers.Fragment {
	var out []layers.Fragment
	for _, n := range peers {
		state := peer(n)
		out = append(out, layers.New(devices()[0].subnet(n).String(), state))
	}
	return out
}

func baseLayer() []layers.Fragment {
	state := base()
	return []layers.Fragment{layers.New("host", state)}
}

// host is a kernel with an uplink.
func host(t *testing.T) *fake.Kernel {
	t.Helper()
	k := fake.New()
	must(t, k.Put(dataplane.State{
		Links: map[string]dataplane.Link{"up0": {MTU: 1500, Up: true}},
		Addrs: map[dataplane.AddrKey]struct{}{
			{Link: "up0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}:   {},
			{Link: "up0", Prefix: netip.MustParsePrefix("2001:db8::1/64")}: {},
		},
	}))
	return k
}

// converged is what the kernel looks like when all is well.
func converged(t *testing.T, peers ...byte) string {
	t.Helper()
	k := host(t)
	put(t, k, want(peers...))
	return k.Dump()
}

// put writes straight into a kernel, as an earlier life of weft has done.
func put(t *testing.T, k *fake.Kernel, s dataplane.State) {
	t.Helper()
	have, err := k.Observe(t.Context(), dataplane.Scope{All: true, Domain: domain()})
	must(t, err)
	for _, err := range k.Apply(t.Context(), dataplane.Diff(s, have)) {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, want, have any) {
	t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// life is one process: a loop that runs.
type life struct {
	*reconcile.Loop
	end func() // kills it and waits

	mu     sync.Mutex
	rounds []reconcile.Round
	at     []time.Duration // since the start
}

// live starts a loop that wants the base, and these peers; nothing of a layer
// that is nil.
func live(t *testing.T, k *fake.Kernel, opts reconcile.Options, base, peers []layers.Fragment) *life {
	t.Helper()
	l := &life{}
	began := time.Now()
	opts.OnRound = func(r reconcile.Round) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.rounds, l.at = append(l.rounds, r), append(l.at, time.Since(began))
	}
	l.Loop = reconcile.New(k, opts)
	l.Own(domain())
	for name, fragments := range map[string][]layers.Fragment{"base": base, "peers": peers} {
		if fragments != nil {
			l.Set(reconcile.Layer{Name: name, Fragments: fragments})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	l.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(l.end)
	synctest.Wait()
	return l
}

func (l *life) history() ([]reconcile.Round, []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]reconcile.Round(nil), l.rounds...), append([]time.Duration(nil), l.at...)
}

// pass lets fake time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
