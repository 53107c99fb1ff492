package network

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

func TestDrift(t *testing.T) {
	round := func(repaired int, entries ...string) reconcile.Round {
		r := reconcile.Round{Repaired: repaired, Mended: map[dataplane.Kind]int{dataplane.KindRoute: repaired}}
		for _, e := range entries {
			r.Fights = append(r.Fights, reconcile.Fight{Entry: e, Repairs: 40, By: map[string]string{"a": "him"}[e]})
		}
		return r
	}
	var d drift
	start := time.Now()
	for _, step := range []struct {
		at      time.Duration
		round   reconcile.Round
		tell    []string
		fights  []string
		repairs int
	}{
		{0, round(3), nil, nil, 3},
		{time.Second, round(0, "b", "a"), []string{"b", "a"}, []string{"a", "b"}, 3},
		{2 * time.Second, round(1, "a"), nil, []string{"a", "b"}, 4},
		{6 * time.Second, round(1, "a"), nil, []string{"a"}, 5},
		{60 * time.Second, round(1, "a"), nil, []string{"a"}, 6},
		{61 * time.Second, round(0, "a"), []string{"a"}, []string{"a"}, 6},
		{70 * time.Second, round(1), nil, nil, 7},
	} {
		now := start.Add(step.at)
		var tell []string
		for _, f := range d.note(step.round, now) {
			tell = append(tell, f.Entry)
		}
		if diff := cmp.Diff(step.tell, tell); diff != "" {
			t.Errorf("after %s, told: %s", step.at, diff)
		}
		if diff := cmp.Diff(step.fights, d.fights(now)); diff != "" {
			t.Errorf("after %s, fights: %s", step.at, diff)
		}
		var s Status
		d.fill(&s, now)
		if s.Repaired != step.repairs || s.RepairedKinds["route"] != step.repairs {
			t.Errorf("after %s: %d repaired, %v, want %d", step.at, s.Repaired, s.RepairedKinds, step.repairs)
		}
		if want := slices.Contains(step.fights, "a"); len(s.Fighters) == 1 != want || want && s.Fighters["a"] != "him" {
			t.Errorf("after %s: by %v", step.at, s.Fighters)
		}
	}
}

// A conflict is told for as long as something foreign stands there.
func TestDriftKnowsConflicts(t *testing.T) {
	op := func(n byte) dataplane.Op {
		return dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: dataplane.RouteKey{
			Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, n, 0}), 24),
		}, New: dataplane.Route{}}
	}
	left := func(ops ...dataplane.Op) dataplane.Plan { return dataplane.Plan{Conflicts: ops} }
	var d drift
	for i, step := range []struct {
		round reconcile.Round
		want  int
	}{
		{reconcile.Round{Full: true, Left: left(op(2), op(3))}, 2},
		{reconcile.Round{Left: left(op(4))}, 3},
		{reconcile.Round{Err: errors.New("no memory"), Full: true}, 3},
		{reconcile.Round{Applied: dataplane.Plan{Ops: []dataplane.Op{op(3)}}}, 2},
		{reconcile.Round{Full: true, Left: left(op(2))}, 1},
	} {
		d.note(step.round, time.Now())
		var s Status
		if d.fill(&s, time.Now()); len(s.Conflicts) != step.want {
			t.Errorf("step %d: %v, want %d", i, s.Conflicts, step.want)
		}
	}
}
