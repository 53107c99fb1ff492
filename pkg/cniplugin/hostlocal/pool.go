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

// after is the next address in the round.
func (p pool) after(a netip.Addr) netip.Addr {
	if !p.has(a) || a == p.last {
		return p.first
	}
	return a.Next()
}

// pick is the first free address after last. One look more than there are
// addresses in use is enough, however large the pool.
func (p pool) pick(used set, last netip.Addr) (netip.Addr, bool) {
	at := p.after(last)
	for range len(used) + 1 {
		if _, taken := used[at]; !taken {
			return at, true
		}
		at = p.after(at)
	}
	return netip.Addr{}, false
}

func (s set) in(p pool) int {
	n := 0
	for addr := range s {
		if p.has(addr) {
			n++
		}
	}
	return n
}

func (s set) sorted() []netip.Addr {
	return slices.SortedFunc(maps.Keys(s), netip.Addr.Compare)
}
