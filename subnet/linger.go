package subnet

import (
	"slices"
	"time"
)

// lingerFor is how long a lease counts after the store lost it. A daemon whose
// lease was deleted or revoked by hand takes it again within milliseconds, and
// no packet to its pods shall be lost meanwhile; a node that really left is of
// no harm for that long. It has to leave room below 150 ms, which the removal of
// peers may take.
const lingerFor = 100 * time.Millisecond

// Lingering are the leases that a store has just lost, one by one, of which
// nobody knows yet whether their nodes take them again. What looks like the
// store's own fault is Believe's. The zero value is none. It knows no clock.
type Lingering struct{ gone []departed }

type departed struct {
	lease Lease
	until time.Time
}

// Note takes what was believed before and what is now, both as Believe gives
// them. A lease in whose place there is a new one doesn't linger: its subnet was
// given out again, or its node took another one.
func (l *Lingering) Note(prev, next []Lease, now time.Time) {
	l.forget(now)
	for _, lease := range gone(prev, next) {
		l.gone = append(l.gone, departed{lease, now.Add(lingerFor)})
	}
	if len(l.gone) == 0 {
		return
	}
	left := gone(l.leases(), next)
	if len(gone(next, prev)) > 0 || createdAnew(prev, next) > 0 {
		left = notReplaced(left, prev, next)
	}
	still := make(map[string]bool, len(left))
	for i := range left {
		still[left[i].ID] = true
	}
	l.gone = slices.DeleteFunc(l.gone, func(d departed) bool { return !still[d.lease.ID] })
}

// With gives the leases and those that linger beside them, the oldest first.
func (l *Lingering) With(leases []Lease, now time.Time) []Lease {
	l.forget(now)
	if len(l.gone) == 0 {
		return leases
	}
	return merged(leases, l.leases())
}

// Until is when the first of them lingers no longer; zero if there is none.
func (l *Lingering) Until() time.Time {
	if len(l.gone) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(l.gone, func(a, b departed) int { return a.until.Compare(b.until) }).until
}

// Over forgets those that have lingered long enough, and tells whether there
// were any.
func (l *Lingering) Over(now time.Time) bool {
	before := len(l.gone)
	l.forget(now)
	return len(l.gone) < before
}

func (l *Lingering) forget(now time.Time) {
	l.gone = slices.DeleteFunc(l.gone, func(d departed) bool { return !now.Before(d.until) })
}

func (l *Lingering) leases() []Lease {
	out := make([]Lease, 0, len(l.gone))
	for _, d := range l.gone {
		out = append(out, d.lease)
	}
	sortByCreated(out)
	return out
}
