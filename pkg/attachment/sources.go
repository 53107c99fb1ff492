package attachment

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/mac"
)

// Sources is what a guarded pod may send as, and nothing else.
type Sources struct {
	Link string // the host's end of its pair
	// MAC is zero on a link of the pod's own, where nobody but the host sees it.
	MAC   mac.Addr
	Addrs []netip.Addr // the pod's, link-local one last
}

// Sources are those of the pod; ok is false if it may send what it likes.
func (a Attachment) Sources() (s Sources, ok bool) {
	if !a.Guard {
		return Sources{}, false
	}
	s.Link = a.HostLink
	if a.Mode == ModeBridge {
		s.MAC = a.MAC
	}
	for _, p := range a.Addrs {
		s.Addrs = append(s.Addrs, p.Addr())
	}
	s.Addrs = append(s.Addrs, LinkLocal(a.MAC))
	return s, true
}

// LinkLocal is the address that the kernel gives a link with this MAC
// (RFC 4291 appendix A): the MAC with the universal bit turned and fffe in its
// middle.
func LinkLocal(m mac.Addr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}
