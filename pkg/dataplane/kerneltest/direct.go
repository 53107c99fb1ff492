package kerneltest

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
)

// Routes that lead through no device of ours: direct ones and blackholes.

func routeCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"a foreign blackhole on a wanted key": func(b *bench) {
			for _, s := range sides() {
				foreign := dataplane.Route{Blackhole: true}
				b.occupiedRoute(s, foreign)
			}
		},
		"a blackhole behind our own subnet":  blackhole,
		"a route of ours through the uplink": directRoute,
		"the uplink takes routes of ours along": func(b *bench) {
			b.uplinkFlaps(dataplane.State{})
		},
		"the uplink of a device takes routes of ours along": func(b *bench) {
			b.uplinkFlaps(everything(0))
		},
		"flannel's direct routes are adopted": adoptDirect,
	}
}

// directRoute leads to a peer on the same underlay network: it is ours by its
// mark, not by its link.
func directRoute(b *bench) {
	want := everything(1)
	for _, s := range sides() {
		want.Merge(oneRoute(s.routeKey(8), dataplane.Route{Via: s.gateway, Link: uplink}))
	}
	b.settle(want)
	n := b.watch()
	for _, s := range sides() {
		gone := oneRoute(s.routeKey(8), dataplane.Route{})
		b.Admin.Delete(gone)
		n.until(gone, want)
	}
	b.settle(want)
	b.settle(everything(1))
}

func direct(peers ...int) dataplane.State {
	var out dataplane.State
	for _, s := range sides() {
		for _, n := range peers {
			out.Merge(oneRoute(s.routeKey(n), dataplane.Route{Via: s.gateway, Link: uplink}))
		}
	}
	return out
}

// uplinkFlaps: with or without a device of ours on it, the underlay interface
// takes routes along in silence.
func (b *bench) uplinkFlaps(devices dataplane.State) {
	want := direct(8, 9)
	want.Merge(devices)
	b.settle(want)
	n := b.watch()
	up := oneLink(uplink, dataplane.Link{})
	b.Admin.Put(oneLink(uplink, dataplane.Link{MTU: 1500}))
	n.until(up, up)
	n.seen = dataplane.Scope{}
	b.Admin.Put(underlay())
	n.until(up, up)
	p := b.plan(want, narrow(up))
	if have := count(p); have != "+4 route" {
		b.Errorf("want four routes planned again, have %q:\n%s", have, p)
	}
	b.apply(p)
	b.converged(want)
}

// adoptDirect starts from what flannel's DirectRouting leaves: routes through
// the uplink that nothing but their place tells from an administrator's. Those
// that are as we want them become ours; one that leads elsewhere is a conflict,
// and one that nobody wants is not looked at.
func adoptDirect(b *bench) {
	b.Admin.Put(direct(3, 4, 5))
	foreign := dataplane.State{}
	for _, s := range sides() {
		foreign.Merge(oneRoute(s.routeKey(4), dataplane.Route{Via: s.spare.Addr().Next(), Link: uplink}))
	}
	b.Admin.Put(foreign)
	want := direct(3)
	b.settle(want)
	p := b.plan(direct(3, 4), narrow(direct(3, 4)))
	if !p.Empty() || len(p.Conflicts) != 2 {
		b.Errorf("want two conflicts and nothing to do, have:\n%s", p)
	}
	b.Admin.Delete(direct(3))
	b.Admin.Put(direct(3))
	p = b.plan(want, narrow(want))
	if have := count(p); have != "~2 route" || len(p.Conflicts) > 0 {
		b.Errorf("want two changes planned, have:\n%s", p)
	}
	b.apply(p)
	b.converged(want)
	b.apply(b.plan(dataplane.State{}, full())) // ours now
	left := direct(5)
	left.Merge(foreign)
	o := b.observe(narrow(direct(3, 4, 5)))
	if len(o.Have.Routes) != 0 || len(o.Occupied.Routes) != len(left.Routes) {
		b.Errorf("want the foreign routes left alone, have %+v", o)
	}
}

// blackhole drops what is for our own subnet and for no pod in it. The route to
// a bridge with the subnet's gateway address, which the kernel makes, goes first
// and stands beside it.
func blackhole(b *bench) {
	want := everything(1)
	for _, s := range sides() {
		want.Merge(s.blackhole())
	}
	b.settle(want)
	b.reaches(false)
	for _, s := range sides() {
		gateway := netip.PrefixFrom(s.node(1).Addr().Next(), s.subnet.Bits())
		b.Admin.Put(oneLink(s.named("cni"), dataplane.Link{MTU: 1450, Up: true}))
		b.Admin.Put(oneAddr(s.named("cni"), gateway))
	}
	b.converged(want)
	b.reaches(true)
	n := b.watch()
	for _, s := range sides() {
		b.Admin.Delete(s.blackhole())
		n.until(s.blackhole(), want)
	}
	b.settle(want)
	b.settle(everything(1))
	for _, s := range sides() {
		b.Admin.Put(s.blackhole()) // somebody else's
	}
	before := b.Admin.Dump()
	b.settle(everything(2))
	b.settle(everything(1))
	b.same(before, b.Admin.Dump())
}

func (s side) blackhole() dataplane.State {
	k := dataplane.RouteKey{Prefix: s.node(1), Metric: 1<<31 - 1}
	return oneRoute(k, dataplane.Route{Blackhole: true})
}

// reaches tells whether there is a way to pods of ours.
func (b *bench) reaches(want bool) {
	b.Helper()
	for _, s := range sides() {
		pod := s.node(1).Addr().Next().Next()
		f, err := b.Kernel.Facts(b.Context(), []netip.Addr{pod})
		if err != nil {
			b.Fatal(err)
		}
		if path, ok := f.Paths[pod]; ok != want {
			b.Errorf("a path to %s: %v %+v, want %v", pod, ok, path, want)
		}
	}
}
