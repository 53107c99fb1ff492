package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// step is something that happens to the cluster at a time, and is undone after a
// while. All of it is decided by the seed: number is what a deed draws from.
type step struct {
	at, lasts time.Duration
	lane      string
	deed      string
	node      int // -1: the cluster
	number    uint64
}

func (s step) String() string {
	where := "cluster"
	if s.node >= 0 {
		where = fmt.Sprintf("node %d", s.node+1)
	}
	return fmt.Sprintf("%9s %-8s %-10s %s (number %d), for %s",
		s.at.Round(time.Millisecond), where, s.lane, s.deed, s.number%1000, s.lasts.Round(time.Millisecond))
}

// lane is a row of deeds of which one is undone before the next is done.
type lane struct {
	name   string
	node   int
	deeds  []string
	every  time.Duration // on average, from one's end to the next one's beginning
	atMost time.Duration // that a deed lasts
}

// schedule is what happens in a run. Pure.
func schedule(seed uint64, lanes []lane, length time.Duration) []step {
	var out []step
	for i, l := range lanes {
		dice := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // repeatable
		for at := time.Duration(0); ; {
			at += time.Duration(dice.Int64N(int64(2 * l.every)))
			s := step{
				at: at, lane: l.name, node: l.node, number: dice.Uint64(), deed: l.deeds[dice.IntN(len(l.deeds))],
				// Short ones are as likely as long ones.
				lasts: l.atMost >> dice.IntN(10),
			}
			if at += s.lasts; at > length {
				break
			}
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b step) int { return int(a.at - b.at) })
	return out
}

func TestScheduleDependsOnTheSeedOnly(t *testing.T) {
	lanes := []lane{
		{"a", 0, []string{"x", "y"}, time.Second, time.Second}, {"b", 1, []string{"z"}, time.Second, time.Minute},
	}
	one, same, other := schedule(1, lanes, time.Minute), schedule(1, lanes, time.Minute), schedule(2, lanes, time.Minute)
	if d := cmp.Diff(one, same, cmp.AllowUnexported(step{})); d != "" || len(one) < 20 {
		t.Errorf("%d steps: %s", len(one), d)
	}
	if cmp.Equal(one, other, cmp.AllowUnexported(step{})) {
		t.Error("another seed, and the same schedule")
	}
	ends := map[string]time.Duration{}
	for _, s := range one {
		if s.at < ends[s.lane] {
			t.Errorf("%s begins before the one before it is over", s)
		}
		ends[s.lane] = s.at + s.lasts
	}
}
