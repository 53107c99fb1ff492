package hostlocal

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// pool is what a subnet has to give: the addresses from first to last.
type pool struct{ first, last netip.Addr }

// set is the addresses that have a file.
type set map[netip.Addr]struct{}

// poolOf leaves out the network's address, the gateway's and the last.
func poolOf(subnet netip.Prefix) (pool, error) {
	const needed = 2 // host bits: network, gateway, one pod, broadcast
	subnet = subnet.Masked()
	if subnet.Addr().BitLen()-subnet.Bits() < needed {
		return pool{}, fmt.Errorf("subnet %s has no room for a pod: make the nodes' subnets larger (SubnetLen)", subnet)
	}
	return pool{subnet.Addr().Next().Next(), lastAddr(subnet).Prev()}, nil
}

// lastAddr is the address with all host bits set.
func lastAddr(subnet netip.Prefix) netip.Addr {
	b := subnet.Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (p pool) has(a netip.Addr) bool {
	return a.BitLen() == p.first.BitLen() && p.first.Compare(a) <= 0 && a.Compare(p.last) <= 0
}

// among is the first of the addresses that is of the pool.
func (p pool) among(addrs []netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(addrs, p.has)
	if i < 0 {
		return netip.Addr{}, false
	}
	return addrs[i], true
}

// after is the next address in the round.
func (p pool) after(a netip.Addr) netip.Addr {
	if !p.has(a) || a == p.last {
		return p.first
	}
	return a.Next()
}

// search is the first address after last that is not taken, of so many.
func (p pool) search(last netip.Addr, steps int, taken func(netip.Addr) bool) (netip.Addr, bool) {
	at := p.after(last)
	for range steps {
		if !taken(at) {
			return at, true
		}
		at = p.after(at)
	}
	return netip.Addr{}, false
}

// pick chooses an address. As long as some of the addresses after the last one
// are free this costs the same however many are in use; only where they are
// not, all that are in use are listed.
func (s Store) pick(p pool, lastFile string, resting []release) (netip.Addr, error) {
	const few = 8 // lookups that cost as much as a listing of some hundred
	rests := func(a netip.Addr) bool {
		return slices.ContainsFunc(resting, func(r release) bool { return r.addr == a })
	}
	last := s.readAddr(lastFile)
	addr, ok := p.search(last, few, func(a netip.Addr) bool { return rests(a) || s.taken(a) })
	if ok {
		return addr, nil
	}
	used, err := s.used()
	if err != nil {
		return addr, err
	}
	passed := maps.Clone(used)
	for _, r := range resting {
		passed[r.addr] = struct{}{}
	}
	// One look more than there are addresses to pass over finds what there is,
	// however large the pool.
	addr, ok = p.search(last, len(passed)+1, func(a netip.Addr) bool {
		_, taken := passed[a]
		return taken
	})
	for _, r := range resting { // the oldest first
		if _, taken := used[r.addr]; !ok && !taken && p.has(r.addr) {
			addr, ok = r.addr, true
		}
	}
	if !ok {
		addr, ok = s.leftover(p, used)
	}
	if !ok {
		return addr, errNoneFree
	}
	return addr, nil
}

func (s set) sorted() []netip.Addr {
	return slices.SortedFunc(maps.Keys(s), netip.Addr.Compare)
}
