package linux

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

const (
	sizeofNfgenmsg = 4
	nftaTable      = 1 // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE
	nftaRuleChain  = 2 // NFTA_RULE_CHAIN
	nftaChainName  = 3 // NFTA_CHAIN_NAME
)

// chainChange looks at what nftables notifies.
func (m *memory) chainChange(msg syscall.NetlinkMessage) dataplane.Scope {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ports[port{unix.NETLINK_NETFILTER, msg.Header.Pid}] {
		return dataplane.Scope{}
	}
	if msg.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return m.endOfTransaction(msg.Data)
	}
	s := m.touchedChains(msg)
	m.touched.Add(s)
	s.Facts = m.guardChange(msg)
	return s
}

// endOfTransaction names the writer of all that was notified before. (Kernel
// fact: nf_tables_commit notifies objects, then the generation with the process.)
func (m *memory) endOfTransaction(b []byte) dataplane.Scope {
	s := m.touched
	m.touched = dataplane.Scope{}
	if s.All || len(b) < sizeofNfgenmsg {
		return dataplane.Scope{}
	}
	var pid uint32
	var name string
	for a := range attrs(b[sizeofNfgenmsg:]) {
		switch {
		case a.kind == unix.NFTA_GEN_PROC_PID && len(a.value) == 4:
			pid = binary.BigEndian.Uint32(a.value)
		case a.kind == unix.NFTA_GEN_PROC_NAME:
			name = a.text()
		}
	}
	if pid != 0 {
		s.Name(fmt.Sprintf("%s (pid %d)", name, pid))
	}
	return s
}

func (m *memory) touchedChains(msg syscall.NetlinkMessage) dataplane.Scope {
	if s, is := m.touchedElems(msg); is {
		return s
	}
	key, ok := chainOf(msg)
	if !ok {
		return dataplane.Scope{}
	}
	if !ourTable(key, m.domain.Tables) {
		return m.iptablesChange(key, msg)
	}
	s := dataplane.Scope{Keys: dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{}}}
	if key.Chain != "" {
		m.chains[key] = true
		s.Keys.Chains[key] = ruleset.Chain{}
		return s
	}
	for known := range m.chains {
		if known.IPv6 == key.IPv6 && known.Table == key.Table {
			s.Keys.Chains[known] = ruleset.Chain{}
		}
	}
	return s
}

// chainOf names the chain that a notification is about. Without a chain it is
// about the table, and so about all that is in it.
func chainOf(msg syscall.NetlinkMessage) (ruleset.Key, bool) {
	b := msg.Data
	if msg.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(b) < sizeofNfgenmsg ||
		b[0] != unix.NFPROTO_IPV4 && b[0] != unix.NFPROTO_IPV6 {
		return ruleset.Key{}, false
	}
	var chain uint16
	switch msg.Header.Type & 0xff {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = nftaRuleChain
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = nftaChainName
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	default:
		return ruleset.Key{}, false
	}
	key := ruleset.Key{IPv6: b[0] == unix.NFPROTO_IPV6}
	for a := range attrs(b[sizeofNfgenmsg:]) {
		switch a.kind {
		case nftaTable:
			key.Table = a.text()
		case chain:
			key.Chain = a.text()
		}
	}
	return key, key.Table != ""
}
