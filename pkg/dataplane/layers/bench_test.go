package layers

import (
	"fmt"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
)

// What one changed peer costs from the layer to the plan. It may grow with the
// number of peers only by one comparison of pointers for each.
func BenchmarkOnePeerChanged(b *testing.B) {
	for _, peers := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			fragments := crowd(peers)
			var l Layers
			l.Set("peers", fragments)
			at := peers / 2
			versions := [2]Fragment{fragments[at], peer(fragments[at].ID, at, peers+1)}
			have := versions[0].State()
			turn := 0
			b.ReportAllocs()
			for b.Loop() {
				turn = 1 - turn
				fragments[at] = versions[turn]
				scope, _ := l.Set("peers", fragments)
				plan := dataplane.Diff(l.Want().Within(scope), dataplane.Observed{Have: have})
				if len(plan.Ops) != 3 { // FDB put, neighbour changed, FDB deleted
					b.Fatalf("%d ops:\n%s", len(plan.Ops), plan)
				}
				have = versions[turn].State()
			}
		})
	}
}

// What the first snapshot costs.
func BenchmarkFirstSet(b *testing.B) {
	fragments := crowd(10_000)
	b.ReportAllocs()
	for b.Loop() {
		var l Layers
		if _, refused := l.Set("peers", fragments); len(refused) != 0 {
			b.Fatal(refused)
		}
	}
}

func crowd(n int) []Fragment {
	fragments := make([]Fragment, n)
	for i := range fragments {
		fragments[i] = peer(fmt.Sprint("lease-", i), i, i)
	}
	return fragments
}

// The promise of the benchmark as a test: an unchanged peer allocates nothing.
func TestUnchangedPeersAllocateNothing(t *testing.T) {
	allocs := func(peers int) float64 {
		fragments := crowd(peers)
		var l Layers
		l.Set("peers", fragments)
		versions := [2]Fragment{fragments[7], peer(fragments[7].ID, 7, peers+1)}
		turn := 0
		return testing.AllocsPerRun(20, func() {
			turn = 1 - turn
			fragments[7] = versions[turn]
			l.Set("peers", fragments)
		})
	}
	if few, many := allocs(10), allocs(5_000); many > few+5 {
		t.Errorf("one changed peer allocates %.0f times among 10 peers, %.0f among 5000", few, many)
	}
}
