package kerneltest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

func isOccupied(err error) bool { return errors.Is(err, dataplane.ErrOccupied) }

func applyCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"the same plan twice": func(b *bench) {
			want := everything(3)
			p := b.plan(want, full())
			b.apply(p)
			b.apply(p)
			b.converged(want)
			p = b.plan(dataplane.State{}, full())
			b.apply(p)
			b.apply(p)
		},
		"deletes of entries that are gone": func(b *bench) {
			want := everything(3)
			b.settle(want)
			p := b.plan(everything(0), full())
			for _, s := range sides() {
				o := s.overlay(3)
				b.Admin.Delete(dataplane.State{FDB: o.FDB, Neighs: o.Neighs, Routes: o.Routes})
			}
			b.apply(p)
			b.converged(everything(0))
		},
		"deletes of what is gone with its link": func(b *bench) {
			b.settle(everything(3))
			entries := b.plan(everything(0), full())
			links := b.plan(dataplane.State{}, full())
			for _, s := range sides() {
				b.Admin.Delete(oneLink(s.dev, dataplane.Link{}))
				b.Firewall.DeleteTable(s.chainKey())
			}
			b.apply(entries)
			b.apply(links)
		},
		"a delete leaves a route that became foreign": func(b *bench) {
			b.settle(everything(3))
			p := b.plan(everything(0), full())
			for _, s := range sides() {
				b.Admin.Put(oneRoute(s.routeKey(3), dataplane.Route{Via: s.gateway, Link: uplink}))
			}
			b.apply(p)
			for _, s := range sides() {
				if !strings.Contains(b.Admin.Dump(), s.routeKey(3).Prefix.String()) {
					b.Errorf("the foreign route to %s was deleted:\n%s", s.routeKey(3), b.Admin.Dump())
				}
			}
		},
		"what fails does not stop the rest":         failuresApart,
		"our device is elsewhere when we create it": overtaken,
		"an ended context is an error, not a panic": func(b *bench) {
			ctx, cancel := context.WithCancel(b.Context())
			cancel()
			_, err := b.Kernel.Observe(ctx, dataplane.Scope{All: true, Domain: domain()})
			if !errors.Is(err, context.Canceled) {
				b.Errorf("Observe: want context.Canceled, have %v", err)
			}
		},
	}
}

// overtaken lets a device with our VNI and port appear between the look and the
// write. The kernel refuses a second one; the next look finds the first.
func overtaken(b *bench) {
	want := everything(1)
	p := b.plan(want, full())
	for _, s := range sides() {
		b.Admin.Put(oneLink(s.named("taken"), s.link))
	}
	refused := map[any]bool{}
	for _, f := range b.Kernel.Apply(b.Context(), p) {
		refused[f.Op.Key] = true
	}
	for _, s := range sides() {
		if !refused[s.dev] {
			b.Errorf("%s was made beside a device with its VNI and port", s.dev)
		}
	}
	b.settle(want)
}

// failuresApart applies entries of a link that is not there before good ones.
func failuresApart(b *bench) {
	want := everything(1)
	b.settle(want)
	s := sides()[0]
	absent := "absent.1"
	bad := []dataplane.Op{
		{Verb: dataplane.Create, Kind: dataplane.KindAddr,
			Key: dataplane.AddrKey{Link: absent, Prefix: s.addrKey().Prefix}, New: struct{}{}},
		{Verb: dataplane.Create, Kind: dataplane.KindFDB,
			Key: dataplane.FDBKey{Link: absent, MAC: s.mac(3)}, New: s.vtep(3)},
		{Verb: dataplane.Create, Kind: dataplane.KindNeigh,
			Key: dataplane.NeighKey{Link: absent, IP: s.node(3).Addr()}, New: s.mac(3)},
		{Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: s.routeKey(3),
			New: dataplane.Route{Via: s.node(3).Addr(), Link: absent, OnLink: true}},
	}
	next := everything(2)
	failed := b.Kernel.Apply(b.Context(), dataplane.Plan{Ops: append(bad, b.plan(next, full()).Ops...)})
	var names []string
	for _, f := range failed {
		names = append(names, f.Op.String())
		if isOccupied(f) {
			b.Errorf("nothing stands there, but: %v", f)
		}
	}
	var expected []string
	for _, op := range bad {
		expected = append(expected, op.String())
	}
	b.same(expected, names)
	b.converged(next)
}

func watchCases() map[string]func(*bench) {
	return map[string]func(*bench){
		"a second Watch begins with All again": func(b *bench) {
			b.settle(everything(1))
			b.watch()
			b.watch()
		},
		"it ends while nobody reads": func(b *bench) {
			b.settle(everything(1))
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- b.Kernel.Watch(ctx, make(chan dataplane.Scope)) }()
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					b.Errorf("want context.Canceled, have %v", err)
				}
			case <-time.After(patience):
				b.Error("it does not end")
			}
		},
		"our own writes make nothing dirty but themselves": ownWrites,
		"a burst is not lost":                              burst,
		"facts that are stale are told of":                 staleFacts,
		"pods make no facts stale":                         podsAreNoFacts,
	}
}

// ownWrites can't wait for silence. A change by the world is the fence: what
// was told until then is from our own writes, or from an underlay that is
// young and still finds its carrier and addresses. It gets time for that.
func ownWrites(b *bench) {
	b.settle(everything(2))
	n := b.watch()
	s := sides()[0]
	fence := oneFDB(dataplane.FDBKey{Link: s.dev, MAC: s.mac(9)}, s.vtep(9))
	known := everything(3)
	known.Merge(fence)
	for deadline := time.Now().Add(2 * patience); ; {
		for _, peers := range []int{3, 2} {
			n.seen = dataplane.Scope{}
			b.apply(b.plan(everything(peers), full()))
			b.Admin.Put(fence)
			n.until(fence, known)
			if !n.seen.All && len(n.seen.Keys.Links) == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("writing a peer makes more dirty than itself: %+v", n.seen)
		}
	}
}

// burst changes more at once than any queue of notifications should need.
func burst(b *bench) {
	b.settle(everything(1))
	n := b.watch()
	strays := dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{}, Neighs: map[dataplane.NeighKey]mac.Addr{}}
	for _, s := range sides() {
		for i := 100; i < 400; i++ {
			strays.FDB[s.fdbKey(i)] = s.vtep(i)
			strays.Neighs[s.neighKey(i)] = s.mac(i)
		}
	}
	b.Admin.Put(strays)
	n.until(strays, strays)
	b.settle(everything(1))
}
