package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Our chains in tables of iptables'. Whether one is there is asked over netlink
// (iptables-nft) or by getsockopt (legacy), so where there is none no program is
// run. What its rules say is read as text, for every version of iptables puts
// them in words of nf_tables of its own. What can't be read is a rule with
// verdict Unknown or no chain at all: the others go on, and the writing that
// follows says why.

// jump is a rule of a built-in chain that leads to one of ours.
type jump struct {
	from    string
	comment string
	plain   bool   // it does so for all packets, and comes back
	rule    string // legacy: as it is deleted
	handle  uint64 // nf_tables: likewise
}

// builtIn is the name of the chain that iptables has at the hook.
func builtIn(h ruleset.Hook) string { return strings.ToUpper(string(h)) }

func builtIns() []string { return []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} }

// owned are the keys of one engine that the scope asks for.
func (o *observation) owned(e ruleset.Engine) []ruleset.Key {
	var keys []ruleset.Key
	for _, key := range slices.Concat(o.scope.Domain.Chains, o.scope.Domain.Leftovers) {
		_, named := o.scope.Keys.Chains[key]
		if key.Engine == e && (o.scope.All || named) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (o *observation) legacyChains(ctx context.Context) {
	for _, key := range o.owned(ruleset.IPTablesLegacy) {
		if there, err := o.k.hasLegacy(key); err != nil || !there {
			continue
		}
		v := ruleset.Chain{}
		rules, jumps, err := o.k.listLegacy(ctx, key)
		if err == nil {
			v = chainOfText(key, rules, jumps)
		} else {
			v.Rules = []ruleset.Rule{{Verdict: ruleset.Unknown}}
		}
		o.put(key, v)
	}
}

// put takes a chain of iptables' as ours, unless it is another network's.
func (o *observation) put(key ruleset.Key, v ruleset.Chain) {
	d := o.scope.Domain
	if slices.Contains(d.Chains, key) || v.SpeaksOf(d.Networks) {
		o.out.Have.Chains[key] = v
	}
}

// nftChain reads a chain that is there.
func (o *observation) nftChain(ctx context.Context, key ruleset.Key) (ruleset.Chain, error) {
	jumps, err := o.k.nftJumps(key)
	if err != nil {
		return ruleset.Chain{}, err
	}
	unknown := ruleset.Chain{Rules: []ruleset.Rule{{Verdict: ruleset.Unknown}}}
	p, err := o.k.programFor(key.Engine)
	if err != nil {
		return unknown, nil //nolint:nilerr // to take it away no program is needed
	}
	listing, err := o.k.list(ctx, p, key)
	if err != nil {
		return unknown, ctx.Err()
	}
	return chainOfText(key, listing[key.Chain], jumps), nil
}

func chainOfText(key ruleset.Key, rules []string, jumps []jump) ruleset.Chain {
	var v ruleset.Chain
	if len(jumps) == 1 && jumps[0].plain {
		v.Hook, v.Jump = ruleset.Hook(strings.ToLower(jumps[0].from)), jumps[0].comment
	}
	for _, text := range rules {
		r := parseRuleText(text)
		for _, m := range []ruleset.Match{r.Src, r.Dst} {
			if m.Prefix.IsValid() && m.Prefix.Addr().Is6() != key.IPv6 {
				r = ruleset.Rule{Verdict: ruleset.Unknown}
			}
		}
		v.Rules = append(v.Rules, r)
	}
	return v
}

// listLegacy gives the rules of a chain and the jumps to it.
func (k *Kernel) listLegacy(ctx context.Context, key ruleset.Key) (rules []string, jumps []jump, err error) {
	p, err := k.programFor(key.Engine)
	if err != nil {
		return nil, nil, err
	}
	listing, err := k.list(ctx, p, key)
	if err != nil {
		return nil, nil, err
	}
	for _, from := range builtIns() {
		for _, rule := range listing[from] {
			if leadsTo(rule, key.Chain) {
				comment, plain := plainJump(rule, key.Chain)
				jumps = append(jumps, jump{from: from, comment: comment, plain: plain, rule: rule})
			}
		}
	}
	return listing[key.Chain], jumps, nil
}

// nftJumps finds the rules of built-in chains that lead to a chain.
func (k *Kernel) nftJumps(key ruleset.Key) ([]jump, error) {
	var jumps []jump
	for _, from := range builtIns() {
		err := k.nftRules(ruleset.Key{IPv6: key.IPv6, Table: key.Table, Chain: from}, func(b []byte) {
			if to, j := parseJump(b); to == key.Chain {
				j.from = from
				jumps = append(jumps, j)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read rules of %s that jump to it: %w", from, err)
		}
	}
	return jumps, nil
}

// nftRules visits the rules of a chain as the kernel sends them: rules of others
// have expressions that google/nftables v0.3.0 may not know, and then it gives
// none at all. A chain that is not there has no rules.
func (k *Kernel) nftRules(key ruleset.Key, visit func(attributes []byte)) error {
	s, err := k.ns.openSocket(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a netfilter netlink socket: %w", err)
	}
	defer s.Close()
	for range dumpAttempts {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}
		req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(tableOf(key).Family)})
		req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(key.Table)))
		req.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(key.Chain)))
		var rules [][]byte
		err = req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
			if len(m) >= sizeofNfgenmsg {
				rules = append(rules, slices.Clone(m[sizeofNfgenmsg:]))
			}
			return true
		})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		for _, r := range rules {
			visit(r)
		}
		return ignoreGone(err)
	}
	return errDisturbed
}

// parseJump reads a rule that leads to a chain; to is empty for any other rule.
func parseJump(b []byte) (to string, j jump) {
	j.plain = true
	for a := range attrs(b) {
		switch a.kind {
		case unix.NFTA_RULE_HANDLE:
			if len(a.value) == 8 {
				j.handle = binary.BigEndian.Uint64(a.value)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			for e := range attrs(a.value) {
				to = j.expression(e.value, to)
			}
		case unix.NFTA_RULE_USERDATA:
			if c, _, err := splitUserData(a.value); err == nil && c != "" {
				j.comment = c
			}
		}
	}
	return to, j
}

// expression looks at one of a rule's. What is neither a comment nor a counter
// nor the jump itself makes it depend on the packet.
func (j *jump) expression(b []byte, to string) string {
	name, data := expressionOf(b)
	switch name {
	case "counter":
		return to
	case "match":
		if comment, ok := xtComment(data); ok {
			j.comment = comment
			return to
		}
	case "immediate":
		if code, chain := verdictIn(data); chain != "" {
			j.plain = j.plain && code == unix.NFT_JUMP
			return chain
		}
	}
	j.plain = false
	return to
}

func xtComment(b []byte) (string, bool) {
	var name string
	var info []byte
	for a := range attrs(b) {
		switch a.kind {
		case unix.NFTA_MATCH_NAME:
			name = a.text()
		case unix.NFTA_MATCH_INFO:
			info = a.value
		}
	}
	return cString(info), name == "comment"
}

// verdictIn gives the code and the chain of a verdict that leads to one.
func verdictIn(b []byte) (code int32, chain string) {
	for a := range attrs(b) {
		if a.kind != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		for data := range attrs(a.value) {
			if data.kind != unix.NFTA_DATA_VERDICT {
				continue
			}
			for v := range attrs(data.value) {
				switch {
				case v.kind == unix.NFTA_VERDICT_CODE && len(v.value) == 4:
					code = int32(binary.BigEndian.Uint32(v.value))
				case v.kind == unix.NFTA_VERDICT_CHAIN:
					chain = v.text()
				}
			}
		}
	}
	return code, chain
}

// inIPTables is the key as iptables-nft's, for what nf_tables has.
func inIPTables(key ruleset.Key) ruleset.Key {
	key.Engine = ruleset.IPTablesNFT
	return key
}

// firewallFacts is what a choice between engines needs.
func (k *Kernel) firewallFacts() (ruleset.Facts, error) {
	var f ruleset.Facts
	for i, p := range k.find() {
		f.Programs = append(f.Programs, p.engine)
		f.RandomFully = p.version.randomFully() && (i == 0 || f.RandomFully)
	}
	forward := ruleset.Key{Table: "filter", Chain: builtIn(ruleset.Forward)}
	err := k.nftDo(func(c *nftConn) error {
		chains, err := c.chainsWhere(func(key ruleset.Key) bool {
			return key.Table == forward.Table && key.Chain == forward.Chain
		})
		for key, c := range chains {
			if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				f.Drops = append(f.Drops, inIPTables(key))
			}
		}
		return err
	})
	if f.NoNFTables = lacking(err); err != nil && !f.NoNFTables {
		return f, err
	}
	if f.Stateful, err = k.guards(); err != nil {
		return f, err
	}
	forward.Engine = ruleset.IPTablesLegacy
	for _, forward.IPv6 = range []bool{false, true} {
		t, _, err := k.legacy(forward.IPv6, forward.Table)
		if err != nil {
			return f, err
		}
		if t.drops {
			f.Drops = append(f.Drops, forward)
		}
	}
	slices.SortFunc(f.Drops, func(a, b ruleset.Key) int { return strings.Compare(a.String(), b.String()) })
	k.memory.knowDrops(f.Drops)
	return f, nil
}
