package subnet_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

// snap is a snapshot of a store with these leases. "a" is a lease as it was
// first, "a*" the same lease with another MAC, "a!" one that was deleted and
// taken again.
func snap(epoch string, revision int64, names ...string) subnet.Snapshot {
	s := subnet.Snapshot{Epoch: epoch, Revision: revision}
	for _, name := range names {
		n := int(name[0] - 'a')
		created := int64(n + 1)
		if name[1:] == "!" {
			created += 100
		}
		s.Leases = append(s.Leases, lease(name[:1], created,
			share(fmt.Sprintf("10.5.%d.0/24", n), fmt.Sprintf("192.0.2.%d", n+1), macOf(name))))
	}
	return s
}

// macOf is what a node of snap announces: another MAC than all others.
func macOf(name string) string {
	last := 1
	if name[1:] == "*" {
		last = 2
	}
	return fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, name[0], last)
}

// names is the inverse of snap.
func names(s subnet.Snapshot) []string {
	var out []string
	for _, l := range s.Leases {
		name := l.ID
		if string(l.Shares[0].Data) == macOf(l.ID+"*") {
			name += "*"
		}
		out = append(out, name)
	}
	return out
}

// confirmAfter is how long a doubt lasts, as documented.
const confirmAfter = 30 * time.Second

func TestBelieve(t *testing.T) {
	const second = time.Second
	tests := map[string]struct {
		prev, next subnet.Snapshot
		age        time.Duration
		want       []string
		doubts     []string // "Kept: Reason"
	}{
		"the first snapshot": {subnet.Snapshot{}, snap("x", 9, "a", "b"), 0, []string{"a", "b"}, nil},
		"nothing new":        {snap("x", 9, "a", "b"), snap("x", 9, "a", "b"), 0, []string{"a", "b"}, nil},
		"one comes, one changes, one goes": {
			snap("x", 9, "a", "b", "c"), snap("x", 10, "a", "b*", "d"), 0, []string{"a", "b*", "d"}, nil,
		},
		"two of five go": {
			snap("x", 9, "a", "b", "c", "d", "e"), snap("x", 10, "a", "b", "c"), 0, []string{"a", "b", "c"}, nil,
		},
		"two of three go": {snap("x", 9, "a", "b", "c"), snap("x", 10, "a"), 0, []string{"a"}, nil},
		"two of four go": {
			snap("x", 9, "a", "b", "c", "d"), snap("x", 10, "a", "b"), 0, []string{"a", "b", "c", "d"},
			[]string{"2: the store lost 2 of its 4 leases at once"},
		},
		"half go while one comes and one changes": {
			snap("x", 9, "a", "b", "c", "d"), snap("x", 10, "a*", "b", "e"), 0, []string{"a*", "b", "c", "d", "e"},
			[]string{"2: the store lost 2 of its 4 leases at once"},
		},
		"two of six are not there again yet": {
			snap("x", 9, "a", "b", "c", "d", "e", "f"), snap("x", 10, "a!", "b!", "c!", "d!"), 0,
			[]string{"e", "f", "a", "b", "c", "d"},
			[]string{"2: the store lost 6 of its 6 leases at once, and 4 of them were taken again"},
		},
		"one of six goes while one is taken anew": {
			snap("x", 9, "a", "b", "c", "d", "e", "f"), snap("x", 10, "b!", "c", "d", "e", "f"), 0,
			[]string{"b", "c", "d", "e", "f"}, nil,
		},
		"all are there again": {
			snap("x", 9, "a", "b", "c", "d"), snap("x", 10, "a!", "b!", "c!", "d!"), 0, []string{"a", "b", "c", "d"}, nil,
		},
		"the last one goes": {
			snap("x", 9, "a"), snap("x", 10), 0, []string{"a"},
			[]string{"1: the store lost all of its 1 leases at once"},
		},
		"all go": {
			snap("x", 9, "a", "b", "c", "d"), snap("x", 10), 0, []string{"a", "b", "c", "d"},
			[]string{"4: the store lost all of its 4 leases at once"},
		},
		"another store, one less": {
			snap("x", 9, "a", "b", "c"), snap("y", 10, "a", "b"), 0, []string{"a", "b", "c"},
			[]string{`1: the store is another one than before: "y", was "x"`},
		},
		"another store that is empty": {
			snap("x", 9, "a", "b", "c"), snap("y", 1), 0, []string{"a", "b", "c"},
			[]string{
				`3: the store is another one than before: "y", was "x"`,
				"3: the store lost all of its 3 leases at once",
			},
		},
		"another store with the same leases": {
			snap("x", 9, "a", "b", "c"), snap("y", 2, "a", "b", "c", "d"), 0, []string{"a", "b", "c", "d"}, nil,
		},
		"restored, one less": {
			snap("x", 9, "a", "b", "c"), snap("x", 5, "a", "b*"), 0, []string{"a", "b*", "c"},
			[]string{"1: the store went back in time, as if restored from a backup: revision 5, was 9"},
		},
		"from a file that names no store": {
			snap("", 9, "a", "b", "c"), snap("x", 5, "a", "b"), 0, []string{"a", "b"}, nil,
		},
		"still in doubt": {
			snap("x", 9, "a", "b", "c", "d"), snap("x", 10), 29 * second, []string{"a", "b", "c", "d"},
			[]string{"4: the store lost all of its 4 leases at once"},
		},
		"confirmed": {snap("x", 9, "a", "b", "c", "d"), snap("x", 10), confirmAfter, nil, nil},
		"healed":    {snap("x", 9, "a", "b"), snap("x", 10, "a", "b"), 5 * second, []string{"a", "b"}, nil},
		"one more goes while in doubt": {
			snap("x", 9, "a", "b", "c", "d", "e"), snap("x", 10, "a", "b", "c", "d"), 5 * second,
			[]string{"a", "b", "c", "d", "e"},
			[]string{"1: the store lost leases, and has not been in order since it lost many"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have, doubts := subnet.Believe(tt.prev, tt.next, tt.age)
			if diff := cmp.Diff(tt.want, names(have)); diff != "" {
				t.Errorf("leases (-want +have):\n%s", diff)
			}
			var told []string
			for _, d := range doubts {
				told = append(told, fmt.Sprintf("%d: %s", d.Kept, d.Reason))
				if want := confirmAfter - tt.age; d.Left != want {
					t.Errorf("left: want %v, have %v", want, d.Left)
				}
			}
			if diff := cmp.Diff(tt.doubts, told); diff != "" {
				t.Errorf("doubts (-want +have):\n%s", diff)
			}
			from := tt.next
			if len(doubts) > 0 {
				from = tt.prev
			}
			if have.Epoch != from.Epoch || have.Revision != from.Revision {
				t.Errorf("want %s at %d, have %s at %d", from.Epoch, from.Revision, have.Epoch, have.Revision)
			}
		})
	}
}

func TestBelieveConfig(t *testing.T) {
	one, two := parse(t, `{"Network":"10.5.0.0/16"}`), parse(t, `{"Network":"10.6.0.0/16"}`)
	tests := map[string]struct{ prev, next, want subnet.Config }{
		"a new one is taken":          {one, two, two},
		"an absent one keeps the old": {one, subnet.Config{}, one},
		"the first is taken":          {subnet.Config{}, one, one},
	}
	for name, tt := range tests {
		for when, leases := range map[string][]string{"in doubt": nil, "in order": {"a"}} {
			t.Run(name+", "+when, func(t *testing.T) {
				prev, next := snap("x", 1, "a"), snap("x", 2, leases...)
				prev.Config, next.Config = tt.prev, tt.next
				have, _ := subnet.Believe(prev, next, 0)
				if diff := cmp.Diff(tt.want, have.Config, plain); diff != "" {
					t.Errorf("configuration (-want +have):\n%s", diff)
				}
			})
		}
	}
}

// A lease that is kept must not stand in the way of the one that came for it:
// Admit lets the older one win.
func TestBelieveKeepsNothingThatWasReplaced(t *testing.T) {
	prev := snap("x", 9, "a", "b", "c", "d", "e")
	next := snap("y", 3)
	next.Leases = []subnet.Lease{
		lease("moved", 1, share("10.5.77.0/24", "192.0.2.1", "")), // the node of a
		lease("taken", 2, share("10.5.1.0/25", "192.0.2.99", "")), // the subnet of b
		// The MAC of e, a cloned machine of before, of which the store knows no more.
		lease("true", 3, share("10.5.78.0/24", "192.0.2.98", macOf("e"))),
	}
	have, doubts := subnet.Believe(prev, next, 0)
	if diff := cmp.Diff([]string{"moved", "taken", "c", "true", "d"}, ids(have.Leases)); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
	if len(doubts) == 0 || doubts[0].Kept != 2 {
		t.Errorf("doubts: want 2 leases kept, have %+v", doubts)
	}
	// A lease that has stood beside them all along replaces nothing.
	twin := lease("twin", 5, share("10.5.88.0/24", "192.0.2.3", ""))
	prev.Leases = append(prev.Leases, twin)
	next.Leases = []subnet.Lease{twin}
	have, _ = subnet.Believe(prev, next, 0)
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e", "twin"}, ids(have.Leases)); diff != "" {
		t.Errorf("leases beside a twin (-want +have):\n%s", diff)
	}
}

// believer is what a caller has to keep.
type believer struct {
	believed subnet.Snapshot
	since    time.Duration // when the doubt began, or grew
	kept     int
}

func (b *believer) see(now time.Duration, next subnet.Snapshot) []string {
	var age time.Duration
	if b.kept > 0 {
		age = now - b.since
	}
	var doubts []subnet.Doubt
	b.believed, doubts = subnet.Believe(b.believed, next, age)
	kept := 0
	if len(doubts) > 0 {
		kept = doubts[0].Kept
	}
	if kept > b.kept {
		b.since = now
	}
	b.kept = kept
	return names(b.believed)
}

func TestBelieveOverTime(t *testing.T) {
	type step struct {
		at   int // seconds
		next subnet.Snapshot
		want []string
	}
	all := []string{"a", "b", "c", "d", "e", "f"}
	tests := map[string][]step{
		"emptied for good": {
			{0, snap("x", 9, all...), all},
			{1, snap("x", 10), all},
			{30, snap("x", 10), all},
			{31, snap("x", 10), nil},
		},
		"emptied, and taken again one by one": {
			{0, snap("x", 9, all...), all},
			{1, snap("x", 10), all},
			{2, snap("x", 12, "a", "b*"), []string{"a", "b*", "c", "d", "e", "f"}},
			{9, snap("x", 15, "a", "b*", "c", "d", "e"), []string{"a", "b*", "c", "d", "e", "f"}},
			{31, snap("x", 15, "a", "b*", "c", "d", "e"), []string{"a", "b*", "c", "d", "e"}},
		},
		"restored, and its revision runs past the old one": {
			{0, snap("x", 9, all...), all},
			{1, snap("x", 5, "a", "b", "c", "d", "e"), all},
			{2, snap("x", 20, "a", "b", "c", "d", "e", "g"), append(slices.Clone(all), "g")},
			{30, snap("x", 21, "a", "b", "c", "d", "e", "g"), append(slices.Clone(all), "g")},
			{31, snap("x", 21, "a", "b", "c", "d", "e", "g"), []string{"a", "b", "c", "d", "e", "g"}},
		},
		"newcomers don't hide that half went": {
			{0, snap("x", 9, "a", "b", "c", "d"), []string{"a", "b", "c", "d"}},
			{1, snap("x", 11, "a", "b"), []string{"a", "b", "c", "d"}},
			{2, snap("x", 15, "a", "b", "e", "f", "g"), []string{"a", "b", "c", "d", "e", "f", "g"}},
			{3, snap("x", 16, "a", "b", "e", "f"), []string{"a", "b", "c", "d", "e", "f", "g"}},
			{33, snap("x", 16, "a", "b", "e", "f"), []string{"a", "b", "e", "f"}},
		},
		"a second wave starts the clock anew": {
			{0, snap("x", 9, all...), all},
			{1, snap("x", 10, "a", "b", "c"), all},
			{30, snap("x", 11), all},
			{31, snap("x", 11), all},
			{60, snap("x", 11), nil},
		},
		"back before it was believed, then an ordinary removal": {
			{0, snap("x", 9, all...), all},
			{1, snap("x", 10), all},
			{5, snap("x", 16, all...), all},
			{6, snap("x", 17, "a", "b", "c", "d", "e"), []string{"a", "b", "c", "d", "e"}},
		},
		"swapped for an empty store and back": {
			{0, snap("x", 9, all...), all},
			{1, snap("y", 1), all},
			{9, snap("x", 9, all...), all},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			var b believer
			for _, s := range steps {
				if diff := cmp.Diff(s.want, b.see(time.Duration(s.at)*time.Second, s.next)); diff != "" {
					t.Errorf("second %d (-want +have):\n%s", s.at, diff)
				}
			}
		})
	}
}
