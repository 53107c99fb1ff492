package subnet

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// Allocate chooses one subnet per network of cfg that overlaps no lease of
// taken: the first of prefer that is free and in range, else one of all that
// are free, each as likely as the others. pick(n) gives a number from 0 to n-1;
// it is asked for more than one where there are too many subnets for an int32.
//
// It costs O(T log T) in the number of leases, whatever the size of the
// network. ErrExhausted: a network has no free subnet.
func Allocate(cfg Config, taken []Lease, prefer []netip.Prefix, pick func(n int) int) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, n := range cfg.Networks {
		chosen, err := allocate(n, taken, prefer, pick)
		out, errs = append(out, chosen), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// allocate chooses within one network.
func allocate(n Network, taken []Lease, prefer []netip.Prefix, pick func(n int) int) (netip.Prefix, error) {
	all := slots{n}
	busy := all.busy(taken)
	for _, p := range prefer {
		if !n.fits(p) {
			continue
		}
		at := all.index(number(p.Addr()))
		if !slices.ContainsFunc(busy, func(s span) bool { return s.contains(at) }) {
			return p, nil
		}
	}
	free := all.count()
	for _, s := range busy {
		free = free.sub(s.size())
	}
	if free == (u128{}) {
		return netip.Prefix{}, fmt.Errorf("%w: in %s all %s subnets of length %d from %s to %s are taken, "+
			"by %d leases; delete leases of nodes that are gone, or configure a larger network",
			ErrExhausted, n.Prefix, all.count(), n.SubnetLen, n.Min, n.Max, len(taken))
	}
	at := draw(free, pick)
	for _, s := range busy {
		if at.less(s.first) {
			break
		}
		at = at.add(s.size())
	}
	return all.prefix(at), nil
}

// fits reports whether p is a subnet that the network gives out.
func (n Network) fits(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().BitLen() == n.Prefix.Addr().BitLen() && p == p.Masked() &&
		p.Bits() == n.SubnetLen && !p.Addr().Less(n.Min) && !n.Max.Less(p.Addr())
}

// slots counts the subnets of a network from Min, 0, to Max.
type slots struct{ Network }

func (s slots) shift() int { return s.Min.BitLen() - s.SubnetLen }

// index is the slot in which an address lies that is not below Min.
func (s slots) index(a u128) u128 { return a.sub(number(s.Min)).shr(s.shift()) }

func (s slots) count() u128 { return s.index(number(s.Max)).add(u128{lo: 1}) }

func (s slots) prefix(at u128) netip.Prefix {
	return netip.PrefixFrom(at.shl(s.shift()).add(number(s.Min)).addr(s.Min.BitLen()), s.SubnetLen)
}

// span is slots first to last, both included.
type span struct{ first, last u128 }

func (s span) contains(at u128) bool { return !at.less(s.first) && !s.last.less(at) }
func (s span) size() u128            { return s.last.sub(s.first).add(u128{lo: 1}) }

// busy gives the slots that leases overlap, in order and disjoint. A lease may
// be smaller or larger than a slot: the network was configured otherwise once.
func (s slots) busy(taken []Lease) []span {
	low, high := number(s.Min), lastOf(netip.PrefixFrom(s.Max, s.SubnetLen))
	var spans []span
	for _, l := range taken {
		for _, share := range l.Shares {
			p := share.Subnet.Masked()
			if !p.IsValid() || p.Addr().BitLen() != s.Min.BitLen() {
				continue
			}
			first, last := number(p.Addr()), lastOf(p)
			if last.less(low) || high.less(first) {
				continue
			}
			if first.less(low) {
				first = low
			}
			if high.less(last) {
				last = high
			}
			spans = append(spans, span{s.index(first), s.index(last)})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first.compare(b.first) })
	return merge(spans)
}

// merge joins spans that overlap; they are sorted by first.
func merge(spans []span) []span {
	var out []span
	for _, s := range spans {
		if end := len(out) - 1; end >= 0 && !out[end].last.less(s.first) {
			if out[end].last.less(s.last) {
				out[end].last = s.last
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// draw gives a number below n, which is not 0, each as likely as the others.
func draw(n u128, pick func(n int) int) u128 {
	if n.hi == 0 && n.lo <= math.MaxInt32 {
		return u128{lo: uint64(pick(int(n.lo)))}
	}
	const limb, tries = 30, 64
	width := n.sub(u128{lo: 1}).len()
	var v u128
	for range tries {
		v = u128{}
		for left := width; left > 0; left -= limb {
			size := min(left, limb)
			v = v.shl(size).add(u128{lo: uint64(pick(1 << size))})
		}
		if v.less(n) {
			return v
		}
	}
	// More than half of all v are below n, so who comes here has a pick that is
	// not random. v has no more bits than n-1, so v-n is below n.
	return v.sub(n)
}
