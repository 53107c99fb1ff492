package subnet

import (
	"net/netip"
	"slices"
)

// overlaps is a set of prefixes of both families that finds the ones a prefix
// overlaps. Every lookup costs one map access per prefix length that occurs:
// one or two in a real cluster, 162 at the very worst.
type overlaps struct {
	lengths map[int][]int  // bits of an address → prefix lengths that occur, shortest first
	holders map[key]string // prefix → ID of who has it
	// inside maps each prefix around a held one, of a length that occurs, to
	// the held one that was first.
	inside map[key]netip.Prefix
}

// key is a prefix that hashes fast: netip.Prefix has a hole and a pointer in it.
type key struct {
	addr          u128
	width, length int
}

func keyOf(p netip.Prefix) key { return key{number(p.Addr()), p.Addr().BitLen(), p.Bits()} }

// around is the key of the prefix of a shorter length around p.
func around(p netip.Prefix, length int) key {
	return keyOf(netip.PrefixFrom(p.Addr(), length).Masked())
}

// newOverlaps makes a set for the subnets of these leases, without any yet.
func newOverlaps(own Lease, all []Lease) *overlaps {
	o := &overlaps{
		lengths: map[int][]int{},
		holders: make(map[key]string, 2*len(all)),
		inside:  map[key]netip.Prefix{},
	}
	var seen [129][129]bool // by bits of an address, then prefix length
	note := func(l Lease) {
		for _, share := range l.Shares {
			if p := share.Subnet; p.IsValid() {
				seen[p.Addr().BitLen()][p.Bits()] = true
			}
		}
	}
	note(own)
	for _, l := range all {
		note(l)
	}
	for _, width := range []int{32, 128} {
		for length, occurs := range seen[width] {
			if occurs {
				o.lengths[width] = append(o.lengths[width], length)
			}
		}
	}
	return o
}

// add puts a prefix in. One that overlaps another doesn't hide it.
func (o *overlaps) add(p netip.Prefix, holder string) {
	p = p.Masked()
	if !p.IsValid() {
		return
	}
	if _, found := o.holders[keyOf(p)]; found {
		return
	}
	o.holders[keyOf(p)] = holder
	for _, length := range o.lengths[p.Addr().BitLen()] {
		if length >= p.Bits() {
			break
		}
		if at := around(p, length); !o.inside[at].IsValid() {
			o.inside[at] = p
		}
	}
}

// find gives a prefix of the set that p overlaps, and its holder. p is masked,
// and of a length that newOverlaps has seen.
func (o *overlaps) find(p netip.Prefix) (holder string, at netip.Prefix, found bool) {
	lengths := o.lengths[p.Addr().BitLen()]
	for _, length := range lengths[:slices.Index(lengths, p.Bits())+1] {
		if holder, found := o.holders[around(p, length)]; found {
			return holder, netip.PrefixFrom(p.Addr(), length).Masked(), true
		}
	}
	if within, found := o.inside[keyOf(p)]; found {
		return o.holders[keyOf(within)], within, true
	}
	return "", netip.Prefix{}, false
}
