package linux

import (
	"context"
	"encoding/binary"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// defaultResync is flannel's.
const defaultResync = 5 * time.Second

func (m *memory) knowDrops(forward []ruleset.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drops = forward
}

// iptablesChange is about a table that iptables-nft may have made. Its programs
// write with sockets of their own, so that our own writing can't be told from
// that of others: it costs one look.
func (m *memory) iptablesChange(key ruleset.Key, msg syscall.NetlinkMessage) dataplane.Scope {
	if m.turned(key, msg) {
		return dataplane.Scope{All: true} // another engine may be the right one now
	}
	keys := map[ruleset.Key]ruleset.Chain{}
	for _, owned := range slices.Concat(m.domain.Chains, m.domain.Leftovers) {
		if owned.Engine != ruleset.IPTablesNFT || owned.IPv6 != key.IPv6 || owned.Table != key.Table {
			continue
		}
		around := key.Chain == "" || slices.Contains(builtIns(), key.Chain) // its table, or where it is jumped to from
		if key.Chain == owned.Chain || around && m.chains[owned] {
			m.chains[owned] = true
			keys[owned] = ruleset.Chain{}
		}
	}
	return dataplane.Scope{Keys: dataplane.State{Chains: keys}}
}

// turned tells whether a FORWARD chain begins or ceases to drop by its policy.
func (m *memory) turned(key ruleset.Key, msg syscall.NetlinkMessage) bool {
	if key.Table != "filter" || key.Chain != builtIn(ruleset.Forward) || msg.Header.Type&0xff != unix.NFT_MSG_NEWCHAIN {
		return false
	}
	for a := range attrs(msg.Data[sizeofNfgenmsg:]) {
		if a.kind == unix.NFTA_CHAIN_POLICY && len(a.value) == 4 {
			drops := nftables.ChainPolicy(binary.BigEndian.Uint32(a.value)) == nftables.ChainPolicyDrop
			return drops != slices.Contains(m.drops, inIPTables(key))
		}
	}
	return false
}

// legacyChains are those that we want or have seen in legacy tables.
func (m *memory) legacyChains() []ruleset.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []ruleset.Key
	for key := range m.chains {
		if key.Engine == ruleset.IPTablesLegacy {
			keys = append(keys, key)
		}
	}
	return keys
}

// guardsTurned tells whether chains of iptables-legacy that Facts.Stateful was made
// of are others now.
func (k *Kernel) guardsTurned() bool {
	now, err := k.legacyStateful()
	k.memory.mu.Lock()
	defer k.memory.mu.Unlock()
	return err == nil && k.memory.guards != nil && !slices.Equal(now, k.memory.legacyGuards)
}

// watchLegacy looks whether tables of iptables-legacy change. It runs no
// program; the first look counts as a change.
func (k *Kernel) watchLegacy(ctx context.Context, p *pending) error {
	tick := time.NewTicker(k.resync)
	defer tick.Stop()
	var seen map[ruleset.Key]uint64 // by table
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := map[ruleset.Key]uint64{}
		changed := map[ruleset.Key]ruleset.Chain{}
		for _, key := range k.memory.legacyChains() {
			t, _, err := k.legacy(key.IPv6, key.Table)
			table := ruleset.Key{IPv6: key.IPv6, Table: key.Table}
			now[table] = t.digest
			if was, known := seen[table]; err != nil || !known || was != t.digest {
				changed[key] = ruleset.Chain{}
			}
		}
		seen = now
		p.add(dataplane.Scope{Keys: dataplane.State{Chains: changed}, Facts: k.guardsTurned()})
	}
}
