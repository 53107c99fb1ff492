package subnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// confirmAfter is how long a store must go on telling the incredible until
// Believe believes it. It is short beside the life of a lease (24 h), and long
// beside a restart of etcd, or an operator's restore followed by every node
// taking its lease again.
const confirmAfter = 30 * time.Second

// Doubt is why leases that the store no longer has are kept.
type Doubt struct {
	Reason string        // a sentence for the log
	Kept   int           // number of leases that the snapshot has beyond the store's
	Left   time.Duration // until the store is believed, if nothing changes
}

// Believe takes what a store says now, next, beside what was believed so far.
// What is new or changed is taken at once; it is removal that must be credible.
// Where the store looks like one that was emptied, restored, swapped or cut in
// half, the leases that it no longer has are kept until it has said so for
// confirmAfter. A configuration that is absent keeps the one before, for ever:
// nothing useful can be done without one.
//
// The caller keeps the result as the next prev, in doubt or not. age is the
// time since Believe began to doubt without a break, or since Doubt.Kept last
// grew, if that is later; 0 only while there is no doubt. It calls again after
// Doubt.Left, with the same next, if nothing comes before.
//
// In doubt the result has prev's Epoch and Revision, so that the doubt isn't
// forgotten by the next call.
func Believe(prev, next Snapshot, age time.Duration) (Snapshot, []Doubt) {
	if len(next.Config.Networks) == 0 {
		next.Config = prev.Config
	}
	missing := gone(prev.Leases, next.Leases)
	if len(missing) == 0 || age >= confirmAfter {
		return next, nil
	}
	reasons := suspicions(prev, next, missing)
	if len(reasons) == 0 && age > 0 {
		reasons = []string{"the store lost leases, and has not been in order since it lost many"}
	}
	if len(reasons) == 0 {
		return next, nil
	}
	kept := notReplaced(missing, prev.Leases, next.Leases)
	if len(kept) == 0 {
		return next, nil
	}
	var doubts []Doubt
	for _, reason := range reasons {
		doubts = append(doubts, Doubt{Reason: reason, Kept: len(kept), Left: confirmAfter - age})
	}
	next.Leases = merged(next.Leases, kept)
	next.Epoch, next.Revision = prev.Epoch, prev.Revision
	return next, doubts
}

// suspicions says why a store that lost these leases is not taken at its word.
// One that is there again, but was created since, was lost as well: who slept
// while somebody deleted all of them hears of it when most nodes have theirs
// back, and the others are about to.
func suspicions(prev, next Snapshot, missing []Lease) []string {
	const fewest = 4 // below, half of the leases is an ordinary change
	var out []string
	switch {
	case prev.Epoch != "" && prev.Epoch != next.Epoch:
		out = append(out, fmt.Sprintf("the store is another one than before: %q, was %q", next.Epoch, prev.Epoch))
	case prev.Epoch == next.Epoch && next.Revision < prev.Revision:
		out = append(out, fmt.Sprintf("the store went back in time, as if restored from a backup: revision %d, was %d",
			next.Revision, prev.Revision))
	}
	switch had, again := len(prev.Leases), createdAnew(prev.Leases, next.Leases); {
	case len(next.Leases) == 0:
		out = append(out, fmt.Sprintf("the store lost all of its %d leases at once", had))
	case had < fewest || 2*(len(missing)+again) < had:
	case again == 0:
		out = append(out, fmt.Sprintf("the store lost %d of its %d leases at once", len(missing), had))
	default:
		out = append(out, fmt.Sprintf("the store lost %d of its %d leases at once, and %d of them were taken again",
			len(missing)+again, had, again))
	}
	return out
}

// createdAnew counts leases of prev that next has by the same ID, but not the
// same: they were deleted in between.
func createdAnew(prev, next []Lease) (n int) {
	from, prevTo, nextTo := window(prev, next)
	created := make(map[string]int64, prevTo-from)
	for i := from; i < prevTo; i++ {
		created[prev[i].ID] = prev[i].Created
	}
	for i := from; i < nextTo; i++ {
		if was, found := created[next[i].ID]; found && was != next[i].Created {
			n++
		}
	}
	return n
}

// gone gives the leases of prev whose ID next doesn't have.
func gone(prev, next []Lease) []Lease {
	from, prevTo, nextTo := window(prev, next)
	var missed []Lease // at their place; nearly always those that are gone
	j := from
	for i := from; i < prevTo; i++ {
		for j < nextTo && byCreated(&next[j], &prev[i]) < 0 {
			j++
		}
		if j == nextTo || next[j].ID != prev[i].ID {
			missed = append(missed, prev[i])
		}
	}
	if len(missed) == 0 {
		return nil
	}
	there := make(map[string]bool, len(missed))
	for i := range missed {
		there[missed[i].ID] = false
	}
	for i := range next {
		if _, asked := there[next[i].ID]; asked {
			there[next[i].ID] = true
		}
	}
	return slices.DeleteFunc(missed, func(l Lease) bool { return there[l.ID] })
}

// notReplaced leaves out those missing leases in whose place next has a new
// one: whose subnet was given out again, whose node took another subnet, or
// whose data (a VTEP's MAC) a new one has. To keep them would keep the new one,
// which is younger, from being admitted.
func notReplaced(missing, prev, next []Lease) []Lease {
	type identity struct {
		id      string
		created int64
	}
	from, prevTo, nextTo := window(prev, next)
	known := make(map[identity]struct{}, prevTo-from)
	for _, l := range prev[from:prevTo] {
		known[identity{l.ID, l.Created}] = struct{}{}
	}
	var fresh []Lease
	publics, datas := map[netip.Addr]struct{}{}, map[string]struct{}{}
	for _, l := range next[from:nextTo] {
		if _, found := known[identity{l.ID, l.Created}]; found {
			continue
		}
		fresh = append(fresh, l)
		for _, share := range l.Shares {
			if share.Public.IsValid() {
				publics[share.Public] = struct{}{}
			}
			if distinguishes(share.Data) {
				datas[string(share.Data)] = struct{}{}
			}
		}
	}
	// The lengths that occur must include those of the missing, as find asks for them.
	subnets := newOverlaps(Lease{}, slices.Concat(fresh, missing))
	for _, l := range fresh {
		for _, share := range l.Shares {
			subnets.add(share.Subnet, l.ID)
		}
	}
	return slices.DeleteFunc(slices.Clone(missing), func(l Lease) bool {
		return slices.ContainsFunc(l.Shares, func(s Share) bool {
			_, _, again := subnets.find(s.Subnet)
			_, moved := publics[s.Public]
			_, same := datas[string(s.Data)]
			return again || moved || same
		})
	})
}

// distinguishes tells whether what a backend says of a node may be one node's
// only; that of a backend with nothing to say is everybody's.
func distinguishes(data []byte) bool { return len(data) > 0 && string(data) != "null" }
