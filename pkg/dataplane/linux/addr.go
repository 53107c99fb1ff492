package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// address is one of an interface's.
type address struct {
	index  int
	prefix netip.Prefix // with host bits
	flags  uint32       // IFA_F_*
}

// addrHeader is struct ifaddrmsg; the one of nl gives no way to serialise it
// for a strict dump.
type addrHeader struct{ unix.IfAddrmsg }

func (h *addrHeader) Len() int { return unix.SizeofIfAddrmsg }

func (h *addrHeader) Serialize() []byte {
	return (*(*[unix.SizeofIfAddrmsg]byte)(unsafe.Pointer(&h.IfAddrmsg)))[:]
}

func parseAddress(m []byte) (address, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	header := nl.DeserializeIfAddrmsg(m)
	a := address{index: int(header.Index), flags: uint32(header.Flags)}
	var local, remote netip.Addr
	for at := range attrs(m[unix.SizeofIfAddrmsg:]) {
		switch at.kind {
		case unix.IFA_LOCAL:
			local = at.addr()
		case unix.IFA_ADDRESS: // of a point-to-point link: the other end's
			remote = at.addr()
		case unix.IFA_FLAGS:
			a.flags = at.uint32()
		}
	}
	if !local.IsValid() {
		local = remote
	}
	a.prefix = netip.PrefixFrom(local, int(header.Prefixlen))
	return a, a.prefix.IsValid()
}

// addresses lists those of one interface, or with index 0 all.
func (k *Kernel) addresses(index int) ([]address, error) {
	c, err := k.route()
	if err != nil {
		return nil, err
	}
	header := &addrHeader{}
	if c.strict {
		header.Index = uint32(index)
	}
	all, err := dump(k, unix.RTM_GETADDR, func(m []byte) (address, bool) {
		a, ok := parseAddress(m)
		return a, ok && (index == 0 || a.index == index)
	}, header)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil // the interface went meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all, nil
}

// owned tells whether an address on our own device is ours: an IPv4 one if it
// is in the cluster's networks, any IPv6 one but the kernel's link-local.
func owned(p netip.Prefix, networks []netip.Prefix) bool {
	if p.Addr().Is4() {
		return within(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), networks)
	}
	return !p.Addr().IsLinkLocalUnicast()
}

func addrRequest(index int, p netip.Prefix) []nl.NetlinkRequestData {
	h := &addrHeader{unix.IfAddrmsg{
		Family: family(p.Addr()), Prefixlen: uint8(p.Bits()), Index: uint32(index), Scope: unix.RT_SCOPE_UNIVERSE,
	}}
	return []nl.NetlinkRequestData{h, addrAttr(unix.IFA_LOCAL, p.Addr()), addrAttr(unix.IFA_ADDRESS, p.Addr())}
}

// putAddr adds an address. IPv6 goes without duplicate address detection: the
// subnet is leased to us alone, nobody on the overlay would answer, and the
// address could not be used until the detection ends.
func (k *Kernel) putAddr(index int, p netip.Prefix) error {
	data := addrRequest(index, p)
	if p.Addr().Is6() {
		data = append(data, uint32Attr(unix.IFA_FLAGS, unix.IFA_F_NODAD))
	}
	err := k.write(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (k *Kernel) deleteAddr(index int, p netip.Prefix) error {
	return ignoreGone(k.write(unix.RTM_DELADDR, 0, addrRequest(index, p)...))
}
