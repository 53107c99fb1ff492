package linux

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/mac"
)

func TestMarking(t *testing.T) {
	neighbour := func(last byte, age uint32, m mac.Addr) []byte {
		var e encoder
		e.beginNeighbour(unix.RTM_NEWNEIGH, 0, unix.AF_INET, 3, netlink.NUD_PERMANENT)
		e.addrAttr(netlink.NDA_DST, netip.AddrFrom4([4]byte{10, 0, 0, last}))
		e.uint32Attr(netlink.NDA_CACHEINFO, age)
		e.attr(netlink.NDA_LLADDR, m[:])
		e.end()
		return e.buf[unix.SizeofNlMsghdr:]
	}
	one, two := neighbour(1, 5, mac.Addr{2, 1}), neighbour(2, 5, mac.Addr{2, 2})
	tests := map[string]struct {
		messages [][]byte
		same     bool
	}{
		"in another order":              {[][]byte{two, one}, true},
		"one is older":                  {[][]byte{one, neighbour(2, 9, mac.Addr{2, 2})}, true},
		"one is missing":                {[][]byte{one}, false},
		"one is there twice":            {[][]byte{one, one, two}, false},
		"one twice instead of another":  {[][]byte{one, one}, false},
		"one has another MAC":           {[][]byte{one, neighbour(2, 5, mac.Addr{2, 3})}, false},
		"two have changed their values": {[][]byte{neighbour(1, 5, mac.Addr{2, 2}), neighbour(2, 5, mac.Addr{2, 1})}, false},
		"nothing":                       {nil, false},
		"one is cut off":                {[][]byte{one, two[:6]}, false},
	}
	m := newMarking()
	sum := func(messages ...[]byte) uint64 {
		m.begin(true)
		for _, b := range messages {
			m.add(unix.RTM_GETNEIGH, b)
		}
		return m.end()
	}
	want := sum(one, two)
	m.add(unix.RTM_GETNEIGH, one) // between marks nothing counts
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if have := sum(test.messages...); (have == want) != test.same || have == 0 {
				t.Errorf("mark %x, where the first is %x", have, want)
			}
		})
	}
}
