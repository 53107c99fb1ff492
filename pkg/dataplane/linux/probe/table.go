package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table belongs to our socket: the kernel removes it when the socket is closed.
type table struct {
	name  string
	conn  *nftables.Conn
	table *nftables.Table
	spots []spot
	hits  []*nftables.Chain // that count, one per spot
}

// watchTable makes the table. Another family's VXLAN packets are not seen.
func watchTable(ipv6 bool) (*table, error) {
	var raw *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w; run it as root", err)
	}
	t := &table{name: fmt.Sprintf("weft-trace-%08x", rand.Uint32()), conn: conn}
	t.table = &nftables.Table{Name: t.name, Family: nftables.TableFamilyIPv4}
	if ipv6 {
		t.table.Family = nftables.TableFamilyIPv6
	}
	if err := own(raw, t.table); err != nil {
		t.close()
		return nil, fmt.Errorf("make the table that watches: %w", err)
	}
	return t, nil
}

func (t *table) close() { _ = t.conn.CloseLasting() }

// own sends what nft does for `add table … { flags owner; }`, which the library
// can't say. It must be the socket that writes the table later.
func own(c *netlink.Conn, t *nftables.Table) error {
	const owner = 2 // NFT_TABLE_F_OWNER (linux/netfilter/nf_tables.h)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, owner}},
	})
	if err != nil {
		return err
	}
	control := func(typ uint16) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
			Data:   []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, // struct nfgenmsg
		}
	}
	_, err = c.SendMessages([]netlink.Message{
		control(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
		},
		control(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = c.Receive()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errNoOwner, err)
	}
	return err
}

// place puts the counters.
func (t *table) place(spots []spot) error {
	t.spots = spots
	accept := nftables.ChainPolicyAccept
	for i, s := range t.spots {
		h := s.hook
		chain := t.conn.AddChain(&nftables.Chain{
			Name: fmt.Sprintf("spot%d", i), Table: t.table, Type: nftables.ChainTypeFilter, Policy: &accept,
			Hooknum: &h, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(s.priority)),
		})
		// The counter stands in a chain of its own: the library can't read back
		// all that the rules before it say.
		hits := t.conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("hits%d", i), Table: t.table})
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: hits, Exprs: []expr.Any{&expr.Counter{}}})
		jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: hits.Name}
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: append(s.exprs, jump)})
		t.hits = append(t.hits, hits)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("put the counters: %w", err)
	}
	return nil
}

// read gives the counters.
func (t *table) read() ([]Sight, error) {
	var out []Sight
	for i, s := range t.spots {
		rules, err := t.conn.GetRules(t.table, t.hits[i])
		if err != nil {
			return out, fmt.Errorf("read the counters: %w", err)
		}
		sight := Sight{Place: s.place}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					sight.Packets += c.Packets
				}
			}
		}
		out = append(out, sight)
	}
	return out, nil
}
