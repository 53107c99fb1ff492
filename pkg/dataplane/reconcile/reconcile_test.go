package reconcile_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/layers"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

var errRefused = errors.New("refused by the test")

const day = 24 * time.Hour

func TestConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{}, baseLayer(), fragments(2, 3, 4))
		same(t, converged(t, 2, 3, 4), k.Dump())
		rounds, _ := l.history()
		if first := rounds[0]; !first.Full || first.Left.String() != "" || len(first.Failed) > 0 || first.Err != nil {
			t.Errorf("the first round: %+v", first)
		}
		writes := k.Writes()
		l.Set(reconcile.Layer{Name: "peers", Fragments: fragments(2, 3)})
		pass(time.Second)
		same(t, converged(t, 2, 3), k.Dump())
		same(t, 2*3, k.Writes()-writes) // FDB, neighbour, route; fragments of 2 and 3 are new but equal
	})
}

func TestBeforeOwnTheKernelIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		loop := reconcile.New(k, reconcile.Options{})
		loop.Set(reconcile.Layer{Name: "base", Fragments: baseLayer()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- loop.Run(ctx) }()
		pass(time.Hour)
		same(t, []int{0, 0}, []int{k.Reads(), k.Writes()})
		loop.Own(domain())
		pass(time.Second)
		same(t, converged(t), k.Dump())
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestNothingIsDeletedBeforeAllLayersAreSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		put(t, k, want(2, 3, 99))
		must(t, k.Put(dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{devices()[0].fdbKey(2): devices()[0].vtep(9)}}))
		l := live(t, k, reconcile.Options{Layers: []string{"base", "peers"}}, baseLayer(), nil)
		pass(time.Hour)
		if !strings.Contains(k.Dump(), devices()[1].subnet(99).String()) {
			t.Errorf("peer 99 is gone though nobody said who the peers are:\n%s", k.Dump())
		}
		l.Set(reconcile.Layer{Name: "peers", Fragments: fragments(2, 3)})
		pass(time.Second)
		same(t, converged(t, 2, 3), k.Dump())
	})
}

func TestTheWorldActs(t *testing.T) {
	d := devices()[0]
	acts := map[string]func(l dataplane.Link) (dataplane.State, dataplane.State){ // put, delete
		"MTU": func(l dataplane.Link) (dataplane.State, dataplane.State) {
			l.MTU = 1300
			return dataplane.State{Links: map[string]dataplane.Link{d.name: l}}, dataplane.State{}
		},
		"down": func(l dataplane.Link) (dataplane.State, dataplane.State) {
			l.Up = false
			return dataplane.State{Links: map[string]dataplane.Link{d.name: l}}, dataplane.State{}
		},
		"link deleted": func(dataplane.Link) (dataplane.State, dataplane.State) {
			return dataplane.State{}, dataplane.State{Links: map[string]dataplane.Link{d.name: {}}}
		},
		"address deleted": func(dataplane.Link) (dataplane.State, dataplane.State) {
			return dataplane.State{}, dataplane.State{Addrs: base().Addrs}
		},
		"route deleted": func(dataplane.Link) (dataplane.State, dataplane.State) {
			return dataplane.State{}, dataplane.State{Routes: peer(2).Routes}
		},
		"stray peer": func(dataplane.Link) (dataplane.State, dataplane.State) { return peer(77), dataplane.State{} },
	}
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := host(t)
				l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
				before, _ := l.history()
				put, del := act(d.link)
				must(t, k.Put(put))
				must(t, k.Delete(del))
				pass(time.Second)
				same(t, converged(t, 2, 3, 4), k.Dump())
				rounds, _ := l.history()
				if len(rounds) == len(before) {
					t.Error("no round")
				}
				for _, r := range rounds[len(before):] {
					if r.Full {
						t.Error("everything was read for one change")
					}
				}
			})
		})
	}
}

func TestConflictsAreReportedAndNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		d := devices()[0]
		foreign := dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{d.routeKey(3): {Link: "up0"}}}
		must(t, k.Put(foreign))
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
		reads, writes := k.Reads(), k.Writes()
		rounds, _ := l.history()
		last := rounds[len(rounds)-1]
		if !last.Left.Empty() || len(last.Left.Conflicts) != 1 || last.Left.Conflicts[0].Key != d.routeKey(3) {
			t.Errorf("want one conflict over %s, have:\n%s", d.routeKey(3), last.Left)
		}
		pass(time.Hour)
		same(t, []int{reads, writes}, []int{k.Reads(), k.Writes()})
		plan, err := l.Plan(t.Context())
		must(t, err)
		if len(plan.Ops) != 0 || len(plan.Conflicts) != 1 || plan.Conflicts[0].Key != d.routeKey(3) {
			t.Errorf("what Plan says: want one conflict over %s, have:\n%s", d.routeKey(3), plan)
		}

		must(t, k.Delete(foreign))
		pass(time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
	})
}

func TestAuditRepairsWhatNobodyTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		live(t, k, reconcile.Options{}, baseLayer(), fragments(2, 3, 4))
		k.Mute(true)
		must(t, k.Put(dataplane.State{Sysctls: map[string]string{"net/ipv4/ip_forward": "0"}}))
		must(t, k.Delete(dataplane.State{Links: map[string]dataplane.Link{devices()[1].name: {}}}))
		k.DeleteTable(ruleset.Key{Table: "weft"})
		pass(10 * time.Second)
		if k.Dump() == converged(t, 2, 3, 4) {
			t.Fatal("repaired before the audit: somebody told")
		}
		pass(66 * time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
		have, err := k.Observe(t.Context(), dataplane.Scope{All: true, Domain: domain()})
		must(t, err)
		same(t, base().Sysctls, have.Have.Sysctls)
	})
}

func TestBrokenWatchReadsAllAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
		k.Mute(true)
		must(t, k.Delete(dataplane.State{Routes: peer(2).Routes}))
		k.Mute(false)
		pass(time.Minute)
		if k.Dump() == converged(t, 2, 3, 4) {
			t.Fatal("repaired before the watch broke: somebody told")
		}
		k.BreakWatch(errRefused)
		pass(time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
		rounds, _ := l.history()
		told := false
		for _, r := range rounds {
			told = told || errors.Is(r.Err, errRefused)
		}
		if !told {
			t.Error("nobody was told that the watch broke")
		}
		must(t, k.Delete(dataplane.State{Routes: peer(3).Routes})) // the new watch works
		pass(time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
	})
}

func TestPlanAndFactsWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
		k.Mute(true)
		must(t, k.Delete(dataplane.State{Routes: peer(2).Routes}))
		before, writes := k.Dump(), k.Writes()
		plan, err := l.Plan(t.Context())
		must(t, err)
		same(t, "+ route 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink\n"+
			"+ route fd00:42:0:2::/64 via fd00:42:0:2:: dev flannel-v6.1 metric 1024 onlink\n", plan.String())
		facts, err := l.Facts(t.Context())
		must(t, err)
		same(t, 1450, facts.Ifaces["flannel.1"].MTU)
		pass(time.Minute)
		same(t, before, k.Dump())
		same(t, writes, k.Writes())
		l.end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Plan(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Plan of a loop that ended: %v", err)
		}
	})
}

func TestIdleHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{}, baseLayer(), fragments(2, 3, 4))
		pass(time.Second)
		before, _ := l.history()
		reads, writes := k.Reads(), k.Writes()
		pass(time.Hour)
		after, _ := l.history()
		audits := len(after) - len(before)
		if audits < 54 || audits > 67 {
			t.Errorf("want an audit every minute or so, have %d in an hour", audits)
		}
		same(t, audits, k.Reads()-reads)
		same(t, 0, k.Writes()-writes)
	})
}

func TestRestartOfAConvergedNodeWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		live(t, k, reconcile.Options{}, baseLayer(), fragments(2, 3, 4)).end()
		k = k.Restarted()
		live(t, k, reconcile.Options{Layers: []string{"base", "peers"}}, baseLayer(), fragments(2, 3, 4))
		pass(time.Hour)
		same(t, 0, k.Writes())
	})
}

func TestSetNamesWhatItRefuses(t *testing.T) {
	twice := append(fragments(2), layers.New("impostor", fragments(2)[0].State()))
	refused := reconcile.New(host(t), reconcile.Options{}).Set(reconcile.Layer{Name: "peers", Fragments: twice})
	if len(refused) != 1 || refused[0].ID != "impostor" || refused[0].Holder != twice[0].ID {
		t.Errorf("%+v", refused)
	}
}

// Facts that are stale are told within a moment, a storm of changes a few times
// a second, and neither makes the loop read any entry.
func TestStaleFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		told := 0
		live(t, k, reconcile.Options{Audit: day, OnFacts: func() { told++ }}, baseLayer(), fragments(2))
		pass(time.Second)
		reads := k.Reads()
		flap := func(n int) {
			route := dataplane.RouteKey{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Metric: n}
			must(t, k.Put(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
				route: {Via: netip.MustParseAddr("192.0.2.254"), Link: "up0"},
			}}))
		}
		flap(1)
		pass(time.Second)
		same(t, 1, told)
		for n := range 1000 {
			flap(n + 2)
			pass(10 * time.Millisecond)
		}
		pass(time.Second)
		if told < 30 || told > 42 {
			t.Errorf("ten seconds of storm: told %d times, want about 4 a second", told-1)
		}
		same(t, reads, k.Reads())
	})
}
