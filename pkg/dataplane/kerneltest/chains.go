package kerneltest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// RunChains runs the cases about chains with those of one engine.
//
// What the cases demand of iptables besides:
//   - A chain of Domain.Chains is ours by its name, whoever made it. Exactly one
//     rule of the hook's built-in chain jumps to it, for all packets and with
//     the comment that is wanted; its place there is nobody's business. The
//     rules of others stay as they are, in the built-in chains too.
//   - The chain and its jump are one entry. A write appends a jump that is
//     missing, and removes others that built-in chains have.
func RunChains(t *testing.T, e ruleset.Engine, open func(t *testing.T) World) {
	for name, run := range chainCases() {
		t.Run(name, func(t *testing.T) { run(newBench(t, open), e) })
	}
	if e != ruleset.NFTables { // there, a table has the name of its network
		t.Run("leftovers about our networks go, others stay", func(t *testing.T) { leftovers(newBench(t, open), e) })
	}
	want := allChains(e)
	for _, s := range sides() {
		family := "IPv4: "
		if s.link.Local.Is6() {
			family = "IPv6: "
		}
		for _, m := range s.chainMutations(e) {
			t.Run(family+m.name, func(t *testing.T) { newBench(t, open).repair(want, m) })
		}
	}
}

func chainCases() map[string]func(*bench, ruleset.Engine) {
	return map[string]func(*bench, ruleset.Engine){
		"a restarted process has nothing to mend": func(b *bench, e ruleset.Engine) {
			want := allChains(e)
			b.settle(want)
			b.Kernel = b.Reopen()
			b.converged(want)
		},
		"all is taken away again, twice of it too": func(b *bench, e ruleset.Engine) {
			before := b.Admin.Dump()
			want := allChains(e)
			b.settle(want)
			for key, c := range want.Chains {
				b.Firewall.InsertRule(key)
				if e != ruleset.NFTables {
					b.Firewall.InsertJump(key, c.Hook, c.Jump)
				}
			}
			b.settle(dataplane.State{})
			b.same(before, b.Admin.Dump())
		},
		"one family alone, then the other": func(b *bench, e ruleset.Engine) {
			for _, s := range sides() {
				b.settle(s.chainsIn(e))
			}
		},
		"the same plan twice": func(b *bench, e ruleset.Engine) {
			p := b.plan(allChains(e), full())
			b.apply(p)
			b.apply(p)
			b.converged(allChains(e))
			p = b.plan(dataplane.State{}, full())
			b.apply(p)
			b.apply(p)
		},
		"rules and comments of every kind": everyRule,
		"rules of others stay":             rulesOfOthers,
		"from every engine to every other": func(b *bench, e ruleset.Engine) {
			b.settle(allChains(e))
			alone := b.Admin.Dump()
			for _, other := range b.Engines {
				b.settle(allChains(other))
				b.Kernel = b.Reopen()
				b.madeFirst(b.plan(allChains(e), full()))
				b.settle(allChains(e))
				b.same(alone, b.Admin.Dump())
			}
		},
		"leftovers without their jumps go": func(b *bench, e ruleset.Engine) {
			before := b.Admin.Dump()
			for key := range allChains(e).Chains {
				b.Firewall.InsertRule(key)
			}
			b.settle(dataplane.State{})
			b.same(before, b.Admin.Dump())
		},
	}
}

// leftovers have a name that another network's chain may have as well.
func leftovers(b *bench, e ruleset.Engine) {
	before := b.Admin.Dump()
	var ours, theirs dataplane.Plan
	for _, key := range leftoverKeys() {
		if key.Engine != e {
			continue
		}
		about := sides()[0].node(1)
		another := netip.MustParsePrefix("10.99.0.0/16")
		if key.IPv6 {
			about, another = sides()[1].node(1), netip.MustParsePrefix("fd00:99::/48")
		}
		op := dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindChain, Key: key}
		chain := ruleset.Chain{Hook: ruleset.Postrouting, Jump: "flanneld masq"}
		chain.Rules = []ruleset.Rule{{Src: ruleset.Match{Prefix: about}, Verdict: ruleset.Return}}
		op.New = chain
		ours.Ops = append(ours.Ops, op)
		chain.Rules = []ruleset.Rule{{Src: ruleset.Match{Prefix: another}, Verdict: ruleset.Return}}
		op.New = chain
		theirs.Ops = append(theirs.Ops, op)
	}
	b.apply(ours)
	if p := b.plan(dataplane.State{}, full()); len(p.Ops) != 2 {
		b.Errorf("want two deletions, have:\n%s", p)
	}
	b.settle(dataplane.State{})
	b.same(before, b.Admin.Dump())
	b.apply(theirs)
	before = b.Admin.Dump()
	b.settle(allChains(e))
	b.settle(dataplane.State{})
	b.same(before, b.Admin.Dump())
}

func leftoverKeys() []ruleset.Key {
	var keys []ruleset.Key
	for _, e := range []ruleset.Engine{ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		for _, ipv6 := range []bool{false, true} {
			keys = append(keys, ruleset.Key{Engine: e, IPv6: ipv6, Table: "nat", Chain: "FLANNEL-LEFT"})
		}
	}
	return keys
}

func everyRule(b *bench, e ruleset.Engine) {
	want := allChains(e)
	for key, c := range want.Chains {
		for _, comment := range []string{`it's a "quote" and a \ `, "-j DROP", "word", "! ", strings.Repeat("x", 100)} {
			c.Rules = append(c.Rules, ruleset.Rule{Mark: 7, Mask: 0xffffffff, Verdict: ruleset.Accept, Comment: comment})
		}
		host := ruleset.Match{Prefix: netip.PrefixFrom(sides()[0].node(1).Addr(), 32), Not: true}
		if key.IPv6 {
			host.Prefix = netip.PrefixFrom(sides()[1].node(1).Addr(), 128)
		}
		c.Rules = append(c.Rules, ruleset.Rule{Src: host, Dst: host, Verdict: ruleset.Return})
		want.Chains[key] = c
	}
	b.settle(want)
}

// madeFirst wants what replaces something to be made before that goes.
func (b *bench) madeFirst(p dataplane.Plan) {
	b.Helper()
	deleting := false
	for _, op := range p.Ops {
		if op.Verb == dataplane.Delete {
			deleting = true
		} else if deleting {
			b.Errorf("%s comes after a deletion:\n%s", op, p)
		}
	}
}

func rulesOfOthers(b *bench, e ruleset.Engine) {
	var theirs []ruleset.Key
	for key, c := range allChains(e).Chains {
		key.Chain = "THEIRS"
		if e == ruleset.NFTables {
			key.Table = "theirs"
		}
		b.Firewall.InsertRule(key)
		theirs = append(theirs, key)
		if e != ruleset.NFTables {
			b.Firewall.InsertJump(key, c.Hook, "theirs")
			key.Chain = strings.ToUpper(string(c.Hook))
			b.Firewall.InsertRule(key)
		}
	}
	before := b.Admin.Dump()
	b.settle(allChains(e))
	for key, c := range allChains(e).Chains {
		if e != ruleset.NFTables { // ours is not the first now, and not the last
			b.Firewall.DropRule(ruleset.Key{
				Engine: e, IPv6: key.IPv6, Table: key.Table, Chain: strings.ToUpper(string(c.Hook)),
			}, 2)
			b.Firewall.InsertJump(key, c.Hook, c.Jump)
			b.Firewall.InsertRule(ruleset.Key{
				Engine: e, IPv6: key.IPv6, Table: key.Table, Chain: strings.ToUpper(string(c.Hook)),
			})
		}
	}
	b.converged(allChains(e))
	for key, c := range allChains(e).Chains {
		if e != ruleset.NFTables {
			b.Firewall.DropRule(ruleset.Key{
				Engine: e, IPv6: key.IPv6, Table: key.Table, Chain: strings.ToUpper(string(c.Hook)),
			}, 0)
		}
	}
	b.settle(dataplane.State{})
	b.same(before, b.Admin.Dump())
	if len(theirs) == 0 {
		b.Error("there were no others")
	}
}

func allChains(e ruleset.Engine) dataplane.State {
	out := dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{}}
	for _, s := range sides() {
		out.Merge(s.chainsIn(e))
	}
	return out
}

// ownedKeys are the chains of iptables' that are ours.
func ownedKeys() []ruleset.Key {
	var keys []ruleset.Key
	for _, e := range []ruleset.Engine{ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		for key := range allChains(e).Chains {
			keys = append(keys, key)
		}
	}
	return keys
}

// chainsIn is what firewall says, as far as the engine can say it.
func (s side) chainsIn(e ruleset.Engine) dataplane.State {
	if e == ruleset.NFTables {
		return s.firewall()
	}
	out := dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{}}
	for _, c := range s.firewall().Chains {
		key := ruleset.Key{Engine: e, IPv6: s.link.Local.Is6(), Table: c.Type, Chain: "FLANNEL-FWD"}
		jump := "flanneld forward"
		switch c.Hook {
		case ruleset.Postrouting:
			key.Chain, jump = "FLANNEL-POSTRTG", "flanneld masq"
		case ruleset.Prerouting, ruleset.Input, ruleset.Output:
			continue
		}
		out.Chains[key] = ruleset.Chain{Hook: c.Hook, Jump: jump, Rules: c.Rules}
	}
	return out
}

// chainKeyIn is the chain that the cases change.
func (s side) chainKeyIn(e ruleset.Engine) ruleset.Key {
	if e == ruleset.NFTables {
		return s.chainKey()
	}
	return ruleset.Key{Engine: e, IPv6: s.link.Local.Is6(), Table: "nat", Chain: "FLANNEL-POSTRTG"}
}

func hurtChains(keys ...ruleset.Key) dataplane.State {
	chains := map[ruleset.Key]ruleset.Chain{}
	for _, k := range keys {
		chains[k] = ruleset.Chain{}
	}
	return dataplane.State{Chains: chains}
}

func (s side) chainMutations(e ruleset.Engine) []mutation {
	key := s.chainKeyIn(e)
	out := []mutation{
		{name: "first rule dropped", plan: "~1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.DropRule(key, 0) }},
		{name: "middle rule dropped", plan: "~1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.DropRule(key, 2) }},
		{name: "last rule dropped", plan: "~1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.DropRule(key, 4) }},
		{name: "rule inserted", plan: "~1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.InsertRule(key) }},
		{name: "rule replaced", plan: "~1 chain", hurt: hurtChains(key), do: func(b *bench) {
			b.Firewall.DropRule(key, 0)
			b.Firewall.InsertRule(key)
		}},
	}
	if e != ruleset.NFTables {
		return append(out, s.jumpMutations(e)...)
	}
	stray := ruleset.Key{IPv6: key.IPv6, Table: key.Table, Chain: "stray"}
	return append(out,
		mutation{name: "stray chain", plan: "-1 chain",
			hurt: hurtChains(stray), do: func(b *bench) { b.Firewall.InsertRule(stray) }},
		mutation{name: "table deleted", plan: "+5 chain",
			hurt: dataplane.State{Chains: s.firewall().Chains}, do: func(b *bench) { b.Firewall.DeleteTable(key) }},
	)
}

// jumpMutations change how packets come to the chain, or take all away.
func (s side) jumpMutations(e ruleset.Engine) []mutation {
	key := s.chainKeyIn(e)
	forward := ruleset.Key{Engine: e, IPv6: key.IPv6, Table: "filter", Chain: "FLANNEL-FWD"}
	postrouting := ruleset.Key{Engine: e, IPv6: key.IPv6, Table: key.Table, Chain: "POSTROUTING"}
	return []mutation{
		{name: "jump deleted", plan: "~1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.DropRule(postrouting, 0) }},
		{name: "jump twice", plan: "~1 chain", hurt: hurtChains(key),
			do: func(b *bench) { b.Firewall.InsertJump(key, ruleset.Postrouting, "flanneld masq") }},
		{name: "jump with another comment", plan: "~1 chain", hurt: hurtChains(key), do: func(b *bench) {
			b.Firewall.DropRule(postrouting, 0)
			b.Firewall.InsertJump(key, ruleset.Postrouting, "")
		}},
		{name: "jump from another built-in chain", plan: "~1 chain", hurt: hurtChains(forward),
			do: func(b *bench) { b.Firewall.InsertJump(forward, "input", "flanneld forward") }},
		{name: "table deleted", plan: "+1 chain",
			hurt: hurtChains(key), do: func(b *bench) { b.Firewall.DeleteTable(key) }},
	}
}
