// Package masq decides which firewall chains and sysctls a node needs so that
// its pods reach the world and the world's answers reach them.
//
//	postrouting  nat     which packets get the node's address as their source
//	forward      filter  packets from and to pods may pass the node
//
// It owns the rules' meaning and order, which is that of flannel's iptables
// rules (not of its nftables rules, whose fourth rule hides the sixth); in
// iptables also their names and comments, for tools look for them. It refuses to
// know how an engine writes a rule.
package masq

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Options say what is wanted of which networks.
type Options struct {
	Engine      ruleset.Engine
	Suffix      string         // "-2" keeps our chains apart from those of other networks on this host
	Networks    []netip.Prefix // the cluster's, one per family
	Subnets     []netip.Prefix // our own, likewise; a network without one gets no masquerading
	Masquerade  bool
	Forward     bool
	FullyRandom bool // masquerade with random source ports (fewer clashes in conntrack)
}

const (
	table = "weft"

	filterPriority = 0
	srcnatPriority = 100 // NF_IP_PRI_NAT_SRC

	// What kube-proxy marks it masquerades itself; other bits of the mark
	// belong to others.
	kubeProxyMark = 0x4000
)

// Chains gives the wanted chains.
func Chains(o Options) map[ruleset.Key]ruleset.Chain {
	chains := map[ruleset.Key]ruleset.Chain{}
	for _, network := range o.Networks {
		ipv6 := network.Addr().Is6()
		if own, ok := ownSubnet(o.Subnets, network); ok && o.Masquerade {
			put(chains, masqueradePlace(), o, ipv6, masquerade(network, own, o.FullyRandom))
		}
		if o.Forward {
			put(chains, forwardPlace(), o, ipv6, forward(network))
		}
	}
	return chains
}

// Table is our nftables table, with the suffix of Options.
func Table(suffix string) string { return table + suffix }

// Owned are the chains in tables of iptables' that Options with that suffix may
// make there.
func Owned(suffix string) []ruleset.Key {
	var keys []ruleset.Key
	for _, engine := range []ruleset.Engine{ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		for _, p := range []place{masqueradePlace(), forwardPlace()} {
			for _, ipv6 := range []bool{false, true} {
				keys = append(keys, ruleset.Key{Engine: engine, IPv6: ipv6, Table: p.base.Type, Chain: p.flannels + suffix})
			}
		}
	}
	return keys
}

// place is where rules stand, in each engine.
type place struct {
	chain    string        // in our own nftables table
	base     ruleset.Chain // without rules
	flannels string        // in iptables' table of that type
	comment  string        // of flannel's, on the jump and on every rule
}

func masqueradePlace() place {
	return place{
		"postrouting", ruleset.Chain{Type: "nat", Hook: ruleset.Postrouting, Priority: srcnatPriority},
		"FLANNEL-POSTRTG", "flanneld masq",
	}
}

func forwardPlace() place {
	return place{
		"forward", ruleset.Chain{Type: "filter", Hook: ruleset.Forward, Priority: filterPriority},
		"FLANNEL-FWD", "flanneld forward",
	}
}

func put(chains map[ruleset.Key]ruleset.Chain, p place, o Options, ipv6 bool, rules []ruleset.Rule) {
	if o.Engine == ruleset.NFTables {
		p.base.Rules = rules
		chains[ruleset.Key{IPv6: ipv6, Table: Table(o.Suffix), Chain: p.chain}] = p.base
		return
	}
	for i := range rules {
		rules[i].Comment = p.comment
	}
	key := ruleset.Key{Engine: o.Engine, IPv6: ipv6, Table: p.base.Type, Chain: p.flannels + o.Suffix}
	chains[key] = ruleset.Chain{Hook: p.base.Hook, Jump: p.comment, Rules: rules}
}

// Sysctls gives the settings without which the kernel forwards nothing.
func Sysctls(networks []netip.Prefix) map[string]string {
	out := map[string]string{}
	for _, network := range networks {
		if network.Addr().Is6() {
			out["net/ipv6/conf/all/forwarding"] = "1"
		} else {
			out["net/ipv4/ip_forward"] = "1"
		}
	}
	return out
}

// ownSubnet finds our subnet of a network's family.
func ownSubnet(subnets []netip.Prefix, network netip.Prefix) (netip.Prefix, bool) {
	for _, s := range subnets {
		if s.IsValid() && s.Addr().BitLen() == network.Addr().BitLen() {
			return s, true
		}
	}
	return netip.Prefix{}, false
}

// masquerade is about the whole cluster network and our own part of it. The
// first rule that matches decides.
func masquerade(cluster, own netip.Prefix, fullyRandom bool) []ruleset.Rule {
	verdict := ruleset.Masquerade
	if fullyRandom {
		verdict = ruleset.MasqueradeFullyRandom
	}
	in, out := ruleset.Match{Prefix: cluster}, ruleset.Match{Prefix: cluster, Not: true}
	local := ruleset.Match{Prefix: own}
	return []ruleset.Rule{
		{
			Mark: kubeProxyMark, Mask: kubeProxyMark, Verdict: ruleset.Return,
			Comment: "kube-proxy masquerades these",
		},
		{Src: local, Dst: in, Verdict: ruleset.Return, Comment: "pods here to pods anywhere"},
		{Src: in, Dst: local, Verdict: ruleset.Return, Comment: "pods anywhere to pods here"},
		{Src: out, Dst: local, Verdict: ruleset.Return, Comment: "outside to pods here: they see the client's address"},
		{
			Src: in, Dst: ruleset.Match{Prefix: multicast(cluster), Not: true}, Verdict: verdict,
			Comment: "pods to the outside",
		},
		{Src: out, Dst: in, Verdict: verdict, Comment: "outside to pods elsewhere: the answer comes back through here"},
	}
}

// forward lets the cluster's packets pass where a later drop would stop them.
func forward(cluster netip.Prefix) []ruleset.Rule {
	in := ruleset.Match{Prefix: cluster}
	return []ruleset.Rule{
		{Src: in, Verdict: ruleset.Accept, Comment: "from pods"},
		{Dst: in, Verdict: ruleset.Accept, Comment: "to pods"},
	}
}

// multicast is the family's range (RFC 5771, RFC 4291).
func multicast(of netip.Prefix) netip.Prefix {
	if of.Addr().Is6() {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xff}), 8)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)
}
