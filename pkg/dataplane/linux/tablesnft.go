package linux

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

// spaceFirewall reads nf_tables whole, and iptables-legacy.
func (k *Kernel) spaceFirewall(ctx context.Context, s *tables.Space) {
	r := &rulesReader{
		space: s, names: map[int]string{}, opaque: map[ruleID][]string{},
		out: firewall.Ruleset{Sets: map[firewall.SetKey]firewall.Set{}},
	}
	for _, l := range s.Links {
		r.names[l.Index] = l.Name
	}
	err := k.nftDo(func(c *nftConn) error { return r.read(k, c) })
	if err != nil && !lacking(err) {
		s.Unread = append(s.Unread, fmt.Sprintf("firewall: %v", err))
	}
	s.Firewall = r.out
	k.spaceLegacy(ctx, s)
}

// ruleID is a rule's place in the kernel.
type ruleID struct {
	family nftables.TableFamily
	table  string
	handle uint64
}

// rulesReader translates what google/nftables reads.
type rulesReader struct {
	space  *tables.Space
	names  map[int]string      // of links, for rules that name them by index
	opaque map[ruleID][]string // expressions that the library passes over in silence
	out    firewall.Ruleset
}

func (r *rulesReader) read(k *Kernel, c *nftConn) error {
	if err := r.findOpaque(k); err != nil {
		return err
	}
	all, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range all {
		if familyName(t.Family) == "" || t.Flags&dormant != 0 {
			continue
		}
		r.readSets(c, t)
	}
	for _, f := range []nftables.TableFamily{
		nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet,
	} {
		chains, err := c.ListChainsOfTableFamily(f)
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		for _, chain := range chains {
			asleep := slices.ContainsFunc(all, func(t *nftables.Table) bool {
				return t.Flags&dormant != 0 && t.Name == chain.Table.Name && t.Family == f
			})
			if !asleep {
				r.readChain(c, chain)
			}
		}
	}
	return nil
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return ""
}

func (r *rulesReader) unread(format string, args ...any) {
	r.space.Unread = append(r.space.Unread, fmt.Sprintf(format, args...))
}

func (r *rulesReader) readChain(c *nftConn, chain *nftables.Chain) {
	out := firewall.Chain{
		Family: familyName(chain.Table.Family), Table: chain.Table.Name, Name: chain.Name, Type: string(chain.Type),
		Drops: chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop,
	}
	if chain.Hooknum != nil && chain.Priority != nil {
		out.Hook, out.Priority = spaceHook(*chain.Hooknum), int(*chain.Priority)
	}
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		r.unread("nftables chain %s: %v", out, err)
		out.Rules = []firewall.Rule{{
			Unread: []string{"the whole chain"}, Acts: []firewall.Act{{Kind: firewall.Drop}},
		}}
	}
	for _, rule := range rules {
		out.Rules = append(out.Rules, r.rule(chain.Table, rule))
	}
	r.out.Chains = append(r.out.Chains, out)
}

func spaceHook(h nftables.ChainHook) firewall.Hook {
	switch h {
	case unix.NF_INET_PRE_ROUTING:
		return firewall.Prerouting
	case unix.NF_INET_LOCAL_IN:
		return firewall.Input
	case unix.NF_INET_FORWARD:
		return firewall.Forward
	case unix.NF_INET_LOCAL_OUT:
		return firewall.Output
	case unix.NF_INET_POST_ROUTING:
		return firewall.Postrouting
	}
	return firewall.Hook(fmt.Sprintf("hook %d", h))
}

func (r *rulesReader) readSets(c *nftConn, t *nftables.Table) {
	sets, err := c.GetSets(t)
	if err != nil {
		r.unread("sets of nftables table %s: %v", t.Name, err)
		return
	}
	for _, set := range sets {
		set.Table = t
		elems, err := c.GetSetElements(set)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			r.unread("set %s of nftables table %s: %v", set.Name, t.Name, err)
			continue
		}
		key := firewall.SetKey{Family: familyName(t.Family), Table: t.Name, Name: set.Name}
		r.out.Sets[key] = firewall.Set{Elems: setElems(set, elems)}
	}
}

// setElems makes closed intervals of what the kernel keeps as starts and ends.
func setElems(set *nftables.Set, elems []nftables.SetElement) (out []firewall.Elem) {
	slices.SortStableFunc(elems, func(a, b nftables.SetElement) int {
		// Where one interval ends another may begin: the end goes first.
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return cmp.Compare(rank(a), rank(b))
	})
	for i, e := range elems {
		if e.IntervalEnd {
			continue
		}
		to := e.Key
		switch {
		case len(e.KeyEnd) > 0:
			to = e.KeyEnd
		case set.Interval && i+1 < len(elems) && elems[i+1].IntervalEnd:
			to = before(elems[i+1].Key)
		case set.Interval && !set.Concatenation:
			to = bytes.Repeat([]byte{0xff}, len(e.Key)) // the last has no end
		}
		elem := firewall.Elem{Key: firewall.Range{From: e.Key, To: to}, Data: e.Val}
		if set.IsMap && set.KeyType.Name == nftables.TypeVerdict.Name {
			elem.Act, elem.Data = elemVerdict(e.Val), nil
		}
		out = append(out, elem)
	}
	return out
}

// elemVerdict reads the data of a verdict map, which the library leaves as it
// came: the attributes of struct nft_verdict.
func elemVerdict(b []byte) *firewall.Act {
	var v expr.Verdict
	for a := range attrs(b) {
		switch a.kind {
		case unix.NFTA_VERDICT_CODE:
			if len(a.value) == 4 {
				v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(a.value)))
			}
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = a.text()
		}
	}
	act, ok := verdictAct(&v)
	if !ok {
		return nil
	}
	return &act
}

func rank(e nftables.SetElement) int {
	if e.IntervalEnd {
		return 0
	}
	return 1
}

// before is the number before a big-endian one.
func before(b []byte) []byte {
	out := bytes.Clone(b)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]--
		if out[i] != 0xff {
			break
		}
	}
	return out
}

// findOpaque lists the expressions of all rules by name, for the library leaves
// out those that it does not know: a rule would look as if it took more packets
// than it does.
func (r *rulesReader) findOpaque(k *Kernel) error {
	known := map[string]bool{}
	for _, name := range strings.Fields(
		"ct range meta cmp counter objref payload lookup immediate bitwise redir nat limit quota dynset log exthdr " +
			"match target connlimit queue flow_offload reject masq hash cthelper synproxy ctexpect secmark cttimeout " +
			"fib numgen notrack") {
		known[name] = true
	}
	return k.ns.do(func() error {
		conn, err := mdlayher.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		answers, err := conn.Execute(mdlayher.Message{
			Header: mdlayher.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE,
				Flags: mdlayher.Request | mdlayher.Dump,
			},
			Data: make([]byte, sizeofNfgenmsg),
		})
		if err != nil {
			return fmt.Errorf("list nftables rules: %w", err)
		}
		for _, m := range answers {
			id, names := ruleNames(m.Data)
			for _, name := range names {
				if !known[name] {
					r.opaque[id] = append(r.opaque[id], name)
				}
			}
		}
		return nil
	})
}

func ruleNames(m []byte) (id ruleID, names []string) {
	if len(m) < sizeofNfgenmsg {
		return id, nil
	}
	id.family = nftables.TableFamily(m[0])
	for a := range attrs(m[sizeofNfgenmsg:]) {
		switch a.kind {
		case unix.NFTA_RULE_TABLE:
			id.table = a.text()
		case unix.NFTA_RULE_HANDLE:
			if len(a.value) == 8 {
				id.handle = binary.BigEndian.Uint64(a.value)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			for e := range attrs(a.value) {
				name, _ := expressionOf(e.value)
				names = append(names, name)
			}
		}
	}
	return id, names
}
