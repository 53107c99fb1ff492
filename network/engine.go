package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// engine is who holds our rules, and why.
type engine struct {
	ruleset.Engine
	reason  string
	warning string // what an operator must still see to, if anything
}

const noProgram = "there is no program of iptables"

// chooseEngine picks the engine for rules about the networks. wish is that of a
// subnet.Config; an empty one is auto. forward tells whether packets shall be
// accepted: an accept in one engine can't undo what another drops, and that is
// what the choice is about.
func chooseEngine(wish string, forward bool, networks []netip.Prefix, f ruleset.Facts) engine {
	var drops []ruleset.Key // where our packets end
	if forward {
		drops = dropping(networks, f)
	}
	e := engine{Engine: ruleset.NFTables}
	switch wish {
	case "nftables":
		e.reason = "EnableNFTables is true"
	case "iptables":
		e.reason = noProgram
		if len(f.Programs) == 0 { // as in an image of ours, under flannel's configuration: pods are served all the same
			e.warning = "EnableNFTables is false, but " + noProgram + ": rules are in nftables; " +
				"install the package iptables, or set it to true"
			break
		}
		e.reason = "EnableNFTables is false"
		e.Engine = accepting(drops, f.Programs, f.Programs[0])
	default:
		e.Engine = accepting(drops, f.Programs, ruleset.NFTables)
		e.reason = "no FORWARD policy of iptables drops pods' packets"
		switch {
		case !forward:
			e.reason = "no forwarded packets shall be accepted, so iptables doesn't matter"
		case e.Engine != ruleset.NFTables:
			e.reason = policyText(drops, e.Engine) + ", and only an accept there lets pods' packets pass"
		case len(drops) > 0:
			e.reason = noProgram
		}
	}
	for _, key := range drops {
		if key.Engine != e.Engine {
			if e.warning != "" {
				e.warning += "; and "
			}
			e.warning += policyText(drops, key.Engine) +
				", where no rule of ours accepts pods' packets: " + remedy(key.Engine, f)
			break
		}
	}
	return e
}

// dropping are the FORWARD chains that drop what is ours.
func dropping(networks []netip.Prefix, f ruleset.Facts) []ruleset.Key {
	var out []ruleset.Key
	for _, key := range f.Drops {
		if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr().Is6() == key.IPv6 }) {
			out = append(out, key)
		}
	}
	return out
}

// accepting is the first engine with a program whose FORWARD policy is drop: an
// accept counts there. If there is none, it is the other.
func accepting(drops []ruleset.Key, programs []ruleset.Engine, other ruleset.Engine) ruleset.Engine {
	for _, e := range programs {
		if slices.ContainsFunc(drops, func(k ruleset.Key) bool { return k.Engine == e }) {
			return e
		}
	}
	return other
}

// policyText is "the FORWARD policy of iptables-nft and ip6tables-nft is DROP".
func policyText(drops []ruleset.Key, e ruleset.Engine) string {
	text, is := "the FORWARD policy of ", ""
	for _, ipv6 := range []bool{false, true} {
		if slices.ContainsFunc(drops, func(k ruleset.Key) bool { return k.Engine == e && k.IPv6 == ipv6 }) {
			text += is + ruleset.Key{Engine: e, IPv6: ipv6}.Program()
			is = " and "
		}
	}
	return text + " is DROP"
}

func remedy(e ruleset.Engine, f ruleset.Facts) string {
	if !slices.Contains(f.Programs, e) {
		return "install the package iptables, or let the cluster's networks pass there"
	}
	return fmt.Sprintf("let the cluster's networks pass there (%s -S FORWARD)", ruleset.Key{Engine: e}.Program())
}
