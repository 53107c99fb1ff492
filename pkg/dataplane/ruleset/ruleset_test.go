package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func match(s string, not bool) ruleset.Match {
	return ruleset.Match{Prefix: netip.MustParsePrefix(s), Not: not}
}

func TestRuleText(t *testing.T) {
	cases := map[string]ruleset.Rule{
		`accept`: {Verdict: ruleset.Accept},
		`meta mark & 0x4000 == 0x4000 return comment "kube-proxy's"`: {
			Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: "kube-proxy's",
		},
		`meta mark & 0xff == 0x0 drop`: {Mask: 0xff, Verdict: ruleset.Drop},
		`ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random`: {
			Src: match("10.42.0.0/16", false), Dst: match("224.0.0.0/4", true), Verdict: ruleset.MasqueradeFullyRandom,
		},
		`ip6 saddr != fd00:42::/48 ip6 daddr fd00:42::/48 masquerade comment "a \"b\""`: {
			Src: match("fd00:42::/48", true), Dst: match("fd00:42::/48", false),
			Verdict: ruleset.Masquerade, Comment: `a "b"`,
		},
	}
	for want, rule := range cases {
		if d := cmp.Diff(want, rule.String()); d != "" {
			t.Error(d)
		}
	}
}

func TestKeyText(t *testing.T) {
	for want, key := range map[string]ruleset.Key{
		"ip weft forward":      {Table: "weft", Chain: "forward"},
		"ip6 weft postrouting": {IPv6: true, Table: "weft", Chain: "postrouting"},

		"iptables-nft nat FLANNEL-POSTRTG":   {Engine: ruleset.IPTablesNFT, Table: "nat", Chain: "FLANNEL-POSTRTG"},
		"iptables-legacy filter FLANNEL-FWD": {Engine: ruleset.IPTablesLegacy, Table: "filter", Chain: "FLANNEL-FWD"},
		"ip6tables-nft filter FLANNEL-FWD":   {Engine: ruleset.IPTablesNFT, IPv6: true, Table: "filter", Chain: "FLANNEL-FWD"},
		"ip6tables-legacy nat FLANNEL-POSTRTG": {
			Engine: ruleset.IPTablesLegacy, IPv6: true, Table: "nat", Chain: "FLANNEL-POSTRTG",
		},
	} {
		if d := cmp.Diff(want, key.String()); d != "" {
			t.Error(d)
		}
	}
}

func TestChainEqual(t *testing.T) {
	accept := ruleset.Rule{Verdict: ruleset.Accept}
	drop := ruleset.Rule{Verdict: ruleset.Drop}
	chain := func(rules ...ruleset.Rule) ruleset.Chain {
		return ruleset.Chain{Type: "filter", Hook: ruleset.Forward, Rules: rules}
	}
	one := chain(accept, drop)
	if !one.Equal(chain(accept, drop)) || !chain().Equal(ruleset.Chain{Type: "filter", Hook: ruleset.Forward}) {
		t.Error("chains of the same rules must be equal")
	}
	commented := accept
	commented.Comment = "why"
	others := map[string]ruleset.Chain{
		"another order":      chain(drop, accept),
		"a rule more":        chain(accept, drop, drop),
		"a rule less":        chain(accept),
		"another comment":    chain(commented, drop),
		"another type":       {Type: "nat", Hook: ruleset.Forward, Rules: one.Rules},
		"another hook":       {Type: "filter", Hook: ruleset.Prerouting, Rules: one.Rules},
		"another priority":   {Type: "filter", Hook: ruleset.Forward, Priority: 1, Rules: one.Rules},
		"another jump":       {Type: "filter", Hook: ruleset.Forward, Jump: "here", Rules: one.Rules},
		"not what weft made": chain(accept, ruleset.Rule{Verdict: ruleset.Unknown}),
	}
	for name, other := range others {
		if one.Equal(other) || other.Equal(one) {
			t.Errorf("%s: taken as equal", name)
		}
	}
}

func TestWhatAChainSpeaksOf(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}
	chain := func(matches ...ruleset.Match) ruleset.Chain {
		c := ruleset.Chain{Rules: []ruleset.Rule{{Mark: 1, Mask: 1, Verdict: ruleset.Return}}}
		for _, m := range matches {
			c.Rules = append(c.Rules, ruleset.Rule{Src: m, Verdict: ruleset.Accept})
		}
		return c
	}
	unknown := chain(match("10.42.0.0/16", false))
	unknown.Rules = append(unknown.Rules, ruleset.Rule{Verdict: ruleset.Unknown})
	for name, test := range map[string]struct {
		chain ruleset.Chain
		want  bool
	}{
		"the network":              {chain(match("10.42.0.0/16", false)), true},
		"a subnet of it":           {chain(match("10.42.7.0/24", true)), true},
		"the network of before it": {chain(match("10.42.0.0/15", false)), true},
		"IPv6 with multicast":      {chain(match("fd00:42::/48", true), match("ff00::/8", true)), true},
		"another network":          {chain(match("10.43.0.0/16", false)), false},
		"ours and another":         {chain(match("10.42.0.0/16", false), match("10.43.0.0/16", false)), false},
		"multicast alone":          {chain(match("224.0.0.0/4", false)), false},
		"nothing":                  {chain(), false},
		"what can't be read":       {unknown, false},
	} {
		if have := test.chain.SpeaksOf(networks); have != test.want {
			t.Errorf("%s: %v", name, have)
		}
	}
}

func TestChainText(t *testing.T) {
	rules := []ruleset.Rule{{Verdict: ruleset.Accept}, {Verdict: ruleset.Drop}}
	for want, chain := range map[string]ruleset.Chain{
		"nat postrouting 100, 2 rules":    {Type: "nat", Hook: ruleset.Postrouting, Priority: 100, Rules: rules},
		"jump from forward, 2 rules":      {Hook: ruleset.Forward, Jump: "flanneld forward", Rules: rules},
		"not hooked in, 0 rules":          {},
		"filter prerouting -150, 0 rules": {Type: "filter", Hook: ruleset.Prerouting, Priority: -150},
	} {
		if d := cmp.Diff(want, chain.String()); d != "" {
			t.Error(d)
		}
	}
	if d := cmp.Diff("nftables iptables-nft", ruleset.NFTables.String()+" "+ruleset.IPTablesNFT.String()); d != "" {
		t.Error(d)
	}
}
