package linux

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file decides which notification says that Facts are stale. Pods come and
// go all the time, with links that have no address but the cluster's, and
// routes to these: none of it counts.

// host is what the last Facts told, as far as a change of it matters, brought
// up to date by notifications.
type host struct {
	links map[int]presence
	asked []netip.Addr // peers, sorted
}

// presence is what matters about an interface that has an address.
type presence struct {
	name  string
	mtu   int
	up    bool
	addrs map[netip.Prefix]uint32 // lasting flags
}

func noHost() host { return host{links: map[int]presence{}} }

func presenceOf(l link) presence {
	return presence{name: l.name, mtu: l.mtu, up: l.up, addrs: map[netip.Prefix]uint32{}}
}

// asks notes whose paths Facts is about to read: what changes from now on is
// notified.
func (m *memory) asks(peers []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	followed := len(m.host.asked) > 0
	m.host.asked = slices.Clone(peers)
	slices.SortFunc(m.host.asked, netip.Addr.Compare)
	if followed != (len(peers) > 0) {
		m.muteAll()
	}
}

// asksToo adds peers.
func (m *memory) asksToo(more []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	followed := len(m.host.asked) > 0
	for _, peer := range more {
		if at, known := slices.BinarySearchFunc(m.host.asked, peer, netip.Addr.Compare); !known {
			m.host.asked = slices.Insert(m.host.asked, at, peer)
		}
	}
	if !followed && len(m.host.asked) > 0 {
		m.muteAll()
	}
}

// told notes what Facts gives.
func (m *memory) told(links []link, addrs []address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.host.links = noHost().links
	for _, l := range links {
		m.host.links[l.index] = presenceOf(l)
	}
	for _, a := range addrs {
		if p, ok := m.host.links[a.index]; ok && m.counts(a.prefix) {
			p.addrs[a.prefix] = a.flags & lastingFlags
		}
	}
	for index, p := range m.host.links {
		if len(p.addrs) == 0 {
			delete(m.host.links, index)
		}
	}
}

// counts tells whether peers or an operator could mean the address.
func (m *memory) counts(p netip.Prefix) bool {
	a := p.Addr()
	return a.IsGlobalUnicast() && !within(netip.PrefixFrom(a, a.BitLen()), m.domain.Networks)
}

func (m *memory) hostChange(msg syscall.NetlinkMessage, own bool) bool {
	if own {
		return false
	}
	switch msg.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return m.hostLinkChange(msg.Data, msg.Header.Type == unix.RTM_DELLINK)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return m.hostAddrChange(msg.Data, msg.Header.Type == unix.RTM_DELADDR)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return m.hostRouteChange(msg.Data)
	}
	return false
}

// hostLinkChange looks at interfaces with addresses. Whether one has a carrier
// and what its MAC is makes no difference to what Facts are for.
func (m *memory) hostLinkChange(b []byte, deleted bool) bool {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return false
	}
	index := int(int32(binary.NativeEndian.Uint32(b[4:])))
	was, known := m.host.links[index]
	if !known {
		return false
	}
	if deleted {
		delete(m.host.links, index)
		return true
	}
	l, ok := parseLink(b)
	if !ok || was.name == l.name && was.mtu == l.mtu && was.up == l.up {
		return false
	}
	now := presenceOf(l)
	now.addrs = was.addrs
	m.host.links[index] = now
	return true
}

// hostAddrChange does not know the name and MTU of an interface that gets its
// first address: nobody has to, until the next Facts tell.
func (m *memory) hostAddrChange(b []byte, deleted bool) bool {
	a, ok := parseAddress(b)
	if _, ours := m.devices[a.index]; !ok || ours || !m.counts(a.prefix) {
		return false
	}
	p, known := m.host.links[a.index]
	if !known {
		p = presence{addrs: map[netip.Prefix]uint32{}}
	}
	now := a.flags & lastingFlags
	was, had := p.addrs[a.prefix]
	if p.addrs[a.prefix] = now; deleted {
		delete(p.addrs, a.prefix)
	}
	if m.host.links[a.index] = p; len(p.addrs) == 0 {
		delete(m.host.links, a.index)
	}
	return had == deleted || had && was != now
}

// hostRouteChange looks at default routes and at those that lead to an address
// that was asked for. Other tables may be as large as the Internet's.
func (m *memory) hostRouteChange(b []byte) bool {
	r, ok := parseRoute(b)
	if !ok || r.key.Table != 0 {
		return false
	}
	p := r.key.Prefix
	if p.Bits() == 0 {
		return true
	}
	at, _ := slices.BinarySearchFunc(m.host.asked, p.Addr(), netip.Addr.Compare)
	return at < len(m.host.asked) && p.Contains(m.host.asked[at])
}
