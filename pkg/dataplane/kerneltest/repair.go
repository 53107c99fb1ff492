package kerneltest

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// mutation is one thing that the world does to a converged kernel.
type mutation struct {
	name string
	do   func(*bench)
	// hurt are the keys whose entries are not as wanted any more (or, for a
	// stray, that are there and are not wanted).
	hurt  dataplane.State
	plan  string // what a full look plans, counted: what the kernel did besides
	stays string // the same in a World in which RoutesStay, if that differs
	quiet bool   // nobody tells
}

// repair lets the world act and checks that it is told of, seen in full and by
// key alike, and mended in one round.
func (b *bench) repair(want dataplane.State, m mutation) {
	b.Helper()
	b.settle(want)
	before := b.marked(want)
	notices := b.watch()
	m.do(b)
	if !m.quiet {
		var known dataplane.State // strays have no entry in want that could be covered
		known.Merge(want)
		known.Merge(m.hurt)
		notices.until(m.hurt, known)
	}
	b.sees(want, before)
	seen := b.plan(want, full())
	planned := m.plan
	if b.RoutesStay {
		planned = cmp.Or(m.stays, m.plan)
	}
	if have := count(seen); have != planned {
		b.Errorf("want a plan of %q, have %q:\n%s", planned, have, seen)
	}
	byKey := b.plan(want, narrow(m.hurt))
	var all []string
	for _, op := range seen.Ops {
		all = append(all, op.String())
	}
	hurt := 0
	for _, op := range byKey.Ops {
		hurt++
		if !strings.Contains("\n"+strings.Join(all, "\n")+"\n", "\n"+op.String()+"\n") {
			b.Errorf("a narrow look plans what a full one does not: %s", op)
		}
	}
	if hurt == 0 {
		b.Errorf("a narrow look does not see it; a full one plans:\n%s", seen)
	}
	b.apply(seen)
	b.converged(want)
}

// marked looks at a converged kernel twice: the second time there is nothing to tell
// of what peers have.
func (b *bench) marked(want dataplane.State) uint64 {
	b.Helper()
	first := b.observe(full())
	again := full()
	again.Unless = first.Mark
	o := b.observe(again)
	if first.Mark == 0 || first.Same || !o.Same || o.Mark != first.Mark {
		b.Errorf("nothing changed: mark %x, then %x, the same: %t", first.Mark, o.Mark, o.Same)
	}
	b.same(without(first.Have, want).Few(), without(o.Have, want))
	return first.Mark
}

// sees has a look that leaves out what is as it was tell what a full one does: that
// the kernel has not what is wanted.
func (b *bench) sees(want dataplane.State, mark uint64) {
	b.Helper()
	s := full()
	s.Unless = mark
	switch o := b.observe(s); {
	case o.Same && dataplane.Diff(want.Few(), o).Calm():
		b.Error("a look that leaves out what is as it was sees no difference")
	case !o.Same:
		b.same(dataplane.Diff(want, b.observe(full())), dataplane.Diff(want, o))
	}
}

// count is "+1 link +3 neigh": the plan by verb and kind, in order.
func count(p dataplane.Plan) string {
	type group struct {
		verb dataplane.Verb
		kind dataplane.Kind
	}
	var order []group
	ops := map[group]int{}
	for _, op := range p.Ops {
		g := group{op.Verb, op.Kind}
		if ops[g] == 0 {
			order = append(order, g)
		}
		ops[g]++
	}
	var words []string
	for _, g := range order {
		words = append(words, fmt.Sprintf("%c%d %s", g.verb, ops[g], g.kind))
	}
	return strings.Join(words, " ")
}

func mutations() []mutation {
	var out []mutation
	for _, s := range sides() {
		family := "IPv4: "
		if s.link.Local.Is6() {
			family = "IPv6: "
		}
		for _, list := range [][]mutation{s.linkMutations(), s.goneMutations(), s.entryMutations()} {
			for _, m := range list {
				m.name = family + m.name
				out = append(out, m)
			}
		}
	}
	var devices dataplane.State
	for _, s := range sides() {
		devices.Merge(s.overlay(3))
	}
	return append(out, mutation{
		name: "parent deleted and back", plan: "+2 link +2 address +6 fdb +6 neigh +6 route", hurt: devices,
		do: func(b *bench) {
			b.Admin.Delete(oneLink(uplink, dataplane.Link{}))
			b.Admin.Put(underlay())
		},
	}, mutation{
		name: "sysctl is set back", plan: "~1 sysctl", quiet: true,
		hurt: dataplane.State{Sysctls: map[string]string{"net/ipv4/ip_forward": ""}},
		do: func(b *bench) {
			b.Admin.Put(dataplane.State{Sysctls: map[string]string{"net/ipv4/ip_forward": "0"}})
		},
	})
}

// linkMutations change the device and leave it there.
func (s side) linkMutations() []mutation {
	device := oneLink(s.dev, dataplane.Link{})
	change := func(edit func(*dataplane.Link)) func(*bench) {
		return func(b *bench) {
			l := s.link
			edit(&l)
			b.Admin.Put(oneLink(s.dev, l))
		}
	}
	return []mutation{
		{name: "link MTU", plan: "~1 link", hurt: device, do: change(func(l *dataplane.Link) { l.MTU = 1300 })},
		{name: "link MAC, which flushes neighbours", plan: "~1 link +3 neigh",
			hurt: s.onLink(false), do: change(func(l *dataplane.Link) {
				l.MAC[5] = 0x77
			})},
		{name: "link local address", plan: "~1 link", hurt: device, do: func(b *bench) {
			b.Admin.Put(oneAddr(uplink, s.spare))
			change(func(l *dataplane.Link) { l.Local = s.spare.Addr() })(b)
		}},
		{name: "all that can be changed of a link", plan: "~1 link" + s.addr6() + " +3 neigh +3 route",
			hurt: s.onLink(true), do: func(b *bench) {
				b.Admin.Put(oneAddr(uplink, s.spare))
				change(func(l *dataplane.Link) {
					l.MTU, l.MAC[5], l.Local, l.Up = 1300, 0x77, s.spare.Addr(), false
				})(b)
			}},
		{name: "link down", plan: "~1 link" + s.addr6() + " +3 neigh +3 route",
			hurt: s.onLink(true), do: change(func(l *dataplane.Link) { l.Up = false })},
		{name: "link down and up", plan: strings.TrimSpace(s.addr6() + " +3 neigh +3 route"),
			hurt: s.onLink(true), do: func(b *bench) {
				change(func(l *dataplane.Link) { l.Up = false })(b)
				change(func(*dataplane.Link) {})(b)
			}},
		{name: "link renamed", plan: "~1 link",
			hurt: device, do: func(b *bench) { b.Admin.Rename(s.dev, "elsewhere") }},
		{name: "link renamed and another entry gone", plan: "~1 link +1 fdb", hurt: device, do: func(b *bench) {
			b.Admin.Rename(s.dev, "elsewhere")
			b.Admin.Delete(oneFDB(dataplane.FDBKey{Link: "elsewhere", MAC: s.mac(3)}, netip.Addr{}))
		}},
	}
}

// addr6 stands for the addresses that go when a link goes down.
func (s side) addr6() string {
	if s.link.Local.Is6() {
		return " +1 address"
	}
	return ""
}

// onLink is what a flush takes: the device, its neighbours, its routes as well.
func (s side) onLink(routes bool) dataplane.State {
	o := s.overlay(3)
	out := dataplane.State{Links: o.Links, Neighs: o.Neighs}
	if routes {
		out.Routes = o.Routes
	}
	return out
}

// goneMutations take something with all that hangs on it.
func (s side) goneMutations() []mutation {
	const anew = "+1 link +1 address +3 fdb +3 neigh +3 route"
	out := []mutation{
		{name: "link deleted", plan: anew, hurt: s.overlay(3), do: func(b *bench) {
			b.Admin.Delete(oneLink(s.dev, dataplane.Link{}))
		}},
		{name: "link made anew with another port", plan: "-1 link " + anew, hurt: s.overlay(3), do: func(b *bench) {
			b.Admin.Delete(oneLink(s.dev, dataplane.Link{}))
			l := s.link
			l.Port = 4789
			b.Admin.Put(oneLink(s.dev, l))
		}},
		{name: "address deleted", plan: "+1 address",
			hurt: dataplane.State{Addrs: s.overlay(0).Addrs}, do: func(b *bench) {
				b.Admin.Delete(dataplane.State{Addrs: s.overlay(0).Addrs})
			}},
	}
	if s.link.Local.Is4() {
		// Nobody tells of the routes: the address must stand for them.
		last := &out[len(out)-1]
		last.plan += " +3 neigh +3 route"
		last.stays = "+1 address +3 neigh"
		last.hurt = dataplane.State{Addrs: s.overlay(0).Addrs, Routes: s.overlay(3).Routes}
	}
	return out
}

func (s side) entryMutations() []mutation {
	stray := netip.PrefixFrom(s.node(9).Addr(), s.addrKey().Prefix.Bits())
	put := func(state dataplane.State) func(*bench) { return func(b *bench) { b.Admin.Put(state) } }
	remove := func(state dataplane.State) func(*bench) { return func(b *bench) { b.Admin.Delete(state) } }
	fdb := func(n, to int) dataplane.State { return oneFDB(s.fdbKey(n), s.vtep(to)) }
	neigh := func(n, to int) dataplane.State { return oneNeigh(s.neighKey(n), s.mac(to)) }
	route := oneRoute(s.routeKey(3), s.route(3))
	table := ruleset.Key{IPv6: s.link.Local.Is6(), Table: "weft"}
	return []mutation{
		{name: "element deleted", plan: "+1 element", hurt: someElems(s.known(3)), do: remove(someElems(s.known(3)))},
		{name: "stray element", plan: "-1 element", hurt: someElems(s.bound(9)), do: put(someElems(s.bound(9)))},
		{name: "one element for another", plan: "+1 element -1 element", hurt: someElems(s.bound(3), s.bound(9)),
			do: func(b *bench) {
				b.Admin.Put(someElems(s.bound(9)))
				b.Admin.Delete(someElems(s.bound(3)))
			}},
		{name: "table with its sets deleted", plan: "+6 element +5 chain",
			hurt: dataplane.State{Chains: s.firewall().Chains, Elems: s.members(3).Elems},
			do:   func(b *bench) { b.Firewall.DeleteTable(table) }},
		{name: "stray address", plan: "-1 address", hurt: oneAddr(s.dev, stray), do: put(oneAddr(s.dev, stray))},
		{name: "FDB entry leads elsewhere", plan: "~1 fdb", hurt: fdb(3, 9), do: put(fdb(3, 9))},
		{name: "FDB entry deleted", plan: "+1 fdb", hurt: fdb(3, 9), do: remove(fdb(3, 9))},
		{name: "stray FDB entry", plan: "-1 fdb", hurt: fdb(9, 9), do: put(fdb(9, 9))},
		{name: "neighbour with another MAC", plan: "~1 neigh", hurt: neigh(3, 9), do: put(neigh(3, 9))},
		{name: "neighbour deleted", plan: "+1 neigh", hurt: neigh(3, 9), do: remove(neigh(3, 9))},
		{name: "stray neighbour", plan: "-1 neigh", hurt: neigh(9, 9), do: put(neigh(9, 9))},
		{name: "route deleted", plan: "+1 route", hurt: route, do: remove(route)},
		{name: "route replaced as flannel writes it", plan: "~1 route", hurt: route, do: put(route)},
		{name: "route of ours leads elsewhere", plan: "~1 route", hurt: route, quiet: true, do: func(b *bench) {
			b.apply(dataplane.Plan{Ops: []dataplane.Op{{
				Verb: dataplane.Change, Kind: dataplane.KindRoute, Key: s.routeKey(3), Old: s.route(3), New: s.route(9),
			}}})
		}},
		{name: "stray route of ours", plan: "-1 route",
			hurt: oneRoute(s.routeKey(9), s.route(9)), quiet: true, do: func(b *bench) {
				b.apply(dataplane.Plan{Ops: []dataplane.Op{{
					Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: s.routeKey(9), New: s.route(9),
				}}})
			}},
		{name: "stray route as flannel writes it", plan: "-1 route", hurt: oneRoute(s.routeKey(9), s.route(9)),
			do: put(oneRoute(s.routeKey(9), s.route(9)))},
		{name: "four entries of two peers", plan: "~1 fdb +1 neigh ~1 neigh +1 route",
			hurt: s.twoPeers(), do: func(b *bench) {
				b.Admin.Put(fdb(3, 9))
				b.Admin.Put(neigh(4, 9))
				b.Admin.Delete(neigh(3, 3))
				b.Admin.Delete(route)
			}},
	}
}

func (s side) twoPeers() dataplane.State {
	return dataplane.State{
		FDB:    map[dataplane.FDBKey]netip.Addr{s.fdbKey(3): {}},
		Neighs: map[dataplane.NeighKey]mac.Addr{s.neighKey(3): {}, s.neighKey(4): {}},
		Routes: map[dataplane.RouteKey]dataplane.Route{s.routeKey(3): {}},
	}
}
