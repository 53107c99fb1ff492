package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

func watchCases() []testcase {
	cuttable := func(h Harness) bool { return h.Cut != nil && h.Heal != nil }
	breakable := func(h Harness) bool { return h.PutMalformed != nil }
	return []testcase{
		{name: "watch of an empty store gives the empty truth", run: watchEmpty},
		{name: "watch first gives the whole", run: watchWhole},
		{name: "leases come, change and go", run: watchChanges},
		{name: "a change of the configuration arrives", run: watchConfig},
		{name: "a configuration that is nonsense is told and not taken", run: watchNonsense},
		{name: "a slow reader gets the newest, not each", run: watchSlowly},
		{name: "a quiet store doesn't repeat itself", run: watchQuietly},
		{name: "leases are ordered by age", run: watchOrder},
		{name: "a malformed key is told and changes nothing else", run: watchMalformed, needs: breakable},
		{name: "watch goes on after a cut", run: watchOverCut, needs: cuttable},
	}
}

func watchEmpty(t *testing.T, h Harness) {
	s := watch(t, h.Store).next()
	if len(s.Config.Networks)+len(s.Leases)+len(s.Malformed) != 0 {
		t.Errorf("want nothing, have %+v", s)
	}
}

func watchWhole(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	var want []subnet.Lease
	for n := range 5 {
		want = append(want, acquire(t, h, h.Store, claim(cfg, n+1)))
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff(want, s.Leases, content()); diff != "" {
		t.Errorf("leases of the first snapshot (-want +have):\n%s", diff)
	}
	if string(s.Config.Raw) != dual {
		t.Errorf("configuration of the first snapshot: want %s, have %s", dual, s.Config.Raw)
	}
}

func watchChanges(t *testing.T, h Harness) {
	cfg := configure(t, h, single)
	w := watch(t, h.Client(t))
	l := acquire(t, h, h.Store, claim(cfg, 1))
	w.until("the new lease", func(s subnet.Snapshot) bool { return has(s, l) })
	next := moved(l)
	changed, err := h.Store.Publish(timeout(t), l, next)
	if err != nil {
		t.Fatal(err)
	}
	w.until("the changed lease", func(s subnet.Snapshot) bool { return has(s, changed) })
	h.Delete(t, changed)
	w.until("no lease", func(s subnet.Snapshot) bool { return len(s.Leases) == 0 })
}

// moved is a lease whose node has a new MAC.
func moved(l subnet.Lease) subnet.Lease {
	l.Shares = slices.Clone(l.Shares)
	for i := range l.Shares {
		l.Shares[i].Data = data(fmt.Sprintf("06:00:00:00:00:%02x", i))
	}
	return l
}

func configIs(raw string) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool { return string(s.Config.Raw) == raw }
}

func watchConfig(t *testing.T, h Harness) {
	w := watch(t, h.Store)
	w.next()
	for _, raw := range []string{single, dual, six} {
		configure(t, h, raw)
		if s := w.until("configuration "+raw, configIs(raw)); len(s.Malformed) != 0 {
			t.Errorf("malformed: %v", s.Malformed)
		}
	}
}

func watchNonsense(t *testing.T, h Harness) {
	cfg := configure(t, h, single)
	l := acquire(t, h, h.Store, claim(cfg, 1))
	w := watch(t, h.Store)
	w.until("the configuration", configIs(single))
	for _, raw := range []string{`{"Network":`, `{"Network":"10.9.0.0/30"}`} {
		h.SetConfig(t, raw)
		s := w.until("a malformed configuration", func(s subnet.Snapshot) bool { return len(s.Malformed) == 1 })
		if len(s.Config.Networks) != 0 || !has(s, l) {
			t.Errorf("configuration %s: want none and our lease, have %+v", raw, s)
		}
		if m := s.Malformed[0]; m.ID == "" || m.Reason == "" {
			t.Errorf("configuration %s: malformed is %+v, want an ID and a Reason", raw, m)
		}
		configure(t, h, single)
		s = w.until("the configuration again", configIs(single))
		if len(s.Malformed) != 0 {
			t.Errorf("malformed, though it is right again: %v", s.Malformed)
		}
	}
}

func watchSlowly(t *testing.T, h Harness) {
	const changes = 50
	cfg := configure(t, h, single)
	slow, fast := watch(t, h.Store), watch(t, h.Store)
	l := acquire(t, h, h.Store, claim(cfg, 1))
	for n := range changes {
		next := l
		next.Shares = slices.Clone(l.Shares)
		next.Shares[0].Data = data(fmt.Sprintf("0a:00:00:00:00:%02x", n))
		var err error
		if l, err = h.Store.Publish(timeout(t), l, next); err != nil {
			t.Fatal(err)
		}
	}
	newest := func(s subnet.Snapshot) bool { return has(s, l) }
	fast.until("the last change", newest)
	reads := 0
	slow.until("the last change", func(s subnet.Snapshot) bool { reads++; return newest(s) })
	// The store may have one under way, and learn of some more only now.
	if reads > changes/5 {
		t.Errorf("a reader that slept over %d changes had to read %d snapshots", changes, reads)
	}
}

func watchQuietly(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	w := watch(t, h.Store)
	w.until("our lease", func(s subnet.Snapshot) bool { return has(s, l) })
	quiet := time.NewTimer(100 * time.Millisecond)
	defer quiet.Stop()
	// One may be under way still; who sends without need sends thousands.
	for range 3 {
		select {
		case <-w.snapshots:
		case <-quiet.C:
			return
		}
	}
	t.Error("three more snapshots came, though nothing has changed")
}

func watchOrder(t *testing.T, h Harness) {
	cfg := configure(t, h, single)
	var want []string
	var leases []subnet.Lease
	for n := range 12 {
		l := acquire(t, h, h.Store, claim(cfg, n+1))
		leases, want = append(leases, l), append(want, l.ID)
	}
	// A change doesn't make a lease younger.
	changed, err := h.Store.Publish(timeout(t), leases[3], moved(leases[3]))
	if err != nil {
		t.Fatal(err)
	}
	s := watch(t, h.Store).until("the change", func(s subnet.Snapshot) bool { return has(s, changed) })
	var have []string
	for _, l := range s.Leases {
		have = append(have, l.ID)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("IDs in the order of the snapshot (-as acquired +have):\n%s", diff)
	}
}

func watchMalformed(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	before := acquire(t, h, h.Store, claim(cfg, 1))
	w := watch(t, h.Store)
	w.until("our lease", func(s subnet.Snapshot) bool { return has(s, before) })
	id := h.PutMalformed(t)
	named := func(s subnet.Snapshot) bool {
		return slices.ContainsFunc(s.Malformed, func(m subnet.Skipped) bool { return m.ID == id && m.Reason != "" })
	}
	s := w.until("the malformed key "+id, named)
	if !has(s, before) || len(s.Leases) != 1 || len(s.Malformed) != 1 || string(s.Config.Raw) != dual {
		t.Errorf("want one lease and one malformed key, have %+v", s)
	}
	after := acquire(t, h, h.Store, claim(cfg, 2))
	w.until("a lease beside the malformed key", func(s subnet.Snapshot) bool { return has(s, after) && named(s) })
	s = watch(t, h.Client(t)).next()
	if !named(s) || !has(s, before) || !has(s, after) {
		t.Errorf("a new watch: want two leases and the malformed key, have %+v", s)
	}
}

// outages are what a store tells of its connection, if it does.
type outages struct {
	mu         sync.Mutex
	told       []error
	away, back chan struct{} // closed by the first and the second
}

func (o *outages) listen(s subnet.Store) (speaks bool) {
	if s, ok := s.(interface{ OnOutage(tell func(error)) }); ok {
		s.OnOutage(func(err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			switch o.told = append(o.told, err); len(o.told) {
			case 1:
				close(o.away)
			case 2:
				close(o.back)
			}
		})
		return true
	}
	return false
}

// check wants an error and nil by turns, beginning with an error.
func (o *outages) check(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, err := range o.told {
		if (err == nil) != (i%2 == 1) {
			t.Errorf("told of the outage and its end, number %d: %v", i, o.told)
		}
	}
}

func watchOverCut(t *testing.T, h Harness) {
	outages := outages{away: make(chan struct{}), back: make(chan struct{})}
	speaks := outages.listen(h.Store)
	cfg := configure(t, h, single)
	w, other := watch(t, h.Store), h.Client(t)
	w.until("the configuration", configIs(single))
	gone := acquire(t, h, other, claim(cfg, 1))
	w.until("a lease before the cut", func(s subnet.Snapshot) bool { return has(s, gone) })
	h.Cut(t)
	ctx, cancel := context.WithCancel(timeout(t))
	blocked := make(chan error, 1)
	go func() {
		_, err := h.Store.Acquire(ctx, claim(cfg, 9))
		blocked <- err
	}()
	there := acquire(t, h, other, claim(cfg, 2))
	h.Delete(t, gone)
	cancel()
	if err := wait(t, blocked, "Acquire to end with its context while cut"); err == nil {
		t.Error("Acquire: want an error while cut, have none")
	}
	if speaks {
		wait(t, outages.away, "the store to tell that it is away")
	}
	h.Heal(t)
	w.until("all that happened during the cut", func(s subnet.Snapshot) bool {
		return has(s, there) && !has(s, gone)
	})
	if speaks {
		wait(t, outages.back, "the store to tell that it is back")
		outages.check(t)
	}
}
