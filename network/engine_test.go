package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func TestChooseEngine(t *testing.T) {
	const nft, legacy = ruleset.IPTablesNFT, ruleset.IPTablesLegacy
	four, six := netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")
	forward := func(e ruleset.Engine, ipv6 bool) ruleset.Key {
		return ruleset.Key{Engine: e, IPv6: ipv6, Table: "filter", Chain: "FORWARD"}
	}
	both := []ruleset.Engine{nft, legacy}
	cases := map[string]struct {
		wish            string
		facts           ruleset.Facts
		networks        []netip.Prefix
		noForward       bool
		want            ruleset.Engine
		reason, warning string
	}{
		"auto, nothing drops": {facts: ruleset.Facts{Programs: both}, reason: "no FORWARD policy of iptables drops pods' packets"},
		"auto, a policy drops": {
			facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(nft, false)}}, want: nft,
			reason: "the FORWARD policy of iptables-nft is DROP, and only an accept there lets pods' packets pass",
		},
		"auto, both families drop": {
			facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(nft, false), forward(nft, true)}}, want: nft,
			reason: "the FORWARD policy of iptables-nft and ip6tables-nft is DROP, " +
				"and only an accept there lets pods' packets pass",
		},
		"auto, the policy of the tables that iptables itself doesn't write": {
			facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(legacy, true)}}, want: legacy,
			reason: "the FORWARD policy of ip6tables-legacy is DROP, and only an accept there lets pods' packets pass",
		},
		"auto, a policy of the other family": {
			facts:    ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(nft, true)}},
			networks: []netip.Prefix{four}, reason: "no FORWARD policy of iptables drops pods' packets",
		},
		"auto, a policy drops and there is no program": {
			facts: ruleset.Facts{Drops: []ruleset.Key{forward(nft, false)}}, reason: "there is no program of iptables",
			warning: "the FORWARD policy of iptables-nft is DROP, where no rule of ours accepts pods' packets: " +
				"install the package iptables, or let the cluster's networks pass there",
		},
		"auto, both kinds drop": {
			facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(legacy, false), forward(nft, false)}}, want: nft,
			reason: "the FORWARD policy of iptables-nft is DROP, and only an accept there lets pods' packets pass",
			warning: "the FORWARD policy of iptables-legacy is DROP, where no rule of ours accepts pods' packets: " +
				"let the cluster's networks pass there (iptables-legacy -S FORWARD)",
		},
		"auto, nothing shall be accepted": {
			facts:     ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(nft, false)}},
			noForward: true, reason: "no forwarded packets shall be accepted, so iptables doesn't matter",
		},
		"nftables as told": {wish: "nftables", facts: ruleset.Facts{Programs: both}, reason: "EnableNFTables is true"},
		"nftables as told, a policy drops": {
			wish: "nftables", facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(nft, false)}},
			reason: "EnableNFTables is true",
			warning: "the FORWARD policy of iptables-nft is DROP, where no rule of ours accepts pods' packets: " +
				"let the cluster's networks pass there (iptables-nft -S FORWARD)",
		},
		"iptables as told": {
			wish: "iptables", facts: ruleset.Facts{Programs: []ruleset.Engine{legacy, nft}}, want: legacy,
			reason: "EnableNFTables is false",
		},
		"iptables as told, where a policy drops": {
			wish: "iptables", facts: ruleset.Facts{Programs: both, Drops: []ruleset.Key{forward(legacy, false)}}, want: legacy,
			reason: "EnableNFTables is false",
		},
		"iptables as told, without a program": {
			wish: "iptables", reason: "there is no program of iptables",
			warning: "EnableNFTables is false, but there is no program of iptables: rules are in nftables; " +
				"install the package iptables, or set it to true",
		},
		"iptables as told, without a program, where a policy drops": {
			wish: "iptables", facts: ruleset.Facts{Drops: []ruleset.Key{forward(nft, false), forward(nft, true)}},
			reason: "there is no program of iptables",
			warning: "EnableNFTables is false, but there is no program of iptables: rules are in nftables; " +
				"install the package iptables, or set it to true; and " +
				"the FORWARD policy of iptables-nft and ip6tables-nft is DROP, where no rule of ours accepts pods' packets: " +
				"install the package iptables, or let the cluster's networks pass there",
		},
	}
	for name, c := range cases {
		if c.networks == nil {
			c.networks = []netip.Prefix{four, six}
		}
		e := chooseEngine(c.wish, !c.noForward, c.networks, c.facts)
		want := []string{c.want.String(), c.reason, c.warning}
		if d := cmp.Diff(want, []string{e.String(), e.reason, e.warning}); d != "" {
			t.Errorf("%s (-want +have):\n%s", name, d)
		}
	}
}

// The engine changes under a running node: with the configuration at once, with
// the host's own policy when it is looked at next.
func TestEngineIsFollowed(t *testing.T) {
	const nft, legacy = ruleset.IPTablesNFT, ruleset.IPTablesLegacy
	drops := []ruleset.Key{{Engine: legacy, Table: "filter", Chain: "FORWARD"}}
	engine := func(name string) string {
		return `{"Network":"10.42.0.0/16","SubnetMin":"10.42.100.0","EnableNFTables":` + name + `,"Backend":{"Type":"vxlan"}}`
	}
	inBubble(t, func(b *bench) {
		b.kernel.SetFirewall(ruleset.Facts{Programs: []ruleset.Engine{nft, legacy}})
		b.server.SetConfig([]byte(engine("false")))
		b.start()
		defer b.stop()
		b.rules("iptables-nft nat FLANNEL-POSTRTG", "chain ip weft", "fully-random")
		b.server.SetConfig([]byte(engine("true")))
		b.settle(5 * time.Second)
		b.rules("chain ip weft postrouting", "FLANNEL", "")
		b.server.SetConfig([]byte(config1)) // auto
		b.settle(5 * time.Second)
		b.rules("chain ip weft postrouting", "FLANNEL", "")
		b.kernel.SetFirewall(ruleset.Facts{Programs: []ruleset.Engine{nft, legacy}, RandomFully: true, Drops: drops})
		b.settle(2 * time.Minute)
		b.rules("masquerade fully-random", "chain ip weft", "")
		b.rules("iptables-legacy filter FLANNEL-FWD", "iptables-nft", "")
		if s := b.node.Status(); s.Rules.Engine != "iptables-legacy" || !strings.Contains(s.Rules.Reason, "is DROP") {
			t.Errorf("status: %+v", s.Rules)
		}
		b.kernel.SetFirewall(ruleset.Facts{})
		b.settle(2 * time.Minute)
		b.rules("chain ip weft forward", "FLANNEL", "")
	})
}

// A node that was told to use iptables and has none serves pods all the same,
// and says so in the log, in the status and at its object in the store, once.
func TestNoProgramOfIPTables(t *testing.T) {
	const told = "EnableNFTables is false, but there is no program of iptables"
	inBubble(t, func(b *bench) {
		s := withSelf(b)
		log, hook := logtest.NewNullLogger()
		b.tune = func(o *Options) { o.Store, o.Log = s, log }
		b.server.SetConfig([]byte(strings.Replace(config1, "{", `{"EnableNFTables":false,`, 1)))
		b.start()
		defer b.stop()
		b.rules("chain ip weft forward", "FLANNEL", "")
		if s := b.node.Status(); !strings.HasPrefix(s.Rules.Warning, told) {
			t.Errorf("status: %+v", s.Rules)
		}
		warned := 0
		for _, e := range hook.AllEntries() {
			if w, ok := e.Data["warning"].(string); ok && strings.HasPrefix(w, told) {
				warned++
			}
		}
		if warned != 1 {
			t.Errorf("the log says it %d times", warned)
		}
		b.settle(5 * time.Minute)
		if have := s.warned(); len(have) != 1 || !strings.HasPrefix(have[0], "WeftRulesNotice "+told) {
			t.Errorf("at our object: %q", have)
		}
		b.kernel.SetFirewall(ruleset.Facts{Programs: []ruleset.Engine{ruleset.IPTablesNFT}})
		b.settle(2 * time.Minute)
		b.rules("iptables-nft filter FLANNEL-FWD", "chain ip weft", "")
		if s := b.node.Status(); s.Rules.Warning != "" {
			t.Errorf("status, with a program: %+v", s.Rules)
		}
	})
}

// rules wants one text in the kernel and others not.
func (b *bench) rules(want, gone, goneToo string) {
	b.t.Helper()
	b.ready(true, "")
	dump := b.kernel.Dump()
	if !strings.Contains(dump, want) {
		b.t.Errorf("no %q in\n%s", want, dump)
	}
	for _, g := range []string{gone, goneToo} {
		if g != "" && strings.Contains(dump, g) {
			b.t.Errorf("%q is still in\n%s", g, dump)
		}
	}
}
