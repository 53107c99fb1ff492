package reconcile_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// histories are what a node may find when it starts.
func histories() map[string]func(*testing.T, *fake.Kernel) {
	return map[string]func(*testing.T, *fake.Kernel){
		"a new host": func(*testing.T, *fake.Kernel) {},
		"an old configuration": func(t *testing.T, k *fake.Kernel) {
			old := want(2, 88, 99)
			for name, l := range old.Links {
				l.MTU, l.MAC[5] = 1200, 0x66
				if name == devices()[0].name {
					l.Port = 4789
				}
				old.Links[name] = l
			}
			for key := range old.FDB {
				old.FDB[key] = old.FDB[key].Next()
			}
			put(t, k, old)
			must(t, k.Rename(devices()[1].name, "elsewhere"))
		},
		"flannel was here": func(t *testing.T, k *fake.Kernel) {
			s := want(2, 3, 99)
			s.Chains = nil
			must(t, k.Put(s))
		},
	}
}

// A process is killed before every single write in turn. A new one, with no
// memory, converges to the same kernel.
func TestCrashAtEveryOp(t *testing.T) {
	opts := reconcile.Options{Layers: []string{"base", "peers"}, Audit: day}
	for name, history := range histories() {
		t.Run(name, func(t *testing.T) {
			ops := 0
			for crashed := true; crashed; ops++ {
				t.Run(fmt.Sprint(ops), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						k := host(t)
						history(t, k)
						killed := k.CrashAfter(ops)
						first := live(t, k, opts, baseLayer(), fragments(2, 3, 4))
						pass(time.Minute)
						select {
						case <-killed:
						default:
							crashed = false
						}
						first.end()
						k = k.Restarted()
						live(t, k, opts, baseLayer(), fragments(2, 3, 4))
						pass(time.Minute)
						same(t, converged(t, 2, 3, 4), k.Dump())
					})
				})
			}
			if ops < 12 {
				t.Errorf("only %d writes: the plan is not what it should be", ops)
			}
		})
	}
}

// Every third write fails, for a while, whatever it is.
func TestRandomFailures(t *testing.T) {
	for name, history := range histories() {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					k := host(t)
					history(t, k)
					dice := rand.New(rand.NewPCG(seed, 1))
					failures := 40
					k.FailOps(func(dataplane.Op) error {
						if failures == 0 || dice.IntN(3) > 0 {
							return nil
						}
						failures--
						return errRefused
					})
					live(t, k, reconcile.Options{Layers: []string{"base", "peers"}, Audit: day}, baseLayer(), fragments(2, 3, 4))
					pass(time.Hour)
					same(t, converged(t, 2, 3, 4), k.Dump())
				})
			})
		}
	}
}

// firstPauses is time enough for a retry or two.
const firstPauses = 80 * time.Millisecond

func TestPausesGrowToTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
		start, _ := l.history()
		bad := devices()[0].fdbKey(3)
		k.FailOps(func(op dataplane.Op) error {
			if op.Key == bad {
				return errRefused
			}
			return nil
		})
		astray := dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{bad: devices()[0].vtep(9)}}
		must(t, k.Put(astray))
		must(t, k.Delete(dataplane.State{Routes: peer(2).Routes}))
		pass(31 * time.Second)
		rounds, at := l.history()
		var pauses []time.Duration
		for i := len(start) + 1; i < len(rounds); i++ {
			if pause := at[i] - at[i-1]; pause > 0 {
				pauses = append(pauses, pause)
			}
		}
		same(t, []time.Duration{10 * time.Second, 10 * time.Second}, pauses[len(pauses)-2:])
		doubling := pauses[:len(pauses)-2]
		for i, pause := range doubling {
			same(t, doubling[0]<<i, pause)
		}
		if doubling[0] > firstPauses {
			t.Errorf("the first pause is %s", doubling[0])
		}

		// All else has been mended at once, and one success ends it.
		last := rounds[len(rounds)-1].Left
		if len(last.Ops) != 1 || last.Ops[0].Key != bad {
			t.Errorf("want %s alone left, have:\n%s", bad, last)
		}
		k.FailOps(nil)
		pass(10 * time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
		reads := k.Reads()
		pass(time.Hour)
		same(t, reads, k.Reads())
		must(t, k.Put(astray))
		pass(time.Millisecond)
		same(t, converged(t, 2, 3, 4), k.Dump())

		// The next trouble begins with a short pause again.
		k.FailNext(1, errRefused)
		must(t, k.Put(astray))
		pass(firstPauses)
		same(t, converged(t, 2, 3, 4), k.Dump())
	})
}

// Nobody has told that the link is gone. The first write to it fails, and is
// reason enough to look at all that stood on it.
func TestAFailedWriteMakesItsLinkDoubtful(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		peers := fragments(2, 3)
		l := live(t, k, reconcile.Options{Audit: day}, baseLayer(), peers)
		k.Mute(true)
		must(t, k.Delete(dataplane.State{Links: map[string]dataplane.Link{devices()[0].name: {}}}))
		k.Mute(false)
		l.Set(reconcile.Layer{Name: "peers", Fragments: append(peers, fragments(4)...)})
		pass(time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
	})
}

func TestUnreadableKernelIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		put(t, k, want(99))
		writes := k.Writes()
		k.FailReads(5, errRefused)
		live(t, k, reconcile.Options{Audit: day}, baseLayer(), fragments(2, 3, 4))
		same(t, writes, k.Writes()) // nothing is done blindly
		pass(time.Second)
		same(t, converged(t, 2, 3, 4), k.Dump())
	})
}
