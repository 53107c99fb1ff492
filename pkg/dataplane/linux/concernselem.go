package linux

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// wroteElems notes that there are elements of ours.
func (m *memory) wroteElems() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.elems = true
}

// touchedElems looks at what nftables notifies of sets; is tells whether it was about
// any. A set or a table that goes takes its elements along, of which not each is told
// of, and which they were only a look at everything can tell.
func (m *memory) touchedElems(msg syscall.NetlinkMessage) (s dataplane.Scope, is bool) {
	b := msg.Data
	if msg.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(b) < sizeofNfgenmsg ||
		b[0] != unix.NFPROTO_IPV4 && b[0] != unix.NFPROTO_IPV6 {
		return s, false
	}
	switch msg.Header.Type & 0xff {
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		elems := map[ruleset.Elem]struct{}{}
		table := parseElems(b, func(el ruleset.Elem) { elems[el] = struct{}{} })
		if slices.Contains(m.domain.Tables, table) {
			s.Keys.Elems = elems
		}
		return s, true
	case unix.NFT_MSG_DELSET:
		set, ours := parseSet(b)
		s.All = ours && m.elems && slices.Contains(m.domain.Tables, set.Table)
		return s, true
	case unix.NFT_MSG_NEWSET:
		return s, true
	case unix.NFT_MSG_DELTABLE:
		key, _ := chainOf(msg)
		s.All = m.elems && slices.Contains(m.domain.Tables, key.Table)
		return s, s.All
	}
	return s, false
}
