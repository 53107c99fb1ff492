package linux

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// The messages about nftables' sets. google/nftables v0.3.0 makes a list of elements
// of any length, and what is beyond 64 KiB of it is cut off without an error; it also
// allocates for each element a dozen times, and there are two for each peer.

// maxElems is how many elements are written in one message: an attribute has 64 KiB,
// an element up to 44 bytes.
const maxElems = 1000

// Where an answer or a notification says things, in a message about a set and in one
// about elements of it.
const (
	setTable = unix.NFTA_SET_TABLE
	setName  = unix.NFTA_SET_NAME
)

// nftMessage is the type of an nftables message of nfnetlink.
func nftMessage(kind int) int { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// beginNft begins a message about objects of a family (struct nfgenmsg).
func (e *encoder) beginNft(kind, flags int, ipv6 bool) {
	family := byte(unix.NFPROTO_IPV4)
	if ipv6 {
		family = unix.NFPROTO_IPV6
	}
	e.begin(nftMessage(kind), flags)
	e.bytes(family, unix.NFNETLINK_V0, 0, 0)
}

// edge begins or ends a transaction.
func (e *encoder) edge(typ int) {
	e.begin(typ, 0)
	e.bytes(unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES)
	e.end()
}

func (e *encoder) textAttr(kind int, s string) { e.attr(kind, append([]byte(s), 0)) }

func (e *encoder) bigAttr(kind int, v uint32) { e.attr(kind, binary.BigEndian.AppendUint32(nil, v)) }

func (e *encoder) table(kind, flags int, s ruleset.Set) {
	e.beginNft(kind, flags, s.IPv6)
	e.textAttr(unix.NFTA_TABLE_NAME, s.Table)
	e.end()
}

// nft's numbers of types, by which it prints keys (ipv4_addr is 7, ipv6_addr 8), and
// the lengths of the pairs.
func pairType(ipv6 bool) (magic, size uint32) {
	if ipv6 {
		return 8<<6 | 8, 32
	}
	return 7<<6 | 7, 8
}

func (e *encoder) set(s ruleset.Set) {
	magic, size := pairType(s.IPv6)
	e.beginNft(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.IPv6)
	e.textAttr(setTable, s.Table)
	e.textAttr(setName, s.Name())
	e.bigAttr(unix.NFTA_SET_FLAGS, 0)
	e.bigAttr(unix.NFTA_SET_KEY_TYPE, magic)
	e.bigAttr(unix.NFTA_SET_KEY_LEN, size)
	e.bigAttr(unix.NFTA_SET_ID, uint32(len(e.types)))
	e.end()
}

func (e *encoder) deleteSet(s ruleset.Set) {
	e.beginNft(unix.NFT_MSG_DELSET, unix.NLM_F_NONREC, s.IPv6)
	e.textAttr(setTable, s.Table)
	e.textAttr(setName, s.Name())
	e.end()
}

// elements are of one set, and at most maxElems.
func (e *encoder) elements(kind, flags int, of []ruleset.Elem) {
	s := of[0].Set
	e.beginNft(kind, flags, s.IPv6)
	e.textAttr(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table)
	e.textAttr(unix.NFTA_SET_ELEM_LIST_SET, s.Name())
	list := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	var b [32]byte
	for _, el := range of {
		one, key := e.nest(unix.NFTA_LIST_ELEM), e.nest(unix.NFTA_SET_ELEM_KEY)
		pair := append(append(b[:0], el.VTEP.AsSlice()...), el.Inner.AsSlice()...)
		e.attr(unix.NFTA_DATA_VALUE, pair)
		e.unnest(key)
		e.unnest(one)
	}
	e.unnest(list)
	e.end()
}

// setOf reads the name of a set of ours.
func setOf(ipv6 bool, table, name string) (ruleset.Set, bool) {
	s := ruleset.Set{IPv6: ipv6, Bits: ruleset.Whole(ipv6), Table: table}
	if name == s.Name() {
		return s, true
	}
	number, ok := strings.CutPrefix(name, "inner")
	bits, err := strconv.Atoi(number)
	if s.Bits = bits; !ok || err != nil || name != s.Name() {
		return ruleset.Set{}, false
	}
	return s, true
}

// parseSet reads a set as the kernel lists it; ok is false for one that is not as
// we make them.
func parseSet(b []byte) (s ruleset.Set, ok bool) {
	if len(b) < sizeofNfgenmsg {
		return s, false
	}
	var table, name string
	var size uint32
	for a := range attrs(b[sizeofNfgenmsg:]) {
		switch a.kind {
		case setTable:
			table = a.text()
		case setName:
			name = a.text()
		case unix.NFTA_SET_KEY_LEN:
			size = a.big()
		case unix.NFTA_SET_DATA_TYPE:
			return s, false // a map
		}
	}
	s, ok = setOf(b[0] == unix.NFPROTO_IPV6, table, name)
	_, want := pairType(s.IPv6)
	return s, ok && size == want
}

func (a attr) big() uint32 {
	if len(a.value) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

// parseElems reads elements of one set, which is in a table of the name.
func parseElems(b []byte, visit func(ruleset.Elem)) (table string) {
	if len(b) < sizeofNfgenmsg {
		return ""
	}
	var name string
	ipv6 := b[0] == unix.NFPROTO_IPV6
	var list []byte
	for a := range attrs(b[sizeofNfgenmsg:]) {
		switch a.kind {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = a.text()
		case unix.NFTA_SET_ELEM_LIST_SET:
			name = a.text()
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			list = a.value
		}
	}
	s, ok := setOf(ipv6, table, name)
	if !ok {
		return table
	}
	for one := range attrs(list) {
		for a := range attrs(one.value) {
			if a.kind != unix.NFTA_SET_ELEM_KEY {
				continue
			}
			for data := range attrs(a.value) {
				half := len(data.value) / 2
				first, ok1 := netip.AddrFromSlice(data.value[:half])
				second, ok2 := netip.AddrFromSlice(data.value[half:])
				if data.kind == unix.NFTA_DATA_VALUE && ok1 && ok2 && first.Is6() == ipv6 {
					visit(ruleset.Elem{Set: s, VTEP: first, Inner: second})
				}
			}
		}
	}
	return table
}
