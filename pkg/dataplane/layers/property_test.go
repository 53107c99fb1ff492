package layers

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
)

// model says, without any memory, what a layer on its own must come to: the
// fragments in order, each unless it meets one before it.
func model(fragments []Fragment) (merged dataplane.State, refused []string) {
	for _, f := range fragments {
		if merged.Overlaps(f.State()) {
			refused = append(refused, f.ID)
			continue
		}
		merged.Merge(f.State())
	}
	return merged, refused
}

// mutate gives the next order: fragments leave, come, change and swap places.
// Few subnets and MACs for many, so that they meet.
func mutate(r *rand.Rand, now []Fragment, next *int) []Fragment {
	var out []Fragment
	for _, f := range now {
		switch r.IntN(8) {
		case 0:
		case 1:
			out = append(out, peer(f.ID, r.IntN(9), r.IntN(9)))
		default:
			out = append(out, f)
		}
	}
	for range r.IntN(3) {
		*next++
		at := r.IntN(len(out) + 1)
		f := peer(fmt.Sprint("p", *next), r.IntN(9), r.IntN(9))
		out = append(out[:at], append([]Fragment{f}, out[at:]...)...)
	}
	if len(out) > 1 && r.IntN(3) == 0 {
		i, j := r.IntN(len(out)), r.IntN(len(out))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

func TestAnyHistoryComesToTheSame(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		var l Layers
		l.Set("base", []Fragment{sysctl("base", "ip_forward")})
		var now []Fragment
		next := 0
		for round := range 25 {
			now = mutate(r, now, &next)
			before := union(nil)
			before.Merge(l.Want())
			scope, refused := l.Set("peers", now)

			want, no := model(now)
			want.Merge(dataplane.State{Sysctls: map[string]string{"ip_forward": "1"}})
			if d := cmp.Diff(want, l.Want(), stateOptions); d != "" {
				t.Fatalf("seed %d, round %d: merged (-want +have):\n%s", seed, round, d)
			}
			var ids []string
			for _, f := range refused {
				ids = append(ids, f.ID)
			}
			if d := cmp.Diff(no, ids); d != "" {
				t.Fatalf("seed %d, round %d: refused (-want +have):\n%s", seed, round, d)
			}
			// The scope holds every key that differs: outside of it, nothing changed.
			before.Remove(scope.Keys)
			want.Remove(scope.Keys)
			if d := cmp.Diff(want, before, stateOptions); d != "" {
				t.Fatalf("seed %d, round %d: changed outside of the scope:\n%s", seed, round, d)
			}
		}
	}
}
