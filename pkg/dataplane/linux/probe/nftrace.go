package probe

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tracing is what the kernel tells of a packet that a rule marked (nftrace).
type tracing struct {
	conn  *netlink.Conn
	table string
}

func listenTrace(table string) (*tracing, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen to nftrace: %w", err)
	}
	return &tracing{conn, table}, nil
}

func (t *tracing) close() { _ = t.conn.Close() }

// step is one message: a rule or a policy decided.
type step struct {
	table, chain string
	handle       uint64
	id, verdict  uint32
	policy       bool
}

const (
	nfgen = 4 // struct nfgenmsg

	verdictDrop = 0 // NF_DROP
	none        = ^uint32(0)
)

// dropped reads what was told, without waiting, and names the rule that dropped
// the packet, if one did.
func (t *tracing) dropped() string {
	ours := map[uint32]bool{} // ids of packets that our rule marked
	found := ""
	for {
		if err := t.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return found
		}
		messages, err := t.conn.Receive()
		if err != nil {
			return found
		}
		for _, m := range messages {
			s := parseStep(m)
			if s.table == t.table {
				ours[s.id] = true
			}
			if s.verdict == verdictDrop && ours[s.id] {
				found = fmt.Sprintf("the policy of chain %s %s", s.table, s.chain)
				if !s.policy {
					found = fmt.Sprintf("the rule with handle %d of chain %s %s (nft -a list chain)", s.handle, s.table, s.chain)
				}
			}
		}
	}
}

func parseStep(m netlink.Message) step {
	s := step{verdict: none}
	if len(m.Data) < nfgen {
		return s
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgen:])
	if err != nil {
		return s
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TRACE_TABLE:
			s.table = ad.String()
		case unix.NFTA_TRACE_CHAIN:
			s.chain = ad.String()
		case unix.NFTA_TRACE_RULE_HANDLE:
			s.handle = ad.Uint64()
		case unix.NFTA_TRACE_ID:
			s.id = ad.Uint32()
		case unix.NFTA_TRACE_POLICY:
			s.policy, s.verdict = true, ad.Uint32()
		case unix.NFTA_TRACE_VERDICT:
			ad.Nested(func(v *netlink.AttributeDecoder) error {
				for v.Next() {
					if v.Type() == unix.NFTA_VERDICT_CODE {
						s.verdict = v.Uint32()
					}
				}
				return nil
			})
		}
	}
	return s
}
