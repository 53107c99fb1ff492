package kerneltest

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

func ownershipCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"foreign objects elsewhere are untouched": foreignUntouched,
		"a foreign route on a wanted key": func(b *bench) {
			for _, s := range sides() {
				foreign := dataplane.Route{Via: s.gateway, Link: uplink}
				b.occupiedRoute(s, foreign)
			}
		},
		"a foreign route through our device on a wanted key": func(b *bench) {
			b.settle(everything(0))
			for _, s := range sides() {
				b.occupiedRoute(s, s.route(9))
			}
		},
		"a foreign route with another metric": func(b *bench) {
			for _, s := range sides() {
				k := s.routeKey(3)
				k.Metric += 100
				b.Admin.Put(oneRoute(k, dataplane.Route{Via: s.gateway, Link: uplink}))
			}
			b.settle(everything(3))
		},
		"a foreign device has the wanted name": func(b *bench) {
			for _, s := range sides() {
				b.occupiedLink(s, dataplane.Link{MTU: 1400, Up: true})
			}
		},
		"a VXLAN device with another VNI has the wanted name": func(b *bench) {
			for _, s := range sides() {
				l := s.link
				l.VNI = 77
				b.occupiedLink(s, l)
			}
		},
		"the name is free again": func(b *bench) {
			b.Admin.Put(oneLink(sides()[0].dev, dataplane.Link{MTU: 1400, Up: true}))
			b.plan(everything(1), full())
			b.Admin.Delete(oneLink(sides()[0].dev, dataplane.Link{}))
			b.settle(everything(1))
		},
		"a route like flannel's to elsewhere":    foreignShape,
		"flannel's leftovers are adopted":        adopt,
		"flannel's tables are ours to take away": flannelTables,
		"a foreign IPv4 address on our device stays": func(b *bench) {
			b.settle(everything(1))
			s := sides()[0]
			b.Admin.Put(oneAddr(s.dev, s.outside))
			before := b.Admin.Dump()
			b.converged(everything(1))
			b.same(before, b.Admin.Dump())
		},
		"a foreign IPv6 address on our device goes": func(b *bench) {
			b.settle(everything(1))
			s := sides()[1]
			b.Admin.Put(oneAddr(s.dev, s.outside))
			b.settle(everything(1))
		},
	}
}

// foreignUntouched surrounds us with neighbours of every kind.
func foreignUntouched(b *bench) {
	for _, s := range sides() {
		other := s.link
		other.VNI, other.MAC[1] = 77, 0x77
		dev := s.named("other")
		key := dataplane.RouteKey{Prefix: s.node(5), Metric: s.metric + 7}
		b.Admin.Put(dataplane.State{
			Links:  map[string]dataplane.Link{dev: other},
			Addrs:  map[dataplane.AddrKey]struct{}{{Link: dev, Prefix: s.addrKey().Prefix}: {}},
			FDB:    map[dataplane.FDBKey]netip.Addr{{Link: dev, MAC: s.mac(2)}: s.vtep(9)},
			Neighs: map[dataplane.NeighKey]mac.Addr{{Link: dev, IP: s.node(2).Addr()}: s.mac(9)},
			Routes: map[dataplane.RouteKey]dataplane.Route{
				key: {Via: s.gateway, Link: uplink},
				{Prefix: s.node(6), Metric: s.metric + 7}: {Via: s.node(6).Addr(), Link: dev, OnLink: true},
			},
		})
		b.Firewall.InsertRule(ruleset.Key{IPv6: s.link.Local.Is6(), Table: "theirs", Chain: "postrouting"})
	}
	before := b.Admin.Dump()
	b.settle(everything(3))
	b.settle(everything(1))
	b.apply(b.plan(dataplane.State{}, full()))
	b.same(before, b.Admin.Dump())
}

// occupiedRoute puts a foreign route on a key of ours: everything else
// converges, and it is reported and left as it is, also when its creation was
// planned from a full look that could not know. Once it has gone, we converge.
func (b *bench) occupiedRoute(s side, foreign dataplane.Route) {
	b.Helper()
	reported := foreign
	reported.Unmarked = true
	key := s.routeKey(3)
	b.Admin.Put(oneRoute(key, foreign))
	want := everything(3)
	for _, failed := range b.Kernel.Apply(b.Context(), b.plan(want, full())) {
		if failed.Op.Key != key {
			b.Errorf("apply: %v", failed)
		} else if !isOccupied(failed) {
			b.Errorf("want ErrOccupied, have: %v", failed)
		}
	}
	one := oneRoute(key, s.route(3))
	for name, scope := range map[string]dataplane.Scope{"the key": narrow(one), "all keys": narrow(want)} {
		o := b.observe(scope)
		b.same(map[dataplane.RouteKey]dataplane.Route{key: reported}, o.Occupied.Routes)
		p := dataplane.Diff(want.Within(scope), o)
		if !p.Empty() || len(p.Conflicts) != 1 {
			b.Errorf("look at %s: want one conflict and no op, have:\n%s", name, p)
		}
	}
	b.Admin.Delete(oneRoute(key, foreign))
	b.settle(want)
	b.settle(everything(0))
}

// occupiedLink puts something else under the name of our device.
func (b *bench) occupiedLink(s side, foreign dataplane.Link) {
	b.Helper()
	b.Admin.Put(oneLink(s.dev, foreign))
	before := b.Admin.Dump()
	want := s.overlay(2)
	for _, scope := range []dataplane.Scope{full(), narrow(want), narrow(oneLink(s.dev, dataplane.Link{}))} {
		p := b.plan(want, scope)
		if !p.Empty() || len(p.Conflicts) != 1 {
			b.Errorf("%s: want one conflict and no op, have:\n%s", s.dev, p)
		}
		b.apply(p)
	}
	b.same(before, b.Admin.Dump())
	b.Admin.Delete(oneLink(s.dev, dataplane.Link{}))
}

// foreignShape is a route that looks like flannel's, but does not lead to the
// cluster: an administrator's.
func foreignShape(b *bench) {
	want := everything(1)
	b.settle(want)
	for _, s := range sides() {
		net := s.outside.Addr()
		k := dataplane.RouteKey{Prefix: s.outside, Metric: s.metric}
		b.Admin.Put(oneRoute(k, dataplane.Route{Via: net, Link: s.dev, OnLink: true}))
	}
	before := b.Admin.Dump()
	if p := b.plan(want, full()); !p.Empty() {
		b.Errorf("want it left alone, have:\n%s", p)
	}
	b.apply(b.plan(want, full()))
	b.same(before, b.Admin.Dump())
}

// adopt starts from what flannel leaves when it stops: all there, with the
// routes not marked. The devices keep their index: they are not made anew.
func adopt(b *bench) {
	var want dataplane.State
	for _, s := range sides() {
		want.Merge(s.overlay(3))
	}
	b.Admin.Put(want)
	before := b.indexes()
	p := b.plan(want, full())
	for _, op := range p.Ops {
		if op.Kind != dataplane.KindRoute || op.Verb != dataplane.Change {
			b.Errorf("want nothing but changes of routes, have: %s", op)
		}
	}
	if len(p.Ops) != len(want.Routes) {
		b.Errorf("want %d changes, have:\n%s", len(want.Routes), p)
	}
	b.apply(p)
	b.converged(want)
	b.same(before, b.indexes())
}

func (b *bench) indexes() map[string]int {
	b.Helper()
	f, err := b.Kernel.Facts(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]int{}
	for name, i := range f.Ifaces {
		out[name] = i.Index
	}
	return out
}

func flannelTables(b *bench) {
	before := b.Admin.Dump()
	b.Firewall.InsertRule(ruleset.Key{Table: "flannel-ipv4", Chain: "postrtg"})
	b.Firewall.InsertRule(ruleset.Key{Table: "flannel-ipv4", Chain: "forward"})
	p := b.plan(dataplane.State{}, full())
	if len(p.Ops) != 2 {
		b.Errorf("want two deletions, have:\n%s", p)
	}
	b.apply(p)
	b.same(before, b.Admin.Dump())
}
