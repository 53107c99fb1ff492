package kerneltest

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
)

// knowFacts reads the facts, with a peer of each family behind the uplink.
func (b *bench) knowFacts() dataplane.Facts {
	b.Helper()
	var peers []netip.Addr
	for _, s := range sides() {
		peers = append(peers, s.vtep(5))
	}
	f, err := b.Kernel.Facts(b.Context(), peers)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func defaultRoute(s side) dataplane.State {
	k := dataplane.RouteKey{Prefix: netip.PrefixFrom(s.gateway, 0).Masked(), Metric: 100}
	return oneRoute(k, dataplane.Route{Via: s.gateway, Link: uplink})
}

func pathRoute(s side) dataplane.State {
	k := dataplane.RouteKey{Prefix: netip.PrefixFrom(s.vtep(5), s.vtep(5).BitLen()-8).Masked(), Metric: 100}
	return oneRoute(k, dataplane.Route{Via: s.gateway, Link: uplink})
}

// staleFacts: whatever Facts tell of, a change of it is told.
func staleFacts(b *bench) {
	b.settle(everything(1))
	b.knowFacts()
	n := b.watch()
	n.stale("the uplink's MTU", func() { b.Admin.Put(oneLink(uplink, dataplane.Link{MTU: 1450, Up: true})) })
	for _, s := range sides() {
		other := s.named("other")
		n.stale("another address of the uplink", func() { b.Admin.Put(oneAddr(uplink, s.spare)) })
		n.stale("one less", func() { b.Admin.Delete(oneAddr(uplink, s.spare)) })
		n.stale("an address elsewhere", func() {
			b.Admin.Put(oneLink(other, dataplane.Link{MTU: 1500, Up: true}))
			b.Admin.Put(oneAddr(other, s.outside))
		})
		n.stale("its link goes", func() { b.Admin.Delete(oneLink(other, dataplane.Link{})) })
		n.stale("a default route", func() { b.Admin.Put(defaultRoute(s)) })
		n.stale("it goes", func() { b.Admin.Delete(defaultRoute(s)) })
		n.stale("a route to a peer", func() { b.Admin.Put(pathRoute(s)) })
		n.stale("it goes", func() { b.Admin.Delete(pathRoute(s)) })
	}
	n.stale("the uplink goes down", func() { b.Admin.Put(oneLink(uplink, dataplane.Link{MTU: 1450})) })
	n.stale("it goes", func() { b.Admin.Delete(oneLink(uplink, dataplane.Link{})) })
}

// stale takes scopes until one says that facts are stale, and reads them.
func (n *notices) stale(what string, change func()) {
	n.b.Helper()
	n.seen = dataplane.Scope{}
	change()
	for !n.seen.Facts {
		n.seen.Add(n.next(what))
	}
	n.b.knowFacts()
}

// podsAreNoFacts: what a host full of pods does all the time must not make
// anybody read the host. A change by the world on our device is the fence.
func podsAreNoFacts(b *bench) {
	b.settle(everything(2))
	b.knowFacts()
	n := b.watch()
	for _, s := range sides() {
		for i := range 3 {
			b.podComesAndGoes(s, fmt.Sprintf("%s%d", s.named("pod"), i))
		}
		elsewhere := dataplane.RouteKey{Prefix: s.outside, Metric: 77}
		b.Admin.Put(oneRoute(elsewhere, dataplane.Route{Via: s.gateway, Link: uplink}))
		b.Admin.Delete(oneRoute(elsewhere, dataplane.Route{}))
		b.apply(b.plan(everything(3), full())) // our own writing neither
		b.apply(b.plan(everything(2), full()))
	}
	fence := oneFDB(sides()[0].fdbKey(99), sides()[0].vtep(9))
	b.Admin.Put(fence)
	n.until(fence, fence)
	if n.seen.Facts {
		b.Errorf("facts were called stale: %+v", n.seen)
	}
}

// podComesAndGoes as it does with our CNI plugin: a link with a gateway's
// address out of our subnet, and a route to the pod.
func (b *bench) podComesAndGoes(s side, dev string) {
	b.Helper()
	gateway := s.node(1).Addr().Next()
	pod := dataplane.RouteKey{Prefix: netip.PrefixFrom(gateway.Next(), gateway.BitLen()), Metric: s.metric}
	b.Admin.Put(oneLink(dev, dataplane.Link{MTU: 1450, Up: true}))
	b.Admin.Put(oneAddr(dev, netip.PrefixFrom(gateway, gateway.BitLen())))
	b.Admin.Put(oneRoute(pod, dataplane.Route{Link: dev}))
	b.Admin.Delete(oneLink(dev, dataplane.Link{}))
}
