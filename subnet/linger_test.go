package subnet_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

func TestLingering(t *testing.T) {
	const ms = time.Millisecond
	type heard struct {
		at    time.Duration
		names []string
	}
	elsewhere := func(id string, created int64, public, prefix string) subnet.Lease {
		return lease(id, created, share(prefix, public, otherMAC))
	}
	for name, c := range map[string]struct {
		heard []heard
		also  []subnet.Lease // in the last of them
		at    time.Duration
		want  []string
		until time.Duration // 0: none
	}{
		"nothing goes": {[]heard{{0, []string{"a", "b"}}}, nil, 0, []string{"a", "b"}, 0},
		"one goes, and lingers": {
			[]heard{{0, []string{"a", "b"}}, {5 * ms, []string{"b"}}}, nil, 104 * ms, []string{"a", "b"}, 105 * ms,
		},
		"its time is over": {
			[]heard{{0, []string{"a", "b"}}, {5 * ms, []string{"b"}}}, nil, 105 * ms, []string{"b"}, 0,
		},
		"it is there again": {
			[]heard{{0, []string{"a", "b"}}, {0, []string{"b"}}, {9 * ms, []string{"a*", "b"}}}, nil,
			10 * ms, []string{"a*", "b"}, 0,
		},
		"it goes again": {
			[]heard{{0, []string{"a"}}, {0, nil}, {9 * ms, []string{"a"}}, {50 * ms, nil}}, nil,
			149 * ms, []string{"a"}, 150 * ms,
		},
		"others come and go": {
			[]heard{{0, []string{"a", "b"}}, {0, []string{"b"}}, {60 * ms, []string{"c"}}}, nil,
			99 * ms, []string{"a", "b", "c"}, 100 * ms,
		},
		"one of them is over": {
			[]heard{{0, []string{"a", "b"}}, {0, []string{"b"}}, {60 * ms, []string{"c"}}}, nil,
			100 * ms, []string{"b", "c"}, 160 * ms,
		},
		"its subnet has a new node": {
			[]heard{{0, []string{"a", "b"}}, {0, []string{"b"}}},
			[]subnet.Lease{elsewhere("n", 99, "192.0.2.99", "10.5.0.0/25")}, ms, []string{"b", "n"}, 0,
		},
		"its node has a new subnet": {
			[]heard{{0, []string{"a", "b"}}, {0, []string{"b"}}},
			[]subnet.Lease{elsewhere("n", 99, "192.0.2.1", "10.5.99.0/24")}, ms, []string{"b", "n"}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var l subnet.Lingering
			var leases []subnet.Lease
			begin := time.Unix(0, 0)
			for i, h := range c.heard {
				next := snap("x", 1, h.names...).Leases
				if i == len(c.heard)-1 {
					next = append(next, c.also...)
				}
				l.Note(leases, next, begin.Add(h.at))
				leases = next
			}
			have := l.With(leases, begin.Add(c.at))
			if d := cmp.Diff(c.want, names(subnet.Snapshot{Leases: have})); d != "" {
				t.Error(d)
			}
			until := time.Duration(0)
			if u := l.Until(); !u.IsZero() {
				until = u.Sub(begin)
			}
			if until != c.until {
				t.Errorf("until %s, want %s", until, c.until)
			}
		})
	}
}

// A lease that was refused, because it overlaps an older one, has left. When the
// older one is taken anew it is the younger, and stands back for nobody.
func TestWhatLingersIsInNobodysWay(t *testing.T) {
	var l subnet.Lingering
	begin := time.Unix(0, 0)
	mine := lease("a", 1, share("10.5.1.0/24", "192.0.2.1", otherMAC))
	hostile := lease("h", 2, share("10.5.1.0/25", "192.0.2.66", otherMAC))
	again := lease("a", 3, share("10.5.1.0/24", "192.0.2.1", otherMAC))
	l.Note([]subnet.Lease{mine, hostile}, []subnet.Lease{mine}, begin)
	l.Note([]subnet.Lease{mine}, []subnet.Lease{again}, begin.Add(time.Millisecond))
	have := l.With([]subnet.Lease{again}, begin.Add(2*time.Millisecond))
	if len(have) != 1 || have[0].Created != 3 {
		t.Errorf("have %v, want the new lease alone", have)
	}
	// At once, as a reader hears of it who is late.
	l = subnet.Lingering{}
	l.Note([]subnet.Lease{mine, hostile}, []subnet.Lease{again}, begin)
	if have := l.With([]subnet.Lease{again}, begin); len(have) != 1 {
		t.Errorf("have %v, want the new lease alone", have)
	}
}
