package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Facts reads the host, and the paths to peers, in the loop's own goroutine.
// Run must be running.
func (l *Loop) Facts(ctx context.Context, peers ...netip.Addr) (facts dataplane.Facts, err error) {
	askErr := l.do(ctx, func(run context.Context) { facts, err = l.kernel.Facts(run, peers) })
	return facts, errors.Join(askErr, err)
}

// Paths reads the ways to more peers than the last Facts told of, and nothing else,
// where the kernel can. Run must be running.
func (l *Loop) Paths(ctx context.Context, more []netip.Addr) (facts dataplane.Facts, err error) {
	k, can := l.kernel.(interface {
		Paths(ctx context.Context, more []netip.Addr) (dataplane.Facts, error)
	})
	if !can {
		return dataplane.Facts{}, fmt.Errorf("read paths alone: %w", errors.ErrUnsupported)
	}
	askErr := l.do(ctx, func(run context.Context) { facts, err = k.Paths(run, more) })
	return facts, errors.Join(askErr, err)
}

// Plan says what the loop would do now if it read everything, and does nothing.
// Run must be running.
func (l *Loop) Plan(ctx context.Context) (plan dataplane.Plan, err error) {
	askErr := l.do(ctx, func(run context.Context) { plan, err = l.planAll(run) })
	return plan, errors.Join(askErr, err)
}

// planAll looks twice: reading everything finds no foreign entry on a key that
// we want, asking for the key does.
func (l *Loop) planAll(ctx context.Context) (dataplane.Plan, error) {
	plan, err := l.plan(ctx, l.scope(dataplane.Scope{All: true}))
	if err != nil || len(plan.Ops) == 0 {
		return plan, err
	}
	keyed, err := l.plan(ctx, l.scope(written(plan, nil)))
	if err != nil {
		return plan, err
	}
	taken := map[string]bool{}
	for _, op := range append(keyed.Conflicts, plan.Conflicts...) {
		taken[op.Entry()] = true
	}
	plan.Ops = slices.DeleteFunc(plan.Ops, func(op dataplane.Op) bool { return taken[op.Entry()] })
	for _, op := range keyed.Conflicts {
		known := func(o dataplane.Op) bool { return o.Entry() == op.Entry() }
		if !slices.ContainsFunc(plan.Conflicts, known) {
			plan.Conflicts = append(plan.Conflicts, op)
		}
	}
	return plan, nil
}

// Dropped says how many packets the rules of chains have dropped, for those that
// count. Run must be running.
func (l *Loop) Dropped(ctx context.Context, chains []ruleset.Key) (counts map[ruleset.Key]uint64, err error) {
	scope := dataplane.Scope{Keys: dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{}}}
	for _, key := range chains {
		scope.Keys.Chains[key] = ruleset.Chain{}
	}
	askErr := l.do(ctx, func(run context.Context) {
		var seen dataplane.Observed
		seen, err = l.kernel.Observe(run, l.scope(scope))
		counts = seen.Dropped
	})
	return counts, errors.Join(askErr, err)
}

// Turn returns when the loop has come around to it, or when ctx ends. It does
// nothing: whoever calls it learns that the loop is not stuck. Run must be
// running.
func (l *Loop) Turn(ctx context.Context) error { return l.do(ctx, func(context.Context) {}) }

func (l *Loop) do(ctx context.Context, f func(context.Context)) error {
	done := make(chan struct{})
	request := func(run context.Context) { defer close(done); f(run) }
	select {
	case l.ask <- request:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}
