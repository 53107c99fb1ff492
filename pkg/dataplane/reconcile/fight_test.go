package reconcile_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// Somebody writes his own value a thousand times a second, for half a minute.
func TestFight(t *testing.T) {
	d := devices()[0]
	fdb := func(n, to byte) dataplane.State {
		return dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{d.fdbKey(n): d.vtep(to)}}
	}
	down := d.link
	down.Up = false
	const span = 30 * time.Second
	for name, c := range map[string]struct {
		theirs dataplane.State
		entry  string
		writes int // for one repair
	}{
		"an FDB entry": {fdb(3, 9), "fdb " + d.fdbKey(3).String(), 1},
		"a stray":      {fdb(7, 9), "fdb " + d.fdbKey(7).String(), 1},
		"a device, with all that stands on it": {
			dataplane.State{Links: map[string]dataplane.Link{d.name: down}}, "link " + d.name, 8,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := host(t)
				l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
				calm, _ := l.history()
				reads, writes := k.Reads(), k.Writes()
				for end := time.Now().Add(span); time.Now().Before(end); pass(time.Millisecond) {
					must(t, k.Put(c.theirs))
				}
				// 64 at once and five a second; a read before and one after each.
				const most = 64 + 5*30 + 1
				if n := k.Writes() - writes; n > most*c.writes || n < 200 {
					t.Errorf("%d writes, want at most %d, and not to give in", n, most*c.writes)
				}
				if n := k.Reads() - reads; n > 4*most {
					t.Errorf("%d reads, want at most %d", n, 4*most)
				}
				rounds, _ := l.history()
				fights, repaired := 0, 0
				for _, r := range rounds[len(calm):] {
					repaired += r.Repaired
					for _, f := range r.Fights {
						if f.Entry == c.entry {
							fights++
						}
					}
				}
				if fights == 0 || repaired < 200 {
					t.Errorf("%d rounds name %s, %d repairs in all", fights, c.entry, repaired)
				}

				// Others do not wait, nor does what we want otherwise now.
				must(t, k.Put(c.theirs))
				must(t, k.Delete(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
					devices()[1].routeKey(2): {},
				}}))
				pass(time.Millisecond)
				o, err := k.Observe(t.Context(), dataplane.Scope{All: true, Domain: domain()})
				must(t, err)
				if _, back := o.Have.Routes[devices()[1].routeKey(2)]; !back {
					t.Error("an entry that nobody fights about waits as well")
				}
				pass(time.Second)
				same(t, converged(t, 2, 3, 4), k.Dump())
			})
		})
	}
}

func TestAFightOfYesterdayIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := devices()[0]
		k := host(t)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3))
		theirs := dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{d.fdbKey(3): d.vtep(9)}}
		for range 3 {
			for range 60 {
				must(t, k.Put(theirs))
				pass(time.Millisecond)
				same(t, converged(t, 2, 3), k.Dump())
			}
			pass(time.Minute)
		}
		rounds, _ := l.history()
		for _, r := range rounds {
			if len(r.Fights) > 0 {
				t.Fatalf("a fight: %v", r.Fights)
			}
		}
	})
}

// A peer that changes all the time is no fight: each of its changes is written
// at once.
func TestOurOwnChangesNeverWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3))
		for range 100 {
			l.Set(reconcile.Layer{Name: "peers", Fragments: fragments(2)})
			pass(time.Millisecond)
			same(t, converged(t, 2), k.Dump())
			l.Set(reconcile.Layer{Name: "peers", Fragments: fragments(2, 3)})
			pass(time.Millisecond)
			same(t, converged(t, 2, 3), k.Dump())
		}
		rounds, _ := l.history()
		for _, r := range rounds {
			if r.Repaired > 0 {
				t.Fatalf("%d repairs in a round, and nobody did anything:\n%s", r.Repaired, r.Applied)
			}
		}
	})
}
