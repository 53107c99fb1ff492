package subnet

import (
	"bytes"
	"net/netip"
	"slices"
)

// Admitter is Admit for one snapshot after the other. It keeps what it found
// out the last time, so that a lease more, less or changed costs one walk over
// the leases instead of a new index of their subnets. The result is that of
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

	spare []verdict // of the call before; written over by the next
	ok    []Lease
}

// Admit gives what Admit gives. The leases of all must not change any more, as
// those of a Snapshot don't; ok is good until the next call.
func (a *Admitter) Admit(cfg Config, own Lease, all []Lease) (ok []Lease, no []Skipped) {
	sorted := inOrder(all)
	verdicts, known := a.follow(cfg, own, sorted)
	if !known {
		verdicts = judge(cfg, own, sorted)
		a.held = newTerritory(verdicts)
	}
	a.spare = a.verdicts
	a.cfg, a.own, a.sorted, a.verdicts = cfg, own, sorted, verdicts
	a.ok, no = collect(a.ok[:0], sorted, verdicts)
	return a.ok, no
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
func (a *Admitter) follow(cfg Config, own Lease, sorted []Lease) ([]verdict, bool) {
	if !a.sameCluster(cfg, own) {
		return nil, false
	}
	verdicts := slices.Grow(a.spare[:0], len(sorted))[:len(sorted)]
	gone, fresh, refusals, few := a.compare(sorted, verdicts)
	if !few || (len(gone)+len(fresh))*len(refusals) > fewComparisons {
		return nil, false
	}
	var touched []Share
	for _, i := range gone {
		if v := &a.verdicts[i]; v.counts() {
			a.held.remove(v.shares)
			touched = append(touched, v.shares...)
		}
	}
	disputed := false
	one := admission{cfg: cfg, own: own, find: func(p netip.Prefix) (string, netip.Prefix, bool) {
		disputed = disputed || a.held.overlaps(p) || overlapsAny(p, own.Shares)
		return "", netip.Prefix{}, false
	}}
	for _, j := range fresh {
		verdicts[j] = one.judge(&sorted[j])
		if disputed {
			return nil, false
		}
		if v := &verdicts[j]; v.counts() {
			a.held.add(v.shares)
			touched = append(touched, v.shares...)
		}
	}
	return verdicts, !slices.ContainsFunc(refusals, func(j int) bool {
		return slices.ContainsFunc(sorted[j].Shares, func(s Share) bool { return overlapsAny(s.Subnet, touched) })
	})
}

// sameCluster tells whether the last verdicts were given under these terms.
func (a *Admitter) sameCluster(cfg Config, own Lease) bool {
	return a.sorted != nil && cfg.Backend == a.cfg.Backend && slices.Equal(cfg.Networks, a.cfg.Networks) &&
		own.ID == a.own.ID && sameShares(own.Shares, a.own.Shares)
}

// compare walks along the leases of the last call and of this one. What is the
// same keeps its verdict; gone are places in the old list, fresh in the new one,
// and refusals those of kept verdicts that are refusals.
func (a *Admitter) compare(sorted []Lease, verdicts []verdict) (gone, fresh, refusals []int, few bool) {
	i, j := 0, 0
	for i < len(a.sorted) || j < len(sorted) {
		var order int // below 0: the old one comes first
		switch {
		case i == len(a.sorted):
			order = 1
		case j == len(sorted):
			order = -1
		default:
			order = byCreated(a.sorted[i], sorted[j])
		}
		switch {
		case order == 0 && sameClaim(&a.sorted[i], &sorted[j]):
			verdicts[j] = a.verdicts[i]
			if verdicts[j].refusal != nil {
				refusals = append(refusals, j)
			}
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
			return nil, nil, nil, false
		}
	}
	return gone, fresh, refusals, true
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
	var out territory
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
