package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

// kind is one of the two that iptables is: "nft" or "legacy".
type kind string

// kinds are those of this kernel. Their programs must be there.
func kinds(t testing.TB, c *cluster) []kind {
	t.Helper()
	for _, k := range []kind{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + string(k)); err != nil {
			t.Fatalf("%v; install the package iptables (make needs does)", err)
		}
	}
	if _, err := output(t, c.Outside, "iptables-legacy", "-t", "nat", "-S"); err != nil {
		return []kind{"nft"}
	}
	return []kind{"nft", "legacy"}
}

// env makes `iptables` of that kind, with a lock that is the test's own.
func (c *cluster) env(k kind) []string {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), string(k))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, part := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-" + string(k) + part)
			if err == nil {
				err = os.Symlink(path, filepath.Join(dir, family+part))
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH"), c.lock()}
}

// noPrograms stands for a host without iptables: no program of that name works.
func (c *cluster) noPrograms() []string {
	c.t.Helper()
	dir := c.t.TempDir()
	for _, name := range []string{"iptables", "iptables-nft", "iptables-legacy"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nexit 127\n"), 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	return []string{"PATH=" + dir, c.lock()}
}

func (c *cluster) lock() string {
	return "XTABLES_LOCKFILE=" + filepath.Join(c.Nodes[0].Dir, "xtables.lock")
}

// iptables runs one of the programs on a node: "iptables-nft", "ip6tables-legacy-save".
func (c *cluster) iptables(node int, program string, args ...string) string {
	c.t.Helper()
	out, err := output(c.t, &c.Nodes[node].Namespace, "env", append([]string{c.lock(), program}, args...)...)
	if err != nil {
		c.t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	var kept []string
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "#") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// put writes the network configuration.
func (c *cluster) put(config string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() error {
		out, err := output(c.t, &c.Nodes[0].Namespace, filepath.Join(bin, "etcdctl"),
			"--endpoints", c.etcdURL(), "put", "/coreos.com/network/config", config)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// engineConfig is a dual-stack network with EnableNFTables as said.
func engineConfig(enable string) string {
	if enable != "" {
		enable = `"EnableNFTables":` + enable + `,`
	}
	return strings.Replace(dualConfig(`{"Type":"vxlan"}`), "{", "{"+enable, 1)
}

// flannelsRules is what `-S` prints of the four chains, as flannel v0.28.9 has
// it.
func flannelsRules(cluster, own netip.Prefix) string {
	multicast := "224.0.0.0/4"
	if own.Addr().Is6() {
		multicast = "ff00::/8"
	}
	of := strings.NewReplacer("{C}", cluster.String(), "{P}", own.Masked().String(), "{M}", multicast)
	return of.Replace(`-P POSTROUTING ACCEPT
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-N FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {P} -d {C} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {C} -d {P} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s {C} -d {P} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {C} ! -d {M} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {C} -d {C} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-P FORWARD ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-N FLANNEL-FWD
-A FLANNEL-FWD -s {C} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {C} -m comment --comment "flanneld forward" -j ACCEPT
`)
}

// rules is what the programs print of these chains.
func (c *cluster) rules(node int, program string) string {
	return c.iptables(node, program, "-t", "nat", "-S", "POSTROUTING") +
		c.iptables(node, program, "-t", "nat", "-S", "FLANNEL-POSTRTG") +
		c.iptables(node, program, "-t", "filter", "-S", "FORWARD") +
		c.iptables(node, program, "-t", "filter", "-S", "FLANNEL-FWD")
}

// TestRulesInIPTables: pods reach each other and the world with flannel's rules,
// word by word, and rules that are deleted by hand come back.
func TestRulesInIPTables(t *testing.T) {
	for _, k := range []kind{"nft", "legacy"} {
		t.Run(string(k), func(t *testing.T) {
			c := newCluster(t, 2, underlay4, underlay6)
			if k == "legacy" && len(kinds(t, c)) < 2 {
				t.Skip("this kernel has no legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY)")
			}
			daemons := []*daemon{c.daemon(0, c.storeArgs()...), c.daemon(1, "--iptables-resync=2")}
			for _, d := range daemons {
				d.env = c.env(k)
				d.start()
			}
			c.put(engineConfig("false"))
			networks := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}
			for i, d := range daemons {
				if s := d.awaitReady(1); s.Rules.Engine != "iptables-"+string(k) || s.Rules.Reason != "EnableNFTables is false" {
					t.Errorf("rules: %+v", s.Rules)
				}
				for family, own := range subnetsOf(t, d) {
					want := flannelsRules(networks[family], own)
					program := []string{"iptables-", "ip6tables-"}[family] + string(k)
					if d := cmp.Diff(want, c.rules(i, program)); d != "" {
						t.Errorf("%s (-want +have):\n%s", program, d)
					}
				}
			}
			pods := c.pods()
			c.mesh(pods, 1430)
			c.masquerade(pods)
			before := c.rules(1, "iptables-"+string(k))
			for _, hurt := range [][]string{
				{"-t", "nat", "-F", "FLANNEL-POSTRTG"}, {"-t", "nat", "-F", "POSTROUTING"},
				{"-t", "filter", "-D", "FLANNEL-FWD", "1"}, {"-t", "filter", "-I", "FLANNEL-FWD", "-j", "DROP"},
			} {
				c.iptables(1, "iptables-"+string(k), hurt...)
				eventually(t, 20*time.Second, func() error {
					if d := cmp.Diff(before, c.rules(1, "iptables-"+string(k))); d != "" {
						return errors.New(d)
					}
					return nil
				})
			}
			daemons[1].awaitPlanEmpty()
		})
	}
}

// TestForwardPolicyDecides: where nothing is said, a node whose FORWARD policy
// is DROP takes iptables, and follows when the policy turns.
func TestForwardPolicyDecides(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		c.iptables(0, program, "-P", "FORWARD", "DROP")
	}
	daemons := []*daemon{c.daemon(0, c.storeArgs()...), c.daemon(1)}
	for _, d := range daemons {
		d.env = c.env("nft")
		d.start()
	}
	c.put(engineConfig(""))
	daemons[0].awaitReady(1)
	daemons[1].awaitReady(1)
	daemons[0].awaitEngine("iptables-nft", "the FORWARD policy of iptables-nft and ip6tables-nft is DROP")
	daemons[1].awaitEngine("nftables", "no FORWARD policy of iptables drops")
	daemons[0].awaitLog("rules engine", "iptables-nft", "is DROP")
	pods := c.pods()
	c.mesh(pods, 1430)

	c.iptables(1, "iptables-nft", "-P", "FORWARD", "DROP")
	daemons[1].awaitEngine("iptables-nft", "the FORWARD policy of iptables-nft is DROP")
	daemons[1].awaitPlanEmpty()
	c.mesh(pods, 1430)
	c.iptables(1, "iptables-nft", "-P", "FORWARD", "ACCEPT")
	daemons[1].awaitEngine("nftables", "no FORWARD policy of iptables drops")
	daemons[1].awaitPlanEmpty()
	c.mesh(pods, 1430)
	c.only(1, "nftables")
}

func (d *daemon) awaitEngine(name, reason string) {
	d.t.Helper()
	eventually(d.t, 10*time.Second, func() error {
		s, err := d.status()
		if err == nil && (s.Rules.Engine != name || !strings.Contains(s.Rules.Reason, reason)) {
			err = fmt.Errorf("%s: rules: %+v, want %s: %s", d.node.Name, s.Rules, name, reason)
		}
		return err
	})
}

// only wants rules of ours and of flannel's in one engine and in no other, but those
// on the tunnel's own packets, which nftables alone can have.
func (c *cluster) only(node int, engine string) {
	c.t.Helper()
	have := map[string]bool{}
	err := c.Nodes[node].Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := conn.ListChains()
		for _, chain := range chains {
			ours := strings.HasPrefix(chain.Table.Name, "weft") || strings.HasPrefix(chain.Table.Name, "flannel")
			if ours && !strings.HasPrefix(chain.Name, "tunnel-") {
				have["nftables"] = true
			}
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, k := range kinds(c.t, c) {
		for _, family := range []string{"iptables-", "ip6tables-"} {
			if strings.Contains(strings.ToLower(c.iptables(node, family+string(k)+"-save")), "flannel") {
				have["iptables-"+string(k)] = true
			}
		}
	}
	if d := cmp.Diff(map[string]bool{engine: true}, have); d != "" {
		c.t.Errorf("engines with rules (-want +have):\n%s", d)
	}
}

// TestEnginesAreSwitched: after flannel in either engine, after a restart with
// another configuration and under a configuration that is edited, there are the
// rules of one engine, and no new flow goes without its masquerade. So it is too
// where there is no program of iptables any more, as in another image.
func TestEnginesAreSwitched(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	all := kinds(t, c)
	store := c.daemon(0, c.storeArgs()...)
	store.env = []string{c.lock()}
	store.start()
	c.put(engineConfig("true"))
	c.flannelWasHere(1, all)
	d := c.daemon(1)
	d.env = c.env("nft")
	d.start().awaitReady(1)
	d.awaitPlanEmpty()
	c.only(1, "nftables")

	pod := c.pod(c.Nodes[1], "a")
	var flows []*flows
	for _, a := range c.Outside.Addrs {
		flows = append(flows, startFlows(t, &pod.Namespace, c.Outside, a))
	}
	for _, k := range append(all, "nft") {
		d.stop()
		c.put(engineConfig("false"))
		d.env = c.env(k)
		d.start().awaitEngine("iptables-"+string(k), "EnableNFTables is false")
		d.awaitPlanEmpty()
		c.only(1, "iptables-"+string(k))
		c.put(engineConfig("true"))
		d.awaitEngine("nftables", "EnableNFTables is true")
		d.awaitPlanEmpty()
		c.only(1, "nftables")
		c.put(engineConfig("false"))
		d.awaitEngine("iptables-"+string(k), "EnableNFTables is false")
		d.awaitPlanEmpty()
	}
	d.stop()
	d.env = c.noPrograms()
	d.start().awaitEngine("nftables", "there is no program of iptables")
	if s := d.awaitReady(1); !strings.Contains(s.Rules.Warning, "install the package iptables, or set it to true") {
		t.Errorf("rules: %+v", s.Rules)
	}
	d.awaitPlanEmpty()
	c.only(1, "nftables")
	for family, f := range flows {
		f.all(c.Nodes[1].Addrs[family])
	}
}

// flannelWasHere leaves what flannel does: chains of iptables, of an older
// configuration even.
func (c *cluster) flannelWasHere(node int, all []kind) {
	c.t.Helper()
	for _, k := range all {
		for program, network := range map[string]string{"iptables-": "10.41.0.0/16", "ip6tables-": "fd00:41::/48"} {
			program += string(k)
			for _, where := range [][]string{{"nat", "FLANNEL-POSTRTG", "POSTROUTING"}, {"filter", "FLANNEL-FWD", "FORWARD"}} {
				c.iptables(node, program, "-t", where[0], "-N", where[1])
				c.iptables(node, program, "-t", where[0], "-A", where[1], "-s", network, "-j", "ACCEPT")
				c.iptables(node, program, "-t", where[0], "-A", where[2], "-m", "comment", "--comment", "flanneld", "-j", where[1])
			}
		}
	}
}
