package reconcile

import (
	"context"
	"fmt"

	"github.com/weftnet/weft/pkg/dataplane"
)

// calm is a look at everything that found nothing to do: as long as we want the
// same, another look at the same finds nothing either.
type calm struct {
	turn int
	mark uint64
}

// scope adds the domain of this moment.
func (l *Loop) scope(s dataplane.Scope) dataplane.Scope {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Domain = l.domain
	if s.Unless = 0; s.All && l.calm.turn == l.turn {
		s.Unless = l.calm.mark
	}
	return s
}

// plan reads the scope and compares.
func (l *Loop) plan(ctx context.Context, s dataplane.Scope) (dataplane.Plan, error) {
	for {
		have, err := l.kernel.Observe(ctx, s)
		if err != nil {
			return dataplane.Plan{}, fmt.Errorf("read the kernel: %w", err)
		}
		plan, known := l.compare(s, have)
		if !known {
			s.Unless = 0
			continue
		}
		// What went with its link is not put back before the link is.
		if !s.AddAbsent(plan, have.Absent) {
			return plan, nil
		}
	}
}

// compare holds the lock, so that nobody changes the want meanwhile. It does not
// know the plan where what was left out of have may matter.
func (l *Loop) compare(s dataplane.Scope, have dataplane.Observed) (plan dataplane.Plan, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have.Same {
		plan = dataplane.Diff(l.want.Want().Few(), have)
		return plan, plan.Calm() && l.calm == calm{l.turn, s.Unless}
	}
	plan = dataplane.Diff(l.want.Want().Within(widened(s, have)), have)
	if s.All && plan.Calm() {
		l.calm = calm{l.turn, have.Mark}
	}
	if len(l.unset) > 0 {
		plan = plan.WithoutDeletes()
	}
	return plan, true
}

// widened is the scope with all that was found in it: an entry that stands on a
// link of the scope may be wanted on another one, and is changed then, not
// deleted.
func widened(s dataplane.Scope, have dataplane.Observed) dataplane.Scope {
	if s.All || have.Have.Len() == 0 {
		return s
	}
	var wide dataplane.Scope
	wide.Keys.Merge(s.Keys)
	wide.Keys.Merge(have.Have)
	return wide
}
