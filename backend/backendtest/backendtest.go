// Package backendtest holds the laws that every backend obeys, as tests over
// cases that the backend's own tests supply.
//
// It owns the laws and a kernel that is just good enough to try plans on. It
// refuses to know any backend, and what entries a backend should make: that is
// for the backend's own golden tests.
package backendtest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Case is a host and its peers, all of them as Admit lets them through.
type Case struct {
	Name string
	Host backend.Host // complete, with our lease, and the paths to peers if they matter
	// Peers are distinct, and good. Three or more make the laws worth while;
	// a backend that has nothing to do for a peer has none.
	Peers []subnet.Lease
	Bad   []Bad
}

// Bad is a lease that Peer must refuse.
type Bad struct {
	Name  string
	Lease subnet.Lease
	Field string // that the *backend.FieldError must name
}

// Run tries every law on every case.
func Run(t *testing.T, b backend.Backend, cases ...Case) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Run("same arguments give the same and stay as they were", func(t *testing.T) { pure(t, b, c) })
			t.Run("one share is announced for each network", func(t *testing.T) { announces(t, b, c) })
			t.Run("what was announced is announced again", func(t *testing.T) { constant(t, b, c) })
			t.Run("the MTU fits into the uplink's", func(t *testing.T) { fits(t, b, c) })
			t.Run("fragments share no key", func(t *testing.T) { disjoint(t, b, c) })
			t.Run("the order of leases does not matter", func(t *testing.T) { unordered(t, b, c) })
			t.Run("no step of a plan leaves a hole", func(t *testing.T) { ordered(t, b, c) })
			t.Run("a plan cut anywhere converges", func(t *testing.T) { restarts(t, b, c) })
			t.Run("a bad peer is named and harms none", func(t *testing.T) { refuses(t, b, c) })
			if programs, ok := b.(backend.Commander); ok {
				t.Run("each peer has its own task", func(t *testing.T) { ownTasks(t, programs, c) })
			}
			if only4(c.Host) {
				t.Run("IPv4 mapped to IPv6 maps the entries", func(t *testing.T) { maps6(t, b, c) })
			}
		})
	}
}

// pure calls everything several times at once on the same arguments: the race
// detector sees a write to them too.
func pure(t *testing.T, b backend.Backend, c Case) {
	host, peers := cloneHost(c.Host), cloneLeases(c.Peers)
	results := make([]string, 4)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { results[i] = everything(b, c) })
	}
	all.Wait()
	for _, r := range results[1:] {
		if d := cmp.Diff(results[0], r); d != "" {
			t.Errorf("two results for the same arguments:\n%s", d)
		}
	}
	if d := cmp.Diff(host, c.Host, values()) + cmp.Diff(peers, c.Peers, values()); d != "" {
		t.Errorf("the arguments were changed:\n%s", d)
	}
}

// everything is all that a backend says about a case, as text.
func everything(b backend.Backend, c Case) string {
	shares, err := b.Announce(c.Host, c.Host.Lease.Shares)
	out := fmt.Sprintln(shares, err, b.MTU(c.Host))
	base, err := b.Base(c.Host)
	out += fmt.Sprintln(text(base), err)
	for _, l := range c.Peers {
		s, err := backend.Entries(b, c.Host, l)
		out += fmt.Sprintln(text(s), err)
	}
	if programs, ok := b.(backend.Commander); ok {
		out += tasksText(programs, c)
	}
	return out
}

func announces(t *testing.T, b backend.Backend, c Case) {
	shares, err := b.Announce(c.Host, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(shares) != len(c.Host.Config.Networks) {
		t.Fatalf("%d shares for %d networks", len(shares), len(c.Host.Config.Networks))
	}
	for i, s := range shares {
		if s.Public != c.Host.Uplink.Public[i] {
			t.Errorf("share %d announces %s, the uplink's public address is %s", i, s.Public, c.Host.Uplink.Public[i])
		}
	}
}

// constant: with a restart's new random bytes, and nothing in the kernel,
// peers are told what they know already.
func constant(t *testing.T, b backend.Backend, c Case) {
	h := cloneHost(c.Host)
	h.Facts = dataplane.Facts{}
	first, err := b.Announce(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range h.Random {
		h.Random[i] ^= 0xa5
	}
	again, err := b.Announce(h, first)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, again, values()); d != "" {
		t.Error(d)
	}
}

func fits(t *testing.T, b backend.Backend, c Case) {
	if have := b.MTU(c.Host); have <= 0 || have > c.Host.Uplink.MTU {
		t.Errorf("MTU %d, the uplink's is %d", have, c.Host.Uplink.MTU)
	}
}

func disjoint(t *testing.T, b backend.Backend, c Case) {
	parts := fragments(t, b, c.Host, c.Peers)
	for i, a := range parts {
		for j, o := range parts[:i] {
			if a.Overlaps(o) {
				t.Errorf("fragments %d and %d (0 is the base) hold one key:\n%s\n%s", j, i, text(o), text(a))
			}
		}
	}
}

func unordered(t *testing.T, b backend.Backend, c Case) {
	want := want(t, b, c.Host, c.Peers)
	backward := slices.Clone(c.Peers)
	slices.Reverse(backward)
	if d := cmp.Diff(text(want), text(merged(fragments(t, b, c.Host, backward)))); d != "" {
		t.Error(d)
	}
}

// ordered follows plans between random pairs of states op by op.
func ordered(t *testing.T, b backend.Backend, c Case) {
	for seed := range uint64(50) {
		want, have := pair(t, b, c, seed)
		plan := dataplane.Diff(want, dataplane.Observed{Have: have})
		s := clone(have)
		before := holes(s)
		for i, op := range plan.Ops {
			perform(&s, op)
			after := holes(s)
			for hole := range after {
				// The kernel flushes neighbours when it changes a link's
				// MAC: no plan can avoid that.
				if !before[hole] && op.Kind != dataplane.KindLink {
					t.Fatalf("seed %d: op %d (%s) leaves %s\nplan:\n%s", seed, i, op, hole, plan)
				}
			}
			before = after
		}
		if len(before) > 0 {
			t.Fatalf("seed %d: in the end %v\nplan:\n%s", seed, before, plan)
		}
	}
}

// restarts stops after every op, and starts again from what is there.
func restarts(t *testing.T, b backend.Backend, c Case) {
	for seed := range uint64(10) {
		want, have := pair(t, b, c, seed)
		plan := dataplane.Diff(want, dataplane.Observed{Have: have})
		for cut := range len(plan.Ops) + 1 {
			s := clone(have)
			for _, op := range plan.Ops[:cut] {
				perform(&s, op)
			}
			for _, op := range dataplane.Diff(want, dataplane.Observed{Have: s}).Ops {
				perform(&s, op)
			}
			if d := cmp.Diff(text(want), text(s)); d != "" {
				t.Fatalf("seed %d, cut after %d ops (-want +have):\n%s", seed, cut, d)
			}
		}
	}
}

func refuses(t *testing.T, b backend.Backend, c Case) {
	before := text(want(t, b, c.Host, c.Peers))
	for _, bad := range c.Bad {
		t.Run(bad.Name, func(t *testing.T) {
			s, err := backend.Entries(b, c.Host, bad.Lease)
			var field *backend.FieldError
			switch {
			case !errors.As(err, &field):
				t.Fatalf("the error does not name a field: %v", err)
			case field.Field != bad.Field || field.Reason == "":
				t.Errorf("it blames %q (%s), wrong is %q", field.Field, field.Reason, bad.Field)
			case s.Len() != 0:
				t.Errorf("an error and entries:\n%s", text(s))
			}
		})
	}
	if d := cmp.Diff(before, text(want(t, b, c.Host, c.Peers))); d != "" {
		t.Errorf("after the bad peers the good ones are others:\n%s", d)
	}
}

// fragments gives the base and each peer.
func fragments(t *testing.T, b backend.Backend, h backend.Host, peers []subnet.Lease) []dataplane.State {
	t.Helper()
	base, err := b.Base(h)
	if err != nil {
		t.Fatal(err)
	}
	out := []dataplane.State{base}
	for _, l := range peers {
		s, err := backend.Entries(b, h, l)
		if err != nil {
			t.Fatalf("peer %s: %v", l.ID, err)
		}
		if _, programs := b.(backend.Commander); s.Len() == 0 && !programs {
			t.Fatalf("peer %s: no entries", l.ID)
		}
		out = append(out, s)
	}
	return out
}

func want(t *testing.T, b backend.Backend, h backend.Host, peers []subnet.Lease) dataplane.State {
	t.Helper()
	return merged(fragments(t, b, h, peers))
}

// pair is a want and a have of a case: seed 0 starts from nothing, the others
// from a part of the peers with entries missing and spoilt, and with other
// paths to them.
func pair(t *testing.T, b backend.Backend, c Case, seed uint64) (wanted, have dataplane.State) {
	t.Helper()
	if seed == 0 {
		return want(t, b, c.Host, c.Peers), dataplane.State{}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	some := func() (part []subnet.Lease) {
		for _, l := range c.Peers {
			if r.IntN(3) > 0 {
				part = append(part, l)
			}
		}
		return part
	}
	before := rerouted(c.Host, r)
	var there []subnet.Lease
	for _, l := range some() {
		if _, err := backend.Entries(b, before, l); err == nil {
			there = append(there, l)
		}
	}
	return want(t, b, c.Host, some()), spoilt(want(t, b, before, there), r)
}

// rerouted is the host with some of its paths changed, the same ones for the
// same r: to a router, or to the link itself.
func rerouted(h backend.Host, r *rand.Rand) backend.Host {
	h = cloneHost(h)
	for _, to := range slices.SortedFunc(maps.Keys(h.Facts.Paths), netip.Addr.Compare) {
		path := h.Facts.Paths[to]
		if r.IntN(2) == 0 {
			continue
		}
		if path.Via = to.Next(); h.Facts.Paths[to].Via.IsValid() {
			path.Via, path.Link = netip.Addr{}, h.Uplink.Iface
		}
		h.Facts.Paths[to] = path
	}
	return h
}
