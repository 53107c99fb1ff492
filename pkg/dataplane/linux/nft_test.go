package linux_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func chainKey() ruleset.Key { return ruleset.Key{Table: "weft", Chain: "postrouting"} }

func chains() dataplane.State {
	cluster := ruleset.Match{Prefix: netip.MustParsePrefix("10.42.0.0/16")}
	return dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{
		chainKey(): {Type: "nat", Hook: ruleset.Postrouting, Priority: 100, Rules: []ruleset.Rule{
			{Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: "marked"},
			{Src: cluster, Dst: cluster, Verdict: ruleset.Return},
			{Src: cluster, Verdict: ruleset.MasqueradeFullyRandom},
		}},
		{Table: "weft", Chain: "forward"}: {Type: "filter", Hook: ruleset.Forward, Rules: []ruleset.Rule{
			{Src: cluster, Verdict: ruleset.Accept},
		}},
	}}
}

// Every way to change a chain shows, also one that keeps our user data.
func TestChangedChainsShow(t *testing.T) {
	drop := nftables.ChainPolicyDrop
	changes := map[string]func(*firewall){
		"a match that means something else": func(f *firewall) {
			r := f.rules(chainKey())[1]
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Cmp); ok {
					c.Op = expr.CmpOpNeq
				}
			}
			f.ReplaceRule(r)
		},
		"a mask that is left out": func(f *firewall) {
			r := f.rules(chainKey())[0]
			r.Exprs = append(r.Exprs[:1], r.Exprs[2:]...)
			f.ReplaceRule(r)
		},
		"a counter put in": func(f *firewall) {
			r := f.rules(chainKey())[2]
			r.Exprs = append([]expr.Any{&expr.Counter{}}, r.Exprs...)
			f.ReplaceRule(r)
		},
		"masquerade not random any more": func(f *firewall) {
			r := f.rules(chainKey())[2]
			r.Exprs[len(r.Exprs)-1] = &expr.Masq{}
			f.ReplaceRule(r)
		},
		"another comment": func(f *firewall) {
			r := f.rules(chainKey())[0]
			r.UserData[2]++
			f.ReplaceRule(r)
		},
		"a rule twice": func(f *firewall) {
			r := f.rules(chainKey())[1]
			r.Handle = 0
			f.AddRule(r)
		},
		"the policy": func(f *firewall) {
			f.AddChain(&nftables.Chain{Name: "forward", Table: tableOf(chainKey()), Policy: &drop})
		},
		"a chain made anew elsewhere": func(f *firewall) {
			c := &nftables.Chain{
				Name: "forward", Table: tableOf(chainKey()), Type: "filter", Hooknum: nftables.ChainHookInput,
				Priority: nftables.ChainPriorityFilter,
			}
			f.FlushChain(c)
			f.DelChain(c)
			f.AddChain(c)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.settle(chains())
			f := newFirewall(t, h.ns)
			change(f)
			f.flush()
			if p := h.plan(chains()); len(p.Ops) != 1 || p.Ops[0].Verb != dataplane.Change {
				t.Errorf("want one change, have:\n%s", p)
			}
			h.settle(chains())
		})
	}
}

// A dormant table is whole and does nothing.
func TestDormantTableShows(t *testing.T) {
	h := newHost(t)
	h.settle(chains())
	h.setTableFlags(binary.BigEndian.AppendUint32(nil, 1))
	if p := h.plan(chains()); len(p.Ops) != 2 {
		t.Errorf("want both chains written anew, have:\n%s", p)
	}
	h.settle(chains())
}

// setTableFlags writes the flags of table `ip weft` (NFTA_TABLE_FLAGS), which
// google/nftables can only read. A batch is begin, change, end.
func (h *host) setTableFlags(flags []byte) {
	h.Helper()
	c, err := mdlayher.Dial(unix.NETLINK_NETFILTER, &mdlayher.Config{NetNS: int(h.ns.Handle())})
	if err != nil {
		h.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	body, err := mdlayher.MarshalAttributes([]mdlayher.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(chainKey().Table + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: flags},
	})
	if err != nil {
		h.Fatal(err)
	}
	edge := []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	message := func(kind int, flags mdlayher.HeaderFlags, data []byte) mdlayher.Message {
		return mdlayher.Message{
			Header: mdlayher.Header{Type: mdlayher.HeaderType(kind), Flags: mdlayher.Request | flags}, Data: data,
		}
	}
	_, err = c.SendMessages([]mdlayher.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, edge),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, mdlayher.Acknowledge,
			append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, body...)),
		message(unix.NFNL_MSG_BATCH_END, 0, edge),
	})
	if err == nil {
		_, err = c.Receive()
	}
	if err != nil {
		h.Fatal(err)
	}
}
