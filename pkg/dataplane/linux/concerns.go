package linux

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// This file decides which notification concerns us, and what it makes dirty.
// The zero Scope means: not our matter, or our own doing.

func (m *memory) routeChange(msg syscall.NetlinkMessage) dataplane.Scope {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := m.ports[port{unix.NETLINK_ROUTE, msg.Header.Pid}]
	s := m.entryChange(msg, own)
	if !own && s.Keys.Len() > 0 {
		m.nameByPort(&s, msg.Header.Pid)
	}
	s.Facts = m.hostChange(msg, own)
	return s
}

func (m *memory) entryChange(msg syscall.NetlinkMessage, own bool) dataplane.Scope {
	switch msg.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return m.linkChange(msg.Data, msg.Header.Type == unix.RTM_DELLINK, own)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if own {
			return dataplane.Scope{}
		}
		return m.addrChange(msg.Data, msg.Header.Type == unix.RTM_DELADDR)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if own {
			return dataplane.Scope{}
		}
		return m.neighChange(msg.Data, msg.Header.Type == unix.RTM_DELNEIGH)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if own {
			return dataplane.Scope{}
		}
		return m.tableChange(msg.Data)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		if own {
			return dataplane.Scope{}
		}
		return m.nexthopChange(msg.Data)
	case unix.RTM_NEWNETCONF:
		return m.confChange(msg.Data)
	}
	return dataplane.Scope{}
}

func linkScope(names ...string) dataplane.Scope {
	s := dataplane.Scope{Keys: dataplane.State{Links: map[string]dataplane.Link{}}}
	for _, name := range names {
		s.Keys.Links[name] = dataplane.Link{}
	}
	return s
}

func (m *memory) linkChange(b []byte, deleted, own bool) dataplane.Scope {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return dataplane.Scope{} // AF_BRIDGE: about a bridge port, not about the link
	}
	index := int(int32(binary.NativeEndian.Uint32(b[4:])))
	if m.leaving[index] {
		if deleted {
			delete(m.leaving, index)
		}
		return dataplane.Scope{}
	}
	_, ours := m.devices[index]
	parent, isParent := m.under[index]
	if !ours && !isParent && !m.mayBeOurs(b) {
		return dataplane.Scope{}
	}
	l, ok := parseLink(b)
	if !ok {
		return dataplane.Scope{}
	}
	var s dataplane.Scope
	switch {
	case isParent:
		return m.parentChange(parent, l, deleted)
	case deleted:
		s = m.linkGone(l)
	default:
		s = m.linkHere(l)
	}
	if own {
		return dataplane.Scope{}
	}
	return s
}

// linkGone also sees a foreign device give a name of ours free.
func (m *memory) linkGone(l link) dataplane.Scope {
	name, ours := m.devices[l.index]
	if !ours {
		name = l.name
	}
	delete(m.devices, l.index)
	delete(m.links, name)
	if _, wanted := m.domain.Links[name]; !ours && !wanted {
		return dataplane.Scope{}
	}
	return linkScope(name)
}

// linkHere compares our device with what it was when we last wrote or read it.
// Notifications of links name no writer before Linux 6.2, and not always since.
func (m *memory) linkHere(l link) dataplane.Scope {
	name, ours := m.devices[l.index]
	if !ours {
		name, ours = m.adopt(l)
	}
	if !ours {
		_, wanted := m.domain.Links[l.name]
		switch {
		case wanted: // a foreign device takes our name
			return linkScope(l.name)
		case m.isUnderlay(l.name): // it is back
			return linkScope(append(slices.Collect(maps.Keys(m.domain.Links)), l.name)...)
		}
		return dataplane.Scope{}
	}
	v := l.value(m.under[l.vxlan.parentOrNone()].name)
	if l.name != name {
		v.Actual = l.name
	}
	expected := m.links[name]
	v.TXChecksum = expected.TXChecksum // no notification tells it
	if l.features {
		return linkScope(name)
	}
	if v == expected {
		delete(m.births, name)
		return dataplane.Scope{}
	}
	if v.Up = expected.Up; v == expected && m.births[name] {
		return dataplane.Scope{}
	}
	v.Up = l.up
	m.links[name] = v
	return linkScope(name)
}

// isUnderlay tells whether devices or routes of ours want to be on the
// interface.
func (m *memory) isUnderlay(name string) bool { return m.parents[name] || m.domain.Uplink == name }

func (v *vxlan) parentOrNone() int {
	if v == nil {
		return 0
	}
	return v.parent
}

// mayBeOurs looks at name and kind only: interfaces come and go with pods.
func (m *memory) mayBeOurs(b []byte) bool {
	for a := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch a.kind {
		case unix.IFLA_IFNAME:
			name := a.text()
			if _, wanted := m.domain.Links[name]; wanted || m.isUnderlay(name) {
				return true
			}
		case unix.IFLA_LINKINFO:
			for info := range attrs(a.value) {
				if info.kind == unix.IFLA_INFO_KIND && info.text() == kindVXLAN {
					return true
				}
			}
		}
	}
	return false
}

// adopt recognises a new device by its identity.
func (m *memory) adopt(l link) (string, bool) {
	taken := slices.Collect(maps.Values(m.devices))
	for wanted, identity := range m.domain.Links {
		if !slices.Contains(taken, wanted) && l.is(identity) {
			m.devices[l.index] = wanted
			return wanted, true
		}
	}
	return "", false
}

// parentChange makes the underlay interface dirty, which direct routes lead
// through, and the devices on it.
func (m *memory) parentChange(was underlay, l link, deleted bool) dataplane.Scope {
	if deleted {
		delete(m.under, l.index)
		return linkScope(m.above(was.name)...)
	}
	now := m.underlayOf(l)
	m.under[l.index] = now
	if now.name == was.name && now.mtu == was.mtu && now.mac == was.mac && now.up == was.up {
		return dataplane.Scope{} // its carrier comes and goes: nothing of ours does with it
	}
	return linkScope(m.above(was.name)...)
}

func (m *memory) above(parent string) []string {
	names := []string{parent}
	for name, l := range m.links {
		if l.Parent == parent {
			names = append(names, name)
		}
	}
	return names
}

// addrChange: the last IPv4 address of a device takes its routes and
// neighbours along without a word, so a deletion makes the whole link dirty.
func (m *memory) addrChange(b []byte, deleted bool) dataplane.Scope {
	if len(b) < unix.SizeofIfAddrmsg {
		return dataplane.Scope{}
	}
	index := int(binary.NativeEndian.Uint32(b[4:]))
	name, ours := m.devices[index]
	parent, isParent := m.under[index]
	if !ours && !isParent {
		return dataplane.Scope{}
	}
	a, ok := parseAddress(b)
	switch {
	case !ok || a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast():
		return dataplane.Scope{}
	case isParent:
		now := a.flags & lastingFlags
		if was, known := parent.addrs[a.prefix]; !deleted && known && was == now {
			return dataplane.Scope{}
		}
		if parent.addrs[a.prefix] = now; deleted {
			delete(parent.addrs, a.prefix)
		}
		return linkScope(m.above(parent.name)...)
	case deleted && a.prefix.Addr().Is4():
		return linkScope(name)
	case !owned(a.prefix, m.domain.Networks):
		return dataplane.Scope{}
	}
	key := dataplane.AddrKey{Link: name, Prefix: a.prefix}
	return dataplane.Scope{Keys: dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{key: {}}}}
}

func (m *memory) neighChange(b []byte, deleted bool) dataplane.Scope {
	if len(b) < 12 {
		return dataplane.Scope{}
	}
	name, ours := m.devices[int(binary.NativeEndian.Uint32(b[4:]))]
	if !ours {
		return dataplane.Scope{}
	}
	n, ok := parseNeighbour(b)
	// What is not permanent now may have been: only what can't be is left out.
	n.state |= netlink.NUD_PERMANENT
	if !ok || !n.permanent() {
		return dataplane.Scope{}
	}
	if n.family != unix.AF_BRIDGE {
		key := dataplane.NeighKey{Link: name, IP: n.ip}
		return dataplane.Scope{Keys: dataplane.State{Neighs: map[dataplane.NeighKey]mac.Addr{key: {}}}}
	}
	written := forwardKey{n.index, n.mac}
	if vtep, waiting := m.written[written]; waiting && vtep.IsValid() != deleted && (deleted || vtep == n.ip && !n.odd) {
		delete(m.written, written)
		return dataplane.Scope{}
	}
	key := dataplane.FDBKey{Link: name, MAC: n.mac}
	return dataplane.Scope{Keys: dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{key: {}}}}
}

// tableChange: a route concerns us if we want its key, whoever stands there (the
// kernel does, for a bridge with an address of a peer's subnet), or if it is one
// that an Observe would call ours. Others' routes, pods' among them, are not
// looked at further.
func (m *memory) tableChange(b []byte) dataplane.Scope {
	r, ok := parseRoute(b)
	if !ok {
		return dataplane.Scope{}
	}
	_, ours := m.devices[r.index]
	marked := r.protocol == m.protocol && (ours || within(r.key.Prefix, m.domain.Networks))
	unmarked := r.protocol == unix.RTPROT_BOOT && ours
	if _, known := m.routes[r.key]; !known && !marked && !unmarked {
		return dataplane.Scope{}
	}
	return dataplane.Scope{Keys: dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{r.key: {}}}}
}

const (
	netconfIndex      = 1  // NETCONFA_IFINDEX
	netconfForwarding = 2  // NETCONFA_FORWARDING
	netconfAll        = -1 // NETCONFA_IFINDEX_ALL
	sizeofNetconfmsg  = 1
)

// confChange: forwarding is the only sysctl of ours that the kernel notifies.
func (m *memory) confChange(b []byte) dataplane.Scope {
	if len(b) < sizeofNetconfmsg {
		return dataplane.Scope{}
	}
	name := ipForward
	if b[0] == unix.AF_INET6 {
		name = ip6Forward
	}
	index, value := 0, ""
	for a := range attrs(b[min(len(b), 4):]) {
		switch a.kind {
		case netconfIndex:
			index = int(int32(a.uint32()))
		case netconfForwarding:
			value = strconv.Itoa(int(int32(a.uint32())))
		}
	}
	known, asked := m.sysctls[name]
	if index != netconfAll || value == "" || !asked || value == known {
		return dataplane.Scope{}
	}
	m.sysctls[name] = value
	return dataplane.Scope{Keys: dataplane.State{Sysctls: map[string]string{name: ""}}}
}
