package kerneltest

import (
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// driftCases tell what was ours a moment ago from what was there before us.
func driftCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"a route of ours that somebody replaced is put right, seen by its key": func(b *bench) {
			b.usurped(func(want dataplane.State, key dataplane.RouteKey, s side) {
				p := b.plan(want, narrow(oneRoute(key, s.route(3))))
				if have := count(p); have != "~1 route" || len(p.Conflicts) > 0 {
					b.Errorf("want one change, have:\n%s", p)
				}
				b.apply(p)
			})
		},
		"a route of ours that somebody replaced is put right, seen in a full look": func(b *bench) {
			b.usurped(func(want dataplane.State, _ dataplane.RouteKey, _ side) { b.apply(b.plan(want, full())) })
		},
		"a route that somebody put where ours has been, until we deleted it": func(b *bench) {
			b.settle(everything(3))
			b.settle(everything(1))
			for _, s := range sides() {
				b.occupiedRoute(s, dataplane.Route{Via: s.gateway, Link: uplink})
			}
		},
		"a route that somebody put where ours has been, until we deleted its link": func(b *bench) {
			b.settle(everything(3))
			b.apply(b.plan(dataplane.State{}, full()))
			for _, s := range sides() {
				b.occupiedRoute(s, dataplane.Route{Via: s.gateway, Link: uplink})
			}
		},
		"a usurper of what we don't want any more is left alone": func(b *bench) {
			b.settle(everything(3))
			for _, s := range sides() {
				b.Admin.Put(oneRoute(s.routeKey(3), dataplane.Route{Via: s.gateway, Link: uplink}))
			}
			b.apply(b.plan(everything(1), full()))
			before := b.Admin.Dump()
			for _, s := range sides() {
				if p := b.plan(everything(1), narrow(oneRoute(s.routeKey(3), s.route(3)))); !p.Empty() {
					b.Errorf("want nothing, have:\n%s", p)
				}
			}
			b.apply(b.plan(everything(1), full()))
			b.same(before, b.Admin.Dump())
		},
		"an occupied key is watched after a look that no plan follows":                  occupiedIsWatched,
		"a link that is missing or down is named to those who look at what stood on it": absentLinks,
	}
}

func absentLinks(b *bench) {
	for _, s := range sides() {
		for name, act := range map[string]func(){
			"down":    func() { l := s.link; l.Up = false; b.Admin.Put(oneLink(s.dev, l)) },
			"deleted": func() { b.Admin.Delete(oneLink(s.dev, dataplane.Link{})) },
		} {
			b.settle(everything(3))
			one := narrow(oneRoute(s.routeKey(3), s.route(3)))
			if o := b.observe(one); len(o.Absent) > 0 {
				b.Errorf("all are there, and %v are called absent", o.Absent)
			}
			act()
			b.same(map[string]bool{s.dev: true}, b.observe(one).Absent)
			if o := b.observe(narrow(oneLink(s.dev, dataplane.Link{}))); len(o.Absent) > 0 {
				b.Errorf("%s: the scope names it, and it is called absent: %v", name, o.Absent)
			}
		}
	}
}

// usurped lets somebody replace routes of ours in several ways, each of which
// mend puts right.
func (b *bench) usurped(mend func(want dataplane.State, key dataplane.RouteKey, s side)) {
	b.Helper()
	want := everything(3)
	for _, s := range sides() {
		key := s.routeKey(3)
		for _, foreign := range []dataplane.Route{{Via: s.gateway, Link: uplink}, {Link: uplink}, s.route(9)} {
			b.settle(want)
			b.Admin.Put(oneRoute(key, foreign))
			mend(want, key, s)
			b.converged(want)
		}
	}
}

func occupiedIsWatched(b *bench) {
	want := everything(3)
	for _, s := range sides() {
		key := s.routeKey(3)
		b.Admin.Put(oneRoute(key, dataplane.Route{Via: s.gateway, Link: uplink}))
		_ = b.Kernel.Apply(b.Context(), b.plan(want, full())) // it is refused: occupiedRoute has that
		notices := b.watch()
		b.plan(want, full())
		b.Admin.Delete(oneRoute(key, dataplane.Route{}))
		notices.until(oneRoute(key, s.route(3)), want)
	}
	b.settle(want)
	notices := b.watch()
	b.plan(want, full())
	b.Firewall.DeleteTable(ruleset.Key{Table: "weft"})
	notices.until(sides()[0].firewall(), want)
}
