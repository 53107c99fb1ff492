package linux

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// mute makes the kernel keep to itself what we wrote: a socket filter (classic
// BPF) drops notifications about neighbours, routes and nexthop objects that name
// one of our sockets as the writer. entryChange drops them as well, and must
// where a filter can't be had; but at a start with 10,000 peers they are 20,000
// messages, to be read one by one. Of nftables' nothing that names us passes: one
// message that the kernel sends holds many notifications, all of one transaction.
func (m *memory) mute(l *listener) {
	protocol := m.listeners[l]
	var own []uint32
	for p := range m.ports {
		if p.protocol == protocol {
			own = append(own, p.id)
		}
	}
	slices.Sort(own)
	filter := mutingAll(own)
	if protocol == unix.NETLINK_ROUTE {
		filter = muting(own, m.others())
		if m.engrossed {
			filter = slices.Concat(noForwards(), filter)
		}
	}
	_ = l.attach(filter) // what passes is sorted out here
}

// others is the filter of what others wrote. While paths to peers are followed
// any route may be on one.
func (m *memory) others() []unix.SockFilter {
	if len(m.host.asked) > 0 {
		return ourRoutes(m.protocol, nil)
	}
	return ourRoutes(m.protocol, m.domain.Networks)
}

// muted are the types of message whose writer is named whenever it is us, and
// that tell us nothing then. A link's say more than we wrote.
func muted() []uint16 {
	return []uint16{
		unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, unix.RTM_NEWROUTE, unix.RTM_DELROUTE,
		unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP,
	}
}

// Where struct nlmsghdr has its type and the port id of the writer, and the struct
// rtmsg behind it the length of its prefix.
const (
	offsetType   = 4
	offsetPort   = 12
	offsetLength = unix.SizeofNlMsghdr + 1
)

// muting is the filter: a message of ours passes unless its type is one of muted,
// and one of others' if others lets it.
//
//	load writer ─┬─ one of own → load type ─┬─ muted → drop
//	             └─ else → others           └─ else → pass
func muting(own []uint32, others []unix.SockFilter) []unix.SockFilter {
	types := muted()
	out := []unix.SockFilter{load(unix.BPF_W, offsetPort)}
	for i, id := range own {
		ours := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, id))
		out = append(out, equal(ours, len(own)-i-1+len(others)))
	}
	out = append(append(out, others...), load(unix.BPF_H, offsetType))
	for i, t := range types {
		out = append(out, equal(swapped(t), len(types)-i))
	}
	return append(out, give(everything), give(0))
}

// mutingAll lets nothing pass that we wrote.
func mutingAll(own []uint32) []unix.SockFilter {
	out := []unix.SockFilter{load(unix.BPF_W, offsetPort)}
	for i, id := range own {
		ours := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, id))
		out = append(out, equal(ours, len(own)-i))
	}
	return append(out, give(everything), give(0))
}

// engross has nothing be heard of the FDB, or all again. Its notifications don't name
// the writer: those of 10,000 peers would all have to be read.
func (m *memory) engross(now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.engrossed = now
	m.muteAll()
}

// noForwards drops what is of the FDB, and goes on with the filter behind it.
//
//	load type ─┬─ a neighbour → load family ─┬─ bridge → drop
//	           └─ else → on                  └─ else → on
func noForwards() []unix.SockFilter {
	other := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: 3}
	return []unix.SockFilter{
		load(unix.BPF_H, offsetType),
		equal(swapped(unix.RTM_NEWNEIGH), 2),
		equal(swapped(unix.RTM_DELNEIGH), 1),
		other,
		load(unix.BPF_B, offsetFamily), // struct ndmsg begins with it, as struct rtmsg
		unequal(unix.AF_BRIDGE, 1),
		give(0),
	}
}

// hostRoutes is the filter for who cares for the routes to single addresses only: of
// the routes to 10,000 peers it hears nothing.
//
//	load type ─┬─ a route → load prefix length ─┬─ 32 or 128 → pass
//	           └─ else → pass                   └─ else → drop
func hostRoutes() []unix.SockFilter {
	return []unix.SockFilter{
		load(unix.BPF_H, offsetType),
		equal(swapped(unix.RTM_NEWROUTE), 2),
		equal(swapped(unix.RTM_DELROUTE), 1),
		give(everything),
		load(unix.BPF_B, offsetLength),
		equal(32, 2),
		equal(128, 1),
		give(0),
		give(everything),
	}
}

const everything = 1<<32 - 1 // bytes of a message, however long

func load(size, at int) unix.SockFilter {
	return unix.SockFilter{Code: uint16(unix.BPF_LD | size | unix.BPF_ABS), K: uint32(at)}
}

// equal skips some instructions if the loaded value is k.
func equal(k uint32, skip int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(skip), K: k}
}

// give ends the filter: so many bytes of the message pass.
func give(bytes uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: bytes}
}

// swapped is a number of the host's byte order as a filter loads it.
func swapped(n uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)))
}

// attach replaces the filter of the socket.
func (l *listener) attach(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var inner error
	if err := l.raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("attach a filter to a netlink socket: %w", inner)
	}
	return nil
}

// hear begins to mute a listener, until deaf. What it may not hear changes with
// our sockets.
func (m *memory) hear(l *listener, protocol int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners[l] = protocol
	m.mute(l)
}

func (m *memory) deaf(l *listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.listeners, l)
}

// muteAll needs m.mu.
func (m *memory) muteAll() {
	for l := range m.listeners {
		m.mute(l)
	}
}
