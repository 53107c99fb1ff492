package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
)

const (
	// fightBurst is how often an entry is repaired at once, whatever happens to
	// it, and fightPace how often from then on: somebody rewrites it in a loop,
	// and neither of us shall keep a processor busy with that.
	fightBurst = 64
	fightPace  = 200 * time.Millisecond
)

// truce is how the loop deals with fights: the entries are neither read nor
// written until it ends.
type truce struct {
	fights fights
	over   dataplane.Scope // what is not written
	until  time.Time       // when it is looked at again
}

// admit is that of fights, and remembers what was withheld.
func (t *truce) admit(p dataplane.Plan, fresh dataplane.Scope, now time.Time) (
	pass dataplane.Plan, repairs map[dataplane.Kind]int, withheld []dataplane.Op,
) {
	pass, repairs, withheld, again := t.fights.admit(p, fresh, now)
	for _, op := range withheld {
		t.over.AddOp(op)
	}
	if len(withheld) > 0 {
		t.until = again
	}
	return pass, repairs, withheld
}

// during is what of a scope is to be looked at now: not what the truce is over,
// unless we want it otherwise; and that when the truce ends.
func (t *truce) during(s, fresh dataplane.Scope, now time.Time) dataplane.Scope {
	if now.Before(t.until) && !s.All {
		var part dataplane.Scope
		part.Add(s)
		part.Keys.Remove(t.over.Keys)
		part.Add(fresh)
		return part
	}
	s.Add(t.over)
	t.over, t.until = dataplane.Scope{}, time.Time{}
	return s
}

// left is the time until the truce ends, or very long.
func (t *truce) left(now time.Time) time.Duration {
	if t.until.IsZero() {
		return time.Hour
	}
	return max(0, t.until.Sub(now))
}

// Fight is an entry that somebody keeps changing.
type Fight struct {
	Entry   string // its kind and key
	Repairs int    // since it began
	By      string // who wrote it last, where the kernel tells
}

// fights counts the repairs of each entry. An entry has fightBurst of them in
// hand and gets one back each fightPace. It knows no clock.
type fights map[string]*bout

type bout struct {
	repairs int
	full    time.Time // when all repairs will be in hand again
	by      string    // who wrote the entry last, where the kernel tells
}

// blame remembers who wrote entries that were repaired before.
func (f fights) blame(writers map[string]string) {
	for entry, who := range writers {
		if b := f[entry]; b != nil {
			b.by = who
		}
	}
}

// admit divides a plan into what may be written now and what is withheld, and
// gives the earliest moment at which that may change. Ops that fresh covers were
// asked for by us: they repair nothing, and never wait.
func (f fights) admit(p dataplane.Plan, fresh dataplane.Scope, now time.Time) (
	pass dataplane.Plan, repairs map[dataplane.Kind]int, withheld []dataplane.Op, again time.Time,
) {
	f.forget(now)
	if fresh.All {
		return p, nil, nil, again
	}
	repairs = map[dataplane.Kind]int{}
	var links dataplane.Scope // that are withheld: with all that stands on them
	pass.Conflicts = p.Conflicts
	verdicts := map[string]bool{}
	for _, op := range p.Ops {
		if links.Covers(op) {
			withheld = append(withheld, op)
			continue
		}
		entry := op.Entry()
		wait, seen := verdicts[entry]
		if !seen && !fresh.Covers(op) {
			var until time.Time
			wait, until = f.repair(entry, now)
			if wait && (again.IsZero() || until.Before(again)) {
				again = until
			}
			if !wait {
				repairs[op.Kind]++
			}
		}
		verdicts[entry] = wait
		if wait && op.Kind == dataplane.KindLink {
			links.AddOp(op)
		}
		if wait {
			withheld = append(withheld, op)
			continue
		}
		pass.Ops = append(pass.Ops, op)
	}
	return pass, repairs, withheld, again
}

// repair takes one of the repairs that an entry has in hand, or says when there
// will be one.
func (f fights) repair(entry string, now time.Time) (wait bool, until time.Time) {
	b := f[entry]
	if b == nil {
		b = &bout{full: now}
		f[entry] = b
	}
	next := b.full.Add(fightPace)
	if in := next.Add(-fightBurst * fightPace); in.After(now) {
		return true, in
	}
	b.full = next
	b.repairs++
	return false, time.Time{}
}

// forget drops entries that have been left in peace for long enough.
func (f fights) forget(now time.Time) {
	for entry, b := range f {
		if !b.full.After(now) {
			delete(f, entry)
		}
	}
}

// named tells of the entries of the ops, in order.
func (f fights) named(ops []dataplane.Op) (out []Fight) {
	for _, op := range ops {
		if b := f[op.Entry()]; b != nil {
			out = append(out, Fight{op.Entry(), b.repairs, b.by})
		}
	}
	slices.SortFunc(out, func(a, b Fight) int { return strings.Compare(a.Entry, b.Entry) })
	return slices.Compact(out)
}

// String is what an operator reads.
func (f Fight) String() string {
	s := fmt.Sprintf("%s (repaired %d times)", f.Entry, f.Repairs)
	if f.By != "" {
		s += ", changed by " + f.By
	}
	return s
}
