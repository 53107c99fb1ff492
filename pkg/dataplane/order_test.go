package dataplane

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

var stateOptions = cmp.Options{
	cmpopts.EquateEmpty(),
	cmpopts.EquateComparable(Link{}, Route{}, AddrKey{}, FDBKey{}, NeighKey{}, RouteKey{}, ruleset.Key{}, ruleset.Rule{}),
	cmp.Comparer(func(a, b ruleset.Chain) bool { return a.Equal(b) }),
	cmpopts.EquateComparable(addr("::"), prefix("::/0")),
}

// chance makes a pair of states that Diff has to lead from one to the other:
// some peers stay, some come, some go, some change their MAC, and part of
// what is there is missing or wrong.
func chance(seed uint64) (want, have State) {
	r := rand.New(rand.NewPCG(seed, 1))
	want, have = base(), base()
	for n := 2; n < 8; n++ {
		if r.IntN(3) > 0 {
			want.Merge(fragment(n, n))
		}
		if r.IntN(3) > 0 {
			have.Merge(fragment(n, n+r.IntN(2)*100))
		}
	}
	if r.IntN(4) == 0 { // one of our devices is not wanted any more
		delete(want.Links, dev6)
		sweepLink(&want, dev6)
		// and a route moves from it to the uplink
		key := RouteKey{Prefix: prefix("fd00:42:0:2::/64"), Metric: 1024}
		want.Routes = union(want, State{Routes: map[RouteKey]Route{key: {Via: addr("fd77::2"), Link: "eth0"}}}).Routes
	}
	return want, thin(have, r)
}

func sweepLink(s *State, name string) {
	for _, row := range rows() {
		row.(interface{ sweep(*State, Op) }).sweep(s, Op{Verb: Delete, Key: name})
	}
}

// allowed says what the kernel lets an op do on this state: a Create makes an
// entry that is not there, a Change and a Delete find one.
func allowed(s State, op Op) bool {
	there := false
	s.Keys(func(kind Kind, key any) { there = there || kind == op.Kind && key == op.Key })
	return there == (op.Verb != Create)
}

func TestEveryPrefixOfEveryPlanIsSafe(t *testing.T) {
	for seed := range uint64(200) {
		want, have := chance(seed)
		plan := Diff(want, Observed{Have: have})
		s := union(have)
		before := broken(s)
		for i, op := range plan.Ops {
			if !allowed(s, op) {
				t.Fatalf("seed %d: op %d does not fit what is there: %s\nplan:\n%s", seed, i, op, plan)
			}
			perform(&s, op)
			after := broken(s)
			for entry := range after {
				// The kernel itself flushes the neighbours of a link whose
				// MAC changes; nothing that a plan does can avoid that.
				if !before[entry] && op.Kind != KindLink {
					t.Fatalf("seed %d: op %d (%s) leaves %s without what it needs\nplan:\n%s", seed, i, op, entry, plan)
				}
			}
			before = after
		}
		if len(before) > 0 {
			t.Fatalf("seed %d: at the end broken: %v\nplan:\n%s", seed, before, plan)
		}
	}
}

func TestAPlanCutAnywhereConverges(t *testing.T) {
	for seed := range uint64(40) {
		want, have := chance(seed)
		plan := Diff(want, Observed{Have: have})
		for cut := range len(plan.Ops) + 1 {
			s := union(have)
			for _, op := range plan.Ops[:cut] {
				perform(&s, op)
			}
			rest := Diff(want, Observed{Have: s})
			for _, op := range rest.Ops {
				perform(&s, op)
			}
			if left := Diff(want, Observed{Have: s}); !left.Empty() {
				t.Fatalf("seed %d, cut after %d ops: left over\n%s", seed, cut, left)
			}
			if d := cmp.Diff(want, s, stateOptions); d != "" {
				t.Fatalf("seed %d, cut after %d ops (-want +have):\n%s", seed, cut, d)
			}
		}
	}
}

func TestDiffIsDeterministicAndPure(t *testing.T) {
	for seed := range uint64(50) {
		want, have := chance(seed)
		want2, have2 := union(want), union(have)
		first := Diff(want, Observed{Have: have}).String()
		for range 5 {
			if d := cmp.Diff(first, Diff(want, Observed{Have: have}).String()); d != "" {
				t.Fatalf("seed %d: two plans for one pair:\n%s", seed, d)
			}
		}
		if d := cmp.Diff(want2, want, stateOptions) + cmp.Diff(have2, have, stateOptions); d != "" {
			t.Fatalf("seed %d: arguments were changed:\n%s", seed, d)
		}
	}
}

func TestWithoutDeletesRemovesNothingForGood(t *testing.T) {
	for seed := range uint64(200) {
		want, have := chance(seed)
		full := Diff(want, Observed{Have: have})
		cut := full.WithoutDeletes()
		s := union(have)
		for _, op := range cut.Ops {
			perform(&s, op)
		}
		for _, op := range Diff(want, Observed{Have: s}).Ops {
			if op.Verb != Delete {
				t.Fatalf("seed %d: still to make or mend after the plan without deletes: %s\nplan:\n%s", seed, op, full)
			}
		}
		for name := range have.Links {
			if _, ok := s.Links[name]; !ok {
				t.Fatalf("seed %d: link %s is gone\n%s", seed, name, cut)
			}
		}
	}
}
