package kerneltest

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

func convergeCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"everything in one round, and nothing more to write": func(b *bench) {
			b.settle(everything(3))
			before := b.Admin.Dump()
			b.apply(b.plan(everything(3), full()))
			b.same(before, b.Admin.Dump())
		},
		"one family alone": func(b *bench) {
			for _, s := range sides() {
				b.settle(s.overlay(2))
			}
		},
		"a peer comes, changes and goes": peerLife,
		"a link moves to another port and MAC": func(b *bench) {
			b.settle(everything(2))
			want := everything(2)
			for _, s := range sides() {
				l := s.link
				l.Port, l.MAC = 4789, mac.Addr{s.macByte, 0x55, 0, 0, 0, 1}
				want.Links[s.dev] = l
			}
			b.apply(b.plan(want, full()))
			b.converged(want)
		},
		"300 peers in both families":              manyPeers,
		"a process that dies amid a plan":         cutPlans,
		"a restarted process has nothing to mend": restart,
		"all is taken away again": func(b *bench) {
			before := b.Admin.Dump()
			b.settle(everything(3))
			b.apply(b.plan(dataplane.State{}, full()))
			b.same(before, b.Admin.Dump())
		},
		"facts": facts,
		"paths": paths,
	}
}

func peerLife(b *bench) {
	b.settle(everything(2))
	b.settle(everything(3))
	moved := everything(3)
	for _, s := range sides() {
		delete(moved.FDB, s.fdbKey(4))
		moved.FDB[s.fdbKey(44)] = s.vtep(45)
		moved.Neighs[s.neighKey(4)] = s.mac(44)
	}
	b.settle(moved)
	b.settle(everything(1))
}

// manyPeers also checks that a narrow look at one link's worth of entries
// works where its neighbour link is as full.
func manyPeers(b *bench) {
	want := everything(300)
	b.settle(want)
	for _, s := range sides() {
		b.Admin.Delete(oneRoute(s.routeKey(250), s.route(250)))
		b.Admin.Put(oneNeigh(s.neighKey(251), s.mac(999)))
		p := b.plan(want, narrow(oneLink(s.dev, dataplane.Link{})))
		if len(p.Ops) != 2 {
			b.Errorf("%s: want 2 ops, have:\n%s", s.dev, p)
		}
		b.apply(p)
	}
	b.converged(want)
	b.settle(everything(0))
}

// cutPlans lets a process die with a part of its plan written, at the ends of batches
// and amid them: what stands is what stands below, and the next process goes on.
func cutPlans(b *bench) {
	from, to := everything(0), everything(120) // 720 ops for peers, in batches of 128 messages
	for _, cut := range []int{1, 127, 128, 129, 300, 511, 700} {
		for _, want := range []dataplane.State{to, from} {
			p := b.plan(want, full())
			p.Ops = p.Ops[:min(cut, len(p.Ops))]
			b.apply(p)
			b.Kernel = b.Reopen()
			b.supported()
		}
		b.settle(to)
		b.settle(from)
	}
}

// supported checks that no route lacks its neighbour, and no neighbour its FDB entry.
func (b *bench) supported() {
	b.Helper()
	have := b.observe(full()).Have
	for key, r := range have.Routes {
		if _, ok := have.Neighs[dataplane.NeighKey{Link: r.Link, IP: r.Via}]; r.Via.IsValid() && !ok {
			b.Errorf("route %s without its neighbour", key)
		}
	}
	for key, m := range have.Neighs {
		if _, ok := have.FDB[dataplane.FDBKey{Link: key.Link, MAC: m}]; !ok {
			b.Errorf("neighbour %s without its FDB entry", key)
		}
	}
}

func restart(b *bench) {
	want := everything(3)
	b.settle(want)
	before := b.Admin.Dump()
	b.Kernel = b.Reopen()
	if p := b.plan(want, full()); !p.Empty() || len(p.Conflicts) > 0 {
		b.Errorf("want an empty plan, have:\n%s", p)
	}
	b.converged(want)
	b.same(before, b.Admin.Dump())
}

func facts(b *bench) {
	want := everything(1)
	b.settle(want)
	defaults := map[dataplane.RouteKey]dataplane.Route{}
	for _, s := range sides() {
		k := dataplane.RouteKey{Prefix: netip.PrefixFrom(s.gateway, 0).Masked(), Metric: 100}
		defaults[k] = dataplane.Route{Via: s.gateway, Link: uplink}
	}
	b.Admin.Put(dataplane.State{Routes: defaults})
	f, err := b.Kernel.Facts(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.same(defaults, f.Defaults)
	b.uplinkFacts(f.Ifaces[uplink])
	for _, s := range sides() {
		i := f.Ifaces[s.dev]
		b.same(&dataplane.Link{VNI: s.link.VNI, Port: s.link.Port, Local: s.link.Local}, i.VXLAN)
		if i.MTU != s.link.MTU || i.MAC != s.link.MAC || !i.Up {
			b.Errorf("%s: %+v", s.dev, i)
		}
	}
}

// paths are told of the addresses asked for and no others: on the link, behind
// a router, ours, and without a way. They follow the routes.
func paths(b *bench) {
	b.settle(everything(1))
	ask := func() map[netip.Addr]dataplane.Route {
		var asked []netip.Addr
		for _, s := range sides() {
			asked = append(asked, s.gateway, s.vtep(5), s.link.Local, s.node(2).Addr().Next())
		}
		f, err := b.Kernel.Facts(b.Context(), asked)
		if err != nil {
			b.Fatal(err)
		}
		return f.Paths
	}
	want := map[netip.Addr]dataplane.Route{}
	for _, s := range sides() {
		want[s.gateway] = dataplane.Route{Link: uplink, Src: s.link.Local}
		want[s.link.Local] = dataplane.Route{Link: "lo", Src: s.link.Local}
		want[s.node(2).Addr().Next()] = dataplane.Route{
			Via: s.node(2).Addr(), Link: s.dev, Src: s.addrKey().Prefix.Addr(),
		}
	}
	b.same(want, ask())
	for _, s := range sides() {
		k := dataplane.RouteKey{Prefix: netip.PrefixFrom(s.gateway, 0).Masked(), Metric: 100}
		b.Admin.Put(oneRoute(k, dataplane.Route{Via: s.gateway, Link: uplink}))
		want[s.vtep(5)] = dataplane.Route{Via: s.gateway, Link: uplink, Src: s.link.Local}
	}
	b.same(want, ask())
	b.morePaths(want)
}

// morePaths asks for the same ways, one after the other, beside those of the last Facts.
func (b *bench) morePaths(want map[netip.Addr]dataplane.Route) {
	k, can := b.Kernel.(interface {
		Paths(ctx context.Context, more []netip.Addr) (dataplane.Facts, error)
	})
	if !can {
		return
	}
	if _, err := b.Kernel.Facts(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	have := map[netip.Addr]dataplane.Route{}
	for peer := range want {
		f, err := k.Paths(b.Context(), []netip.Addr{peer})
		if err != nil {
			b.Fatal(err)
		}
		maps.Copy(have, f.Paths)
	}
	b.same(want, have)
}

func (b *bench) uplinkFacts(up dataplane.Iface) {
	b.Helper()
	if up.MTU != 1500 || !up.Up || up.VXLAN != nil || !up.MAC.IsUnicast() || up.Index == 0 {
		b.Errorf("%s: %+v", uplink, up)
	}
	for a := range underlay().Addrs {
		if !slices.Contains(up.Addrs, a.Prefix) {
			b.Errorf("%s: want %s among the addresses, have %v", uplink, a.Prefix, up.Addrs)
		}
	}
	linkLocal := func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }
	for i, p := range up.Addrs[:max(len(up.Addrs)-1, 0)] {
		if linkLocal(p) && !linkLocal(up.Addrs[i+1]) {
			b.Errorf("%s: a link-local address stands before a global one: %v", uplink, up.Addrs)
		}
	}
}
