package network

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

func TestDrift(t *testing.T) {
	round := func(repaired int, entries ...string) reconcile.Round {
		r := reconcile.Round{Repaired: repaired}
		for _, e := range entries {
			r.Fights = append(r.Fights, reconcile.Fight{Entry: e, Repairs: 40})
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
		if d.repaired != step.repairs {
			t.Errorf("after %s: %d repaired, want %d", step.at, d.repaired, step.repairs)
		}
	}
}
