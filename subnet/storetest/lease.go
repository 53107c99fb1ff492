package storetest

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

func leaseCases() []testcase {
	return []testcase{
		{name: "what is published is stored", run: publish},
		{name: "publish over a foreign write is refused", run: publishChanged},
		{name: "publish of a lost lease is refused", run: publishLost},
		{name: "hold tells of a deletion", run: holdDeleted},
		{name: "hold of a lease that is not there tells so", run: holdAbsent},
		{name: "hold tells of a foreign write", run: holdRewritten},
		{name: "hold doesn't take our own publish for a foreign write", run: holdPublished},
		{name: "hold ends with its context and leaves the lease", run: holdCanceled},
		{
			name: "hold waits for a store that is away", run: holdOverCut,
			needs: func(h Harness) bool { return h.Cut != nil && h.Heal != nil },
		},
		{name: "no goroutine stays behind", run: noGoroutines},
	}
}

func publish(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	old := acquire(t, h, h.Store, claim(cfg, 1))
	next := moved(old)
	for i, share := range claim(cfg, 2).Shares {
		next.Shares[i].Public = share.Public
	}
	l, err := h.Store.Publish(timeout(t), old, next)
	if err != nil {
		t.Fatal(err)
	}
	if l.Revision <= old.Revision {
		t.Errorf("revision: have %d after %d", l.Revision, old.Revision)
	}
	next.Revision = l.Revision
	if diff := cmp.Diff(next, l, content()); diff != "" {
		t.Errorf("lease (-published +have):\n%s", diff)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
	// What was given is good for the next time, and what was before is not.
	if _, err := h.Store.Publish(timeout(t), old, next); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("published over an old state: want ErrLeaseChanged, have %v", err)
	}
	if _, err := h.Store.Publish(timeout(t), l, old); err != nil {
		t.Errorf("published over the newest state: %v", err)
	}
}

func publishChanged(t *testing.T, h Harness) {
	old := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	foreign := moved(old)
	h.Rewrite(t, foreign)
	if _, err := h.Store.Publish(timeout(t), old, old); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("want ErrLeaseChanged, have %v", err)
	}
	s := watch(t, h.Client(t)).next()
	if len(s.Leases) == 1 {
		foreign.Revision = s.Leases[0].Revision
	}
	if diff := cmp.Diff([]subnet.Lease{foreign}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-as the foreigner wrote +have):\n%s", diff)
	}
}

func publishLost(t *testing.T, h Harness) {
	old := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	h.Delete(t, old)
	if _, err := h.Store.Publish(timeout(t), old, moved(old)); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost, have %v", err)
	}
	if s := watch(t, h.Client(t)).next(); len(s.Leases) != 0 {
		t.Errorf("the lease is there again: %+v", s.Leases)
	}
}

// hold runs Hold in the background until the test ends.
func hold(t *testing.T, s subnet.Store, l subnet.Lease) (context.CancelFunc, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		result <- s.Hold(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		wait(t, ended, "Hold to end with its context")
	})
	return cancel, result
}

func holdDeleted(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, dual), 1))
	_, result := hold(t, h.Store, l)
	h.Delete(t, l)
	if err := wait(t, result, "Hold to see the deletion"); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost, have %v", err)
	}
}

func holdAbsent(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	h.Delete(t, l)
	_, result := hold(t, h.Store, l)
	if err := wait(t, result, "Hold to see that there is no lease"); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost, have %v", err)
	}
}

func holdRewritten(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, dual), 1))
	_, result := hold(t, h.Store, l)
	h.Rewrite(t, moved(l))
	if err := wait(t, result, "Hold to see the foreign write"); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("want ErrLeaseChanged, have %v", err)
	}
}

func holdPublished(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	w := watch(t, h.Store)
	_, result := hold(t, h.Store, l)
	next, err := h.Store.Publish(timeout(t), l, moved(l))
	if err != nil {
		t.Fatal(err)
	}
	w.until("what was published", func(s subnet.Snapshot) bool { return has(s, next) })
	h.Delete(t, next)
	if err := wait(t, result, "Hold to see the deletion"); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost after the deletion, have %v", err)
	}
}

func holdCanceled(t *testing.T, h Harness) {
	l := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	cancel, result := hold(t, h.Store, l)
	cancel()
	if err := wait(t, result, "Hold to end with its context"); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, have %v", context.Canceled, err)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

func holdOverCut(t *testing.T, h Harness) {
	cfg := configure(t, h, single)
	l := acquire(t, h, h.Store, claim(cfg, 1))
	w, other := watch(t, h.Store), h.Client(t)
	_, result := hold(t, h.Store, l)
	w.until("our lease", func(s subnet.Snapshot) bool { return has(s, l) })
	h.Cut(t)
	there := acquire(t, h, other, claim(cfg, 2))
	h.Heal(t)
	w.until("what happened during the cut", func(s subnet.Snapshot) bool { return has(s, there) })
	h.Delete(t, l)
	if err := wait(t, result, "Hold to see the deletion"); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost after the deletion, have %v", err)
	}
}

// noGoroutines calls everything many times. Some goroutines belong to the
// connection, and those of a server in this process come and go: only what
// grows with the number of calls is ours.
func noGoroutines(t *testing.T, h Harness) {
	cfg := configure(t, h, single)
	l := acquire(t, h, h.Store, claim(cfg, 1))
	round := func() {
		ctx, cancel := context.WithCancel(timeout(t))
		watched, held := make(chan error, 1), make(chan error, 1)
		snapshots := make(chan subnet.Snapshot)
		go func() { watched <- h.Store.Watch(ctx, snapshots) }()
		go func() { held <- h.Store.Hold(ctx, l) }()
		wait(t, snapshots, "a snapshot")
		cancel()
		for _, ended := range []<-chan error{watched, held} {
			if err := wait(t, ended, "Watch and Hold to end"); !errors.Is(err, context.Canceled) {
				t.Fatalf("want %v, have %v", context.Canceled, err)
			}
		}
		l = acquire(t, h, h.Store, again(claim(cfg, 1), l))
		var err error
		if l, err = h.Store.Publish(timeout(t), l, moved(l)); err != nil {
			t.Fatal(err)
		}
	}
	round()
	before := runtime.NumGoroutine()
	const rounds = 20
	for range rounds {
		round()
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() >= before+rounds/2 {
		select {
		case <-tick.C:
		case <-deadline.C:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before %d rounds, %d after:\n%s", before, rounds, runtime.NumGoroutine(),
				stacks[:runtime.Stack(stacks, true)])
		}
	}
}
