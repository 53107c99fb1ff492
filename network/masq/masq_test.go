package masq_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/network/masq"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/golden"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var (
	networks = prefixes("10.42.0.0/16", "fd00:42::/48")
	subnets  = prefixes("10.42.1.0/24", "fd00:42:0:1::/64")
)

func TestChains(t *testing.T) {
	cases := map[string]masq.Options{
		"IPv4": {
			Networks: networks[:1], Subnets: subnets[:1], Masquerade: true, Forward: true, FullyRandom: true,
		},
		"IPv6":       {Networks: networks[1:], Subnets: subnets[1:], Masquerade: true, Forward: true, FullyRandom: true},
		"dual stack": {Networks: networks, Subnets: subnets, Masquerade: true, Forward: true, FullyRandom: true},
		"ports not fully random": {
			Networks: networks[:1], Subnets: subnets[:1], Masquerade: true,
		},
		"forward only":          {Networks: networks, Subnets: subnets, Forward: true},
		"masquerade only":       {Networks: networks, Subnets: subnets, Masquerade: true, FullyRandom: true},
		"no subnet of a family": {Networks: networks, Subnets: subnets[:1], Masquerade: true},
		"a second network on iptables": {
			Engine: ruleset.IPTablesLegacy, Suffix: "-2", Networks: networks[:1], Subnets: subnets[:1],
			Masquerade: true, Forward: true,
		},
		"a table of a second network": {Suffix: "-2", Networks: networks, Subnets: subnets, Masquerade: true, Forward: true},
		"nothing":                     {Networks: networks, Subnets: subnets},
		"subnets in another order": {
			Networks: networks, Subnets: []netip.Prefix{subnets[1], subnets[0]}, Masquerade: true,
		},
		"iptables": {
			Engine: ruleset.IPTablesNFT, Networks: networks, Subnets: subnets,
			Masquerade: true, Forward: true, FullyRandom: true,
		},
		"iptables legacy ports not fully random": {
			Engine: ruleset.IPTablesLegacy, Networks: networks[:1], Subnets: subnets[:1], Masquerade: true, Forward: true,
		},
		"iptables masquerade only": {
			Engine: ruleset.IPTablesNFT, Networks: networks, Subnets: subnets, Masquerade: true, FullyRandom: true,
		},
		"iptables forward only":       {Engine: ruleset.IPTablesNFT, Networks: networks, Subnets: subnets, Forward: true},
		"an invalid subnet is no one": {Networks: networks, Subnets: []netip.Prefix{{}, subnets[1]}, Masquerade: true},
	}
	for name, o := range cases {
		t.Run(name, func(t *testing.T) { golden.Check(t, name, render(masq.Chains(o))) })
	}
}

func render(chains map[ruleset.Key]ruleset.Chain) string {
	if len(chains) == 0 {
		return "(no chains)\n"
	}
	var blocks []string
	for key, c := range chains {
		s := fmt.Sprintf("chain %s: type %s hook %s priority %d\n", key, c.Type, c.Hook, c.Priority)
		if key.Engine != ruleset.NFTables {
			s = fmt.Sprintf("chain %s: jump from %s, comment %q\n", key, c.Hook, c.Jump)
		}
		for _, r := range c.Rules {
			s += "    " + r.String() + "\n"
		}
		blocks = append(blocks, s)
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

// What becomes of packets, rather than what the rules say: the first that
// matches decides, and a chain's end accepts.
func TestWhatHappensToPackets(t *testing.T) {
	const masquerade, keep = ruleset.MasqueradeFullyRandom, ruleset.Return
	const (
		here, here2, there            = "10.42.1.5", "10.42.1.6", "10.42.2.5"
		node, world, group            = "192.168.77.1", "198.51.100.9", "224.0.0.251"
		here6, there6, world6, group6 = "fd00:42:0:1::5", "fd00:42:0:2::5", "2001:db8::9", "ff02::fb"
	)
	cases := []struct {
		name     string
		src, dst string
		mark     uint32
		want     ruleset.Verdict
	}{
		{"pod to pod on this node", here, here2, 0, keep},
		{"pod to a pod elsewhere", here, there, 0, keep},
		{"pod elsewhere to a pod here", there, here, 0, keep},
		{"client outside to a pod here", world, here, 0, keep},
		{"this node to a pod here", node, here, 0, keep},
		{"pod to the world", here, world, 0, masquerade},
		{"pod to another node", here, "192.168.77.2", 0, masquerade},
		{"pod to a multicast group", here, group, 0, ruleset.Accept},
		{"client outside to a pod elsewhere, through here", world, there, 0, masquerade},
		{"this node to a pod elsewhere", node, there, 0, masquerade},
		{"nothing of the cluster's", node, world, 0, ruleset.Accept},
		{"pod to the world, marked by kube-proxy", here, world, 0x4000, keep},
		{"pod to the world, marked by kube-proxy among others", here, world, 0x4001, keep},
		{"pod to the world, marked by somebody else", here, world, 0x8001, masquerade},
		{"IPv6 pod to a pod elsewhere", here6, there6, 0, keep},
		{"IPv6 pod to the world", here6, world6, 0, masquerade},
		{"IPv6 pod to a multicast group", here6, group6, 0, ruleset.Accept},
		{"IPv6 world to a pod elsewhere", world6, there6, 0, masquerade},
		{"IPv6 world to a pod here", world6, here6, 0, keep},
	}
	for engine, key := range map[ruleset.Engine]ruleset.Key{
		ruleset.NFTables:    {Table: "weft", Chain: "postrouting"},
		ruleset.IPTablesNFT: {Engine: ruleset.IPTablesNFT, Table: "nat", Chain: "FLANNEL-POSTRTG"},
	} {
		chains := masq.Chains(masq.Options{
			Engine: engine, Networks: networks, Subnets: subnets, Masquerade: true, FullyRandom: true,
		})
		for _, c := range cases {
			src, dst := netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst)
			key.IPv6 = src.Is6()
			if have := verdict(chains[key], src, dst, c.mark); have != c.want {
				t.Errorf("%s, %s: %s, want %s", engine, c.name, have, c.want)
			}
		}
	}
}

// What an engine of iptables can hold of ours, Owned must name: nothing else is
// taken away when the engine changes.
func TestOwnedNamesAllThatIsMade(t *testing.T) {
	const suffix = "-16777215" // the largest VNI
	made := map[ruleset.Key]bool{}
	for _, engine := range []ruleset.Engine{ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		for key := range masq.Chains(masq.Options{
			Engine: engine, Suffix: suffix, Networks: networks, Subnets: subnets, Masquerade: true, Forward: true,
		}) {
			if len(key.Chain) > 28 { // XT_EXTENSION_MAXNAMELEN - 1
				t.Errorf("iptables refuses a name as long as %s", key.Chain)
			}
			made[key] = true
		}
	}
	owned := map[ruleset.Key]bool{}
	for _, key := range masq.Owned(suffix) {
		owned[key] = true
	}
	if d := cmp.Diff(made, owned); d != "" || len(owned) != 8 {
		t.Errorf("%d keys (-made +owned):\n%s", len(owned), d)
	}
}

func verdict(c ruleset.Chain, src, dst netip.Addr, mark uint32) ruleset.Verdict {
	match := func(m ruleset.Match, a netip.Addr) bool {
		return !m.Prefix.IsValid() || m.Prefix.Contains(a) != m.Not
	}
	for _, r := range c.Rules {
		if match(r.Src, src) && match(r.Dst, dst) && mark&r.Mask == r.Mark {
			return r.Verdict
		}
	}
	return ruleset.Accept
}

func TestCommentsFitTheKernel(t *testing.T) {
	for key, chain := range masq.Chains(masq.Options{
		Networks: networks, Subnets: subnets, Masquerade: true, Forward: true,
	}) {
		for _, r := range chain.Rules {
			if r.Comment == "" || len(r.Comment) > 128 {
				t.Errorf("%s: comment of %d bytes: %q", key, len(r.Comment), r.Comment)
			}
		}
	}
}

func TestSysctls(t *testing.T) {
	four, six := map[string]string{"net/ipv4/ip_forward": "1"}, map[string]string{"net/ipv6/conf/all/forwarding": "1"}
	both := map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
	cases := []struct{ want, have map[string]string }{
		{four, masq.Sysctls(networks[:1])},
		{six, masq.Sysctls(networks[1:])},
		{both, masq.Sysctls(networks)},
		{map[string]string{}, masq.Sysctls(nil)},
	}
	for _, c := range cases {
		if d := cmp.Diff(c.want, c.have); d != "" {
			t.Error(d)
		}
	}
}
