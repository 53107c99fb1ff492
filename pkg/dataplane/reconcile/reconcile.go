// Package reconcile is the one loop that touches a kernel.
//
//	Set(layer) ──┐
//	Watch ───────┼─→ dirty Scope ─→ Observe ─→ Diff ─→ Apply ─→ Observe ─→ Diff ─→ Round
//	audit timer ─┘         ▲                                               │
//	                       └──────────── what is left, after a pause ──────┘
//
// It owns the order of these steps, the pause before a retry and the slow
// audit. It refuses to know what the entries mean, and it writes no log: it
// reports Rounds.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/layers"
)

// Options tune a Loop. The zero value is a sensible one.
type Options struct {
	// Layers that must have been Set before the loop deletes anything: what
	// is not known yet is not removed.
	Layers []string
	// Audit is the time between two reads of everything; 0 is a minute. It
	// is jittered by a tenth. One that takes long comes less often: it is at most
	// a 2000th of the time, but at the latest after five times as long.
	Audit time.Duration
	// OnRound is told about each round that wrote something, failed, or read
	// everything. It must not block.
	OnRound func(Round)
	// OnFacts is told when the host is not what Facts said last, after a
	// moment in which more of the same may come. It must not block. A round
	// that read everything says so, too.
	OnFacts func()
}

// Round is what one pass of the loop did.
type Round struct {
	Full    bool           // it read everything, not a part
	Applied dataplane.Plan // what it set out to write
	Failed  []*dataplane.OpError
	Left    dataplane.Plan // by what the kernel says after the writes; no ops means converged
	Err     error          // the kernel could not be read
	Took    time.Duration

	Repaired int                    // ops of Applied that mend what somebody did, and not what we want otherwise
	Mended   map[dataplane.Kind]int // the same by kind
	Fights   []Fight                // entries of Left that are not written now, because somebody keeps changing them
}

// Loop drives one kernel towards what its layers want.
type Loop struct {
	kernel dataplane.Kernel
	opts   Options
	wake   chan struct{}
	ask    chan func(context.Context)

	mu     sync.Mutex
	want   layers.Layers
	unset  map[string]bool // layers of Options that were not Set yet
	owned  bool            // Own was called
	domain dataplane.Domain
	dirty  dataplane.Scope
	fresh  dataplane.Scope // the part of dirty that we want otherwise than before
	turn   int             // counts what we want otherwise than before
	calm   calm

	truce truce // the worker's
}

const (
	firstPause = 20 * time.Millisecond
	lastPause  = 10 * time.Second
	// factsPause bounds how often Facts are called stale while a host that
	// boots, or a routing daemon, changes things all the time.
	factsPause = 250 * time.Millisecond
)

// New makes a loop; Run starts it.
func New(k dataplane.Kernel, opts Options) *Loop {
	if opts.Audit == 0 {
		opts.Audit = time.Minute
	}
	if opts.OnRound == nil {
		opts.OnRound = func(Round) {}
	}
	if opts.OnFacts == nil {
		opts.OnFacts = func() {}
	}
	l := &Loop{kernel: k, opts: opts, wake: make(chan struct{}, 1), ask: make(chan func(context.Context))}
	l.truce.fights = fights{}
	l.unset = make(map[string]bool, len(opts.Layers))
	for _, name := range opts.Layers {
		l.unset[name] = true
	}
	return l
}

// Own says what is ours on this host, and makes the loop read everything anew.
// Before the first Own the loop leaves the kernel alone.
func (l *Loop) Own(d dataplane.Domain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domain, l.owned = d, true
	l.turn++
	l.fresh.Add(dataplane.Scope{All: true})
	l.touch(dataplane.Scope{All: true})
}

// Layer is what one source wants.
type Layer struct {
	Name      string
	Fragments []layers.Fragment
}

// Set replaces what some layers want (see layers.Set), in one step, and wakes the
// loop. It gives the fragments that were left out. Safe for concurrent use.
func (l *Loop) Set(next ...Layer) (refused []layers.Refused) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, layer := range next {
		changed, no := l.want.Set(layer.Name, layer.Fragments)
		refused = append(refused, no...)
		if l.unset[layer.Name] {
			delete(l.unset, layer.Name)
			changed.All = changed.All || len(l.unset) == 0 // from now on it may delete
		}
		if !changed.Empty() {
			l.turn++
		}
		if l.owned { // else Own will have everything read
			l.fresh.Add(changed)
			l.touch(changed)
		}
	}
	return refused
}

// touch needs l.mu.
func (l *Loop) touch(s dataplane.Scope) {
	l.dirty.Add(s)
	if l.dirty.Empty() {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run converges the kernel until ctx ends; it returns ctx.Err() only.
func (l *Loop) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.watch(ctx) })
	g.Go(func() error { return l.work(ctx) })
	return g.Wait()
}

// watch keeps the kernel's notifications coming. Whenever the flow breaks,
// the next Watch begins with everything being dirty.
func (l *Loop) watch(ctx context.Context) error {
	scopes := make(chan dataplane.Scope, 64)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.hear(ctx, scopes) })
	g.Go(func() error {
		for attempt := 0; ; attempt++ {
			began := time.Now()
			err := l.kernel.Watch(ctx, scopes)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			l.opts.OnRound(Round{Err: fmt.Errorf("watch the kernel: %w", err)})
			if time.Since(began) > time.Minute {
				attempt = 0
			}
			if !sleep(ctx, pause(attempt)) {
				return ctx.Err()
			}
		}
	})
	return g.Wait()
}

// hear takes what the kernel tells: scopes to read, and that Facts are stale.
func (l *Loop) hear(ctx context.Context, scopes <-chan dataplane.Scope) error {
	facts := time.NewTimer(factsPause)
	facts.Stop()
	stale := false
	for {
		select {
		case s := <-scopes:
			if s.Facts && !stale {
				stale = true
				facts.Reset(factsPause)
			}
			s.Facts = false
			l.mu.Lock()
			l.touch(s)
			l.mu.Unlock()
		case <-facts.C:
			stale = false
			l.opts.OnFacts()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work is the loop proper.
func (l *Loop) work(ctx context.Context) error {
	audit := time.NewTimer(l.untilAudit(0))
	defer audit.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	truce := time.NewTimer(time.Hour)
	truce.Stop()
	var again dataplane.Scope
	attempt := 0
	for {
		audits := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-l.ask:
			f(ctx)
			continue
		case <-audit.C:
			audits = true
			l.mu.Lock()
			l.dirty.Add(dataplane.Scope{All: true})
			l.mu.Unlock()
		case <-retry.C:
		case <-truce.C:
		case <-l.wake:
		}
		scope, fresh := l.take()
		l.truce.fights.blame(scope.Writers)
		fresh.Add(again)
		scope.Add(again)
		again = dataplane.Scope{}
		began := time.Now()
		again.Add(l.round(ctx, l.truce.during(scope, fresh, began), fresh))
		if audits {
			audit.Reset(l.untilAudit(time.Since(began)))
		}
		truce.Reset(l.truce.left(time.Now()))
		retry.Stop()
		if again.Empty() {
			attempt = 0
			continue
		}
		retry.Reset(pause(attempt))
		attempt++
	}
}

// take hands the dirty scope over to a round.
func (l *Loop) take() (dirty, fresh dataplane.Scope) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.owned {
		return dirty, fresh
	}
	dirty.Add(l.dirty)
	fresh.Add(l.fresh)
	l.dirty, l.fresh = dataplane.Scope{}, dataplane.Scope{}
	return dirty, fresh
}

// round does one pass and gives what has to be looked at again. What differs
// outside of fresh is somebody else's doing.
func (l *Loop) round(ctx context.Context, s, fresh dataplane.Scope) (again dataplane.Scope) {
	if s.Empty() {
		return dataplane.Scope{}
	}
	s = l.scope(s)
	began := time.Now()
	r := Round{Full: s.All}
	defer func() {
		r.Took = time.Since(began)
		if r.Full || r.Err != nil || !r.Applied.Empty() || len(r.Applied.Conflicts)+len(r.Fights) > 0 {
			l.opts.OnRound(r)
		}
	}()
	if r.Applied, r.Err = l.plan(ctx, s); r.Err != nil {
		return s
	}
	var withheld []dataplane.Op
	r.Applied, r.Mended, withheld = l.truce.admit(r.Applied, fresh, time.Now())
	for _, n := range r.Mended {
		r.Repaired += n
	}
	r.Fights = l.truce.fights.named(withheld)
	r.Left = dataplane.Plan{Ops: withheld, Conflicts: r.Applied.Conflicts}
	if r.Applied.Empty() {
		return dataplane.Scope{}
	}
	// One that begins anew looks at all of it again: it is cheaper than a list.
	r.Applied.ReadBack = s.All && len(r.Applied.Ops) >= mass
	r.Failed = l.kernel.Apply(ctx, r.Applied)
	check := s
	if !r.Applied.ReadBack {
		check = l.scope(written(r.Applied, r.Failed))
	}
	if r.Left, r.Err = l.plan(ctx, check); r.Err != nil {
		return check
	}
	for _, op := range r.Left.Ops {
		again.AddOp(op)
	}
	r.Left.Ops = append(r.Left.Ops, withheld...)
	r.Left.Conflicts = append(r.Left.Conflicts, r.Applied.Conflicts...)
	return again
}

// mass is how many writes are read back by reading everything.
const mass = 1000

// written is what must be read back after a plan was applied. A write that
// failed for another reason than an occupied key makes its whole link doubtful.
func written(p dataplane.Plan, failed []*dataplane.OpError) dataplane.Scope {
	var s dataplane.Scope
	for _, op := range p.Ops {
		s.AddOp(op)
	}
	for _, f := range failed {
		if !errors.Is(f, dataplane.ErrOccupied) {
			s.AddLinkOf(f.Op)
		}
	}
	return s
}

// untilAudit is the pause after an audit that took so long.
func (l *Loop) untilAudit(took time.Duration) time.Duration {
	d := max(l.opts.Audit, min(2000*took, 5*l.opts.Audit))
	tenth := int64(d) / 10
	return d - time.Duration(tenth) + time.Duration(rand.Int64N(2*tenth+1))
}

func pause(attempt int) time.Duration { return min(firstPause<<min(attempt, 16), lastPause) }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
