package linux

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// marking sums up what dumps gave: the hashes of the messages, whatever their
// order, so that two looks at the kernel compare without either being kept. The
// seed is this process's own: nobody can make entries that it takes for others.
type marking struct {
	seed  maphash.Seed
	on    bool // dumps count
	only  bool // and give nothing else
	sum   uint64
	bytes []byte // of one message, without what changes by itself
}

func newMarking() marking { return marking{seed: maphash.MakeSeed()} }

// begin counts anew.
func (m *marking) begin(only bool) { m.on, m.only, m.sum = true, only, 0 }

// end gives the mark of all dumps since begin.
func (m *marking) end() uint64 {
	m.on, m.only = false, false
	return max(m.sum, 1) // 0 is none
}

// add counts a message that somebody wants. What is in it and does not matter
// makes marks differ, no more: then all is read.
func (m *marking) add(typ int, message []byte) {
	if !m.on {
		return
	}
	header := headerSize(typ)
	if len(message) < header {
		return
	}
	m.bytes = append(binary.NativeEndian.AppendUint16(m.bytes[:0], uint16(typ)), message[:header]...)
	for a := range attrs(message[header:]) {
		if !passing(typ, a.kind) {
			m.bytes = binary.NativeEndian.AppendUint32(m.bytes, uint32(a.kind)<<16|uint32(uint16(len(a.value))))
			m.bytes = append(m.bytes, a.value...)
		}
	}
	m.sum += maphash.Bytes(m.seed, m.bytes)
}

// addElem counts an element of a set.
func (m *marking) addElem(el ruleset.Elem) {
	if !m.on {
		return
	}
	a, b := el.VTEP.As16(), el.Inner.As16()
	m.bytes = append(append(append(m.bytes[:0], byte(el.Set.Bits)), a[:]...), b[:]...)
	m.bytes = append(m.bytes, el.Set.Table...)
	m.sum += maphash.Bytes(m.seed, m.bytes)
}

func headerSize(typ int) int {
	switch typ {
	case unix.RTM_GETNEIGH:
		return unix.SizeofNdMsg
	case unix.RTM_GETROUTE:
		return unix.SizeofRtMsg
	default:
		return sizeofNhmsg
	}
}

// passing tells attributes that change while nobody writes: ages and uses.
func passing(typ int, kind uint16) bool {
	switch typ {
	case unix.RTM_GETNEIGH:
		return kind == netlink.NDA_CACHEINFO || kind == netlink.NDA_PROBES
	case unix.RTM_GETROUTE:
		return kind == unix.RTA_CACHEINFO
	}
	return false
}
