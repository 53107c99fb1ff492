package subnet

import (
	"bytes"
	"net/netip"
	"slices"
)

// Admitter is Admit for one snapshot after the other. It keeps what it found
// out the last time, so that a lease more, less or changed is found (see
// window) and judged, and nothing else is touched. The result is that of
// Admit, always: where a change touches subnets that somebody else claims as
// well, everything is judged anew.
//
// The zero value is ready. Not safe for concurrent use.
type Admitter struct {
	cfg      Config
	own      Lease
	sorted   []Lease   // of the last call
	verdicts []verdict // beside sorted
	held     territory // the subnets of those that count

	out []int   // places in sorted of those that don't count
	ok  []Lease // those that do
}

// Admit gives what Admit gives. The leases of all must not change any more, as
// those of a Snapshot don't; ok is good until the next call.
func (a *Admitter) Admit(cfg Config, own Lease, all []Lease) (ok []Lease, no []Skipped) {
	if !a.sameCluster(cfg, own) || !a.follow(all) {
		a.cfg, a.own, a.sorted = cfg, own, inOrder(all)
		a.verdicts = judge(cfg, own, a.sorted)
		a.held = newTerritory(a.verdicts)
		a.out = without(a.out[:0], 0, a.verdicts)
		a.ok, _ = collect(a.ok[:0], a.sorted, a.verdicts)
	}
	for _, i := range a.out {
		if refusal := a.verdicts[i].refusal; refusal != nil {
			no = append(no, *refusal)
		}
	}
	return a.ok, no
}

// without appends the places of those that don't count, the first being at from.
func without(out []int, from int, verdicts []verdict) []int {
	for i := range verdicts {
		if !verdicts[i].counts() {
			out = append(out, from+i)
		}
	}
	return out
}

// A change is followed while it is small beside judging everything anew.
const (
	fewChanges     = 64
	fewComparisons = 20_000 // of changed leases with refused ones
)

// follow judges what changed since the last call and keeps the other verdicts,
// or reports that this can't be done; then held is not to be relied on.
//
// It can be done if no changed lease, neither as it was nor as it is, overlaps
// one that is refused or one that counts: a verdict depends on the lease itself
// and on older ones that count and that it overlaps, and on nothing else.
func (a *Admitter) follow(all []Lease) bool {
	from, oldTo, newTo := window(a.sorted, all)
	if !isSorted(all[max(from-1, 0):min(newTo+1, len(all))]) { // all else was sorted before
		return false
	}
	next := all[from:newTo]
	verdicts := make([]verdict, len(next))
	gone, fresh, few := a.compare(from, oldTo, next, verdicts)
	if !few || (len(gone)+len(fresh))*len(a.out) > fewComparisons {
		return false
	}
	touched, found := a.rejudge(gone, fresh, next, verdicts)
	if !found || a.concerns(touched, gone) {
		return false
	}
	a.splice(from, oldTo, next, verdicts)
	a.sorted = all
	return true
}

// rejudge judges the leases of next that are fresh, and gives the subnets that
// came or went; or reports that one of these is somebody else's as well.
func (a *Admitter) rejudge(gone, fresh []int, next []Lease, verdicts []verdict) (touched []Share, alone bool) {
	for _, i := range gone {
		if v := &a.verdicts[i]; v.counts() {
			a.held.remove(v.shares)
			touched = append(touched, v.shares...)
		}
	}
	disputed := false
	one := admission{cfg: a.cfg, own: a.own, find: func(p netip.Prefix) (string, netip.Prefix, bool) {
		disputed = disputed || a.held.overlaps(p) || overlapsAny(p, a.own.Shares)
		return "", netip.Prefix{}, false
	}}
	for _, j := range fresh {
		verdicts[j] = one.judge(&next[j])
		if disputed {
			return nil, false
		}
		if v := &verdicts[j]; v.counts() {
			a.held.add(v.shares)
			touched = append(touched, v.shares...)
		}
	}
	return touched, true
}

// concerns tells whether a refusal that stays has to do with what was touched.
func (a *Admitter) concerns(touched []Share, gone []int) bool {
	return slices.ContainsFunc(a.out, func(i int) bool {
		if a.verdicts[i].refusal == nil || slices.Contains(gone, i) {
			return false
		}
		return slices.ContainsFunc(a.sorted[i].Shares, func(s Share) bool { return overlapsAny(s.Subnet, touched) })
	})
}

// splice puts the leases of next, and what became of them, in the place of
// [from:to]. What stands behind is moved, not looked at.
func (a *Admitter) splice(from, to int, next []Lease, verdicts []verdict) {
	outFrom, _ := slices.BinarySearch(a.out, from)
	outTo, _ := slices.BinarySearch(a.out, to)
	count, _ := collect(nil, next, verdicts)
	a.ok = slices.Replace(a.ok, from-outFrom, to-outTo, count...)
	a.verdicts = slices.Replace(a.verdicts, from, to, verdicts...)
	for i := outTo; i < len(a.out); i++ {
		a.out[i] += len(next) - (to - from)
	}
	a.out = slices.Replace(a.out, outFrom, outTo, without(nil, from, verdicts)...)
}

// sameCluster tells whether the last verdicts were given under these terms.
func (a *Admitter) sameCluster(cfg Config, own Lease) bool {
	return a.sorted != nil && cfg.Backend == a.cfg.Backend && slices.Equal(cfg.Networks, a.cfg.Networks) &&
		own.ID == a.own.ID && sameShares(own.Shares, a.own.Shares)
}

// compare walks along the leases [from:to] of the last call and the next ones in
// their place. What is the same keeps its verdict; gone are places in the old
// list, fresh in next.
func (a *Admitter) compare(from, to int, next []Lease, verdicts []verdict) (gone, fresh []int, few bool) {
	i, j := from, 0
	for i < to || j < len(next) {
		var order int // below 0: the old one comes first
		switch {
		case i == to:
			order = 1
		case j == len(next):
			order = -1
		default:
			order = byCreated(&a.sorted[i], &next[j])
		}
		switch {
		case order == 0 && sameClaim(&a.sorted[i], &next[j]):
			verdicts[j] = a.verdicts[i]
			i, j = i+1, j+1
			continue
		case order == 0:
			gone, fresh = append(gone, i), append(fresh, j)
			i, j = i+1, j+1
		case order < 0:
			gone = append(gone, i)
			i++
		default:
			fresh = append(fresh, j)
			j++
		}
		if len(gone)+len(fresh) > fewChanges {
			return nil, nil, false
		}
	}
	return gone, fresh, true
}

// sameClaim tells whether two leases of one age and ID say the same.
func sameClaim(a, b *Lease) bool {
	return a.Backend == b.Backend && a.Node == b.Node && sameShares(a.Shares, b.Shares)
}

func sameShares(a, b []Share) bool {
	if len(a) != len(b) || len(a) == 0 || &a[0] == &b[0] { // a store gives out again what it has
		return len(a) == len(b)
	}
	return slices.EqualFunc(a, b, func(a, b Share) bool {
		return a.Subnet == b.Subnet && a.Public == b.Public && bytes.Equal(a.Data, b.Data)
	})
}

func overlapsAny(p netip.Prefix, shares []Share) bool {
	return slices.ContainsFunc(shares, func(s Share) bool { return s.Subnet.Overlaps(p) })
}

// territory is a set of prefixes of which no two overlap, by address.
type territory []netip.Prefix

func newTerritory(verdicts []verdict) territory {
	out := make(territory, 0, len(verdicts))
	for i := range verdicts {
		for _, share := range verdicts[i].shares {
			out = append(out, share.Subnet)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// find gives the first place of an address that is not below p's.
func (t territory) find(p netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(t, p.Addr(), func(q netip.Prefix, a netip.Addr) int { return q.Addr().Compare(a) })
}

// overlaps looks at the two neighbours of p: as none of the set overlap, no
// other can hold it or lie in it.
func (t territory) overlaps(p netip.Prefix) bool {
	i, _ := t.find(p)
	return i < len(t) && t[i].Overlaps(p) || i > 0 && t[i-1].Overlaps(p)
}

func (t *territory) add(shares []Share) {
	for _, share := range shares {
		i, _ := t.find(share.Subnet)
		*t = slices.Insert(*t, i, share.Subnet)
	}
}

func (t *territory) remove(shares []Share) {
	for _, share := range shares {
		if i, found := t.find(share.Subnet); found {
			*t = slices.Delete(*t, i, i+1)
		}
	}
}
