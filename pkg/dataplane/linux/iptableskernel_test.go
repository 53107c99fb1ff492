package linux_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

const (
	iptNft    = ruleset.IPTablesNFT
	iptLegacy = ruleset.IPTablesLegacy
)

// needLegacy skips where the kernel has no legacy tables.
func needLegacy(t *testing.T) {
	t.Helper()
	if !slices.Contains(engines(t), iptLegacy) {
		t.Skip("this kernel has no legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY)")
	}
}

func masqKey(e ruleset.Engine) ruleset.Key {
	return ruleset.Key{Engine: e, Table: "nat", Chain: "FLANNEL-POSTRTG"}
}

func forwardKey(e ruleset.Engine, ipv6 bool) ruleset.Key {
	return ruleset.Key{Engine: e, IPv6: ipv6, Table: "filter", Chain: "FLANNEL-FWD"}
}

// inIPTables is flannel's pair of chains.
func inIPTables(e ruleset.Engine) dataplane.State {
	cluster := ruleset.Match{Prefix: netip.MustParsePrefix("10.42.0.0/16")}
	masq, forward := "flanneld masq", "flanneld forward"
	return dataplane.State{Chains: map[ruleset.Key]ruleset.Chain{
		masqKey(e): {Hook: ruleset.Postrouting, Jump: masq, Rules: []ruleset.Rule{
			{Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: masq},
			{Src: cluster, Verdict: ruleset.MasqueradeFullyRandom, Comment: masq},
		}},
		forwardKey(e, false): {Hook: ruleset.Forward, Jump: forward, Rules: []ruleset.Rule{
			{Src: cluster, Verdict: ruleset.Accept, Comment: forward},
		}},
	}}
}

// holdLock is somebody who has the xtables lock.
func (h *host) holdLock() (release func()) {
	h.Helper()
	f, err := os.OpenFile(lockOf(h.ns), os.O_RDONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		h.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// Peers don't wait for somebody who holds the lock, and neither does reading;
// rules of another engine stay until ours stand.
func TestLockIsNotWaitedFor(t *testing.T) {
	needLegacy(t)
	h := newHost(t)
	old := chains()
	h.settle(old)
	want := inIPTables(iptLegacy)
	want.Merge(links())
	release := h.holdLock()
	began := time.Now()
	failed := h.Apply(t.Context(), h.plan(want))
	left := h.plan(want)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a round took %s", took)
	}
	if len(failed) != 4 || len(left.Ops) != 4 {
		t.Errorf("want four writes to fail and be left, have %v and\n%s", failed, left)
	}
	for _, f := range failed {
		says := "the xtables lock is held by another program"
		if f.Op.Verb == dataplane.Delete {
			says = "kept until the rules that take its place stand"
		}
		if !strings.Contains(f.Error(), says) {
			t.Errorf("want %q, have: %v", says, f)
		}
	}
	if _, made := h.observe(scope(true, dataplane.State{})).Have.Links[dev]; !made {
		t.Error("the device had to wait")
	}
	release()
	h.settle(want)
}

// Where a program is needed and there is none, the error says what to do; what
// is left in nf_tables goes without one.
func TestWithoutPrograms(t *testing.T) {
	h := newHost(t)
	h.settle(inIPTables(iptNft))
	h.SetProgramDirs(t.TempDir())
	want := inIPTables(iptLegacy)
	failed := h.Apply(t.Context(), h.plan(want))
	if len(failed) != 4 {
		t.Fatalf("want two writes and two deletions to fail, have %v", failed)
	}
	for _, says := range []string{
		"no iptables-legacy program is installed", "install the package iptables", "EnableNFTables",
	} {
		if !strings.Contains(failed[0].Error(), says) {
			t.Errorf("no %q in: %v", says, failed[0])
		}
	}
	h.settle(chains())
	if dump := h.admin.Dump(); strings.Contains(dump, "FLANNEL") {
		t.Errorf("flannel's chains are still there:\n%s", dump)
	}
	facts, err := h.Facts(t.Context(), nil)
	if err != nil || len(facts.Firewall.Programs) != 0 {
		t.Errorf("%+v, %v", facts.Firewall, err)
	}
}

// What is installed is told by the files, as every start looks there; a program of
// another make is asked.
func TestProgramsAreKnownByTheirFiles(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	for name, leads := range map[string]string{
		"iptables": "xtables-legacy-multi", "iptables-nft": "xtables-nft-multi", "iptables-legacy": "xtables-legacy-multi",
	} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, leads), []byte("#!/bin/false\n"), 0o755),
			os.Symlink(leads, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	h.SetProgramDirs(dir)
	before := h.Runs()
	facts, err := h.Facts(t.Context(), nil)
	want := []ruleset.Engine{ruleset.IPTablesLegacy, ruleset.IPTablesNFT}
	if err != nil || !slices.Equal(facts.Firewall.Programs, want) || !facts.Firewall.RandomFully || h.Runs() != before {
		t.Errorf("%+v after %d runs, %v", facts.Firewall, h.Runs()-before, err)
	}

	asked := filepath.Join(dir, "iptables")
	if err := errors.Join(os.Remove(asked),
		os.WriteFile(asked, []byte("#!/bin/sh\necho 'iptables v1.6.1'\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	facts, err = h.Facts(t.Context(), nil)
	if err != nil || !slices.Equal(facts.Firewall.Programs, want) || facts.Firewall.RandomFully || h.Runs() != before+1 {
		t.Errorf("%+v after %d runs, %v", facts.Firewall, h.Runs()-before, err)
	}
}

// A chain that rules of others lead to can't go; the error says so.
func TestChainInUse(t *testing.T) {
	h := newHost(t)
	for _, e := range engines(t)[1:] {
		h.settle(inIPTables(e))
		f := newFirewall(t, h.ns)
		other := masqKey(e)
		other.Chain = "OTHER"
		f.InsertRule(other)
		f.iptables(other, "-A", "OTHER", "-j", masqKey(e).Chain)
		failed := h.Apply(t.Context(), h.plan(dataplane.State{}))
		if len(failed) != 1 || failed[0].Op.Key != masqKey(e) {
			t.Errorf("%s: want one error about %s, have %v", e, masqKey(e), failed)
		}
		f.iptables(other, "-F", "OTHER")
		h.settle(dataplane.State{})
	}
}

// An idle node runs no program, in no engine.
func TestIdleRunsNoProgram(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.String(), func(t *testing.T) {
			h := newHost(t)
			want := chains()
			if e != ruleset.NFTables {
				want = inIPTables(e)
			}
			w := h.watch()
			h.settle(want)
			if _, err := h.Facts(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			w.quiet()
			before := h.Runs()
			w.quiet()
			if _, err := h.Facts(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if e == ruleset.NFTables {
				h.plan(want) // the audit
			}
			if runs := h.Runs() - before; runs > 0 {
				t.Errorf("%d programs were run", runs)
			}
		})
	}
}

// quiet takes what is told until nothing is for a while.
func (w *watcher) quiet() {
	for {
		select {
		case <-w.scopes:
		case <-time.After(5 * resync):
			return
		}
	}
}

// FORWARD policies are facts, and one that turns makes everything dirty where
// the kernel tells of it.
func TestForwardPolicies(t *testing.T) {
	for _, e := range engines(t)[1:] {
		for _, ipv6 := range []bool{false, true} {
			h := newHost(t)
			h.settle(dataplane.State{})
			key := ruleset.Key{Engine: e, IPv6: ipv6, Table: "filter", Chain: "FORWARD"}
			f := newFirewall(t, h.ns)
			h.drops()
			f.iptables(key, "-P", "FORWARD", "ACCEPT")
			h.drops()
			w := h.watch()
			f.iptables(key, "-P", "FORWARD", "DROP")
			if e == iptNft && !w.next("a policy of DROP").All {
				t.Errorf("%s: nothing is told of a policy that changes", key)
			}
			h.drops(key)
			f.iptables(key, "-P", "FORWARD", "DROP") // again, as reloads do
			f.iptables(key, "-P", "FORWARD", "ACCEPT")
			if e == iptNft && !w.next("a policy of ACCEPT").All {
				t.Errorf("%s: nothing is told of a policy that changes back", key)
			}
			h.drops()
		}
	}
}

func (h *host) drops(want ...ruleset.Key) {
	h.Helper()
	facts, err := h.Facts(h.Context(), nil)
	if err != nil {
		h.Fatal(err)
	}
	if d := cmp.Diff(want, facts.Firewall.Drops); d != "" {
		h.Errorf("FORWARD chains that drop (-want +have):\n%s", d)
	}
	if len(facts.Firewall.Programs) < 2 || !facts.Firewall.RandomFully {
		h.Errorf("%+v", facts.Firewall)
	}
}

// Rules of others that no version of ours may know stand beside ours.
func TestRulesOfOthersAreNotRead(t *testing.T) {
	h := newHost(t)
	f := newFirewall(t, h.ns)
	for _, e := range engines(t)[1:] {
		post := ruleset.Key{Engine: e, Table: "nat", Chain: "POSTROUTING"}
		f.iptables(post, "-A", "POSTROUTING", "-p", "tcp", "-m", "conntrack", "--ctstate", "NEW", "-m", "statistic",
			"--mode", "random", "--probability", "0.5", "-j", "SNAT", "--to-source", "192.0.2.1:1000-2000", "--persistent")
		f.iptables(post, "-A", "POSTROUTING", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "ACCEPT")
		h.settle(inIPTables(e))
		if have := f.iptables(post, "-S", "POSTROUTING"); strings.Count(have, "\n") != 4 {
			t.Errorf("%s: want the policy and three rules, have:\n%s", e, have)
		}
		h.settle(dataplane.State{})
		if have := f.iptables(post, "-S", "POSTROUTING"); strings.Count(have, "\n") != 3 {
			t.Errorf("%s: want the policy and two rules, have:\n%s", e, have)
		}
	}
}

// What leads to our chain otherwise than by a plain jump is put right.
func TestOtherWaysToOurChain(t *testing.T) {
	for name, rule := range map[string][]string{
		"goto":          {"-m", "comment", "--comment", "flanneld forward", "-g", "FLANNEL-FWD"},
		"some packets":  {"-i", "eth0", "-m", "comment", "--comment", "flanneld forward", "-j", "FLANNEL-FWD"},
		"other comment": {"-m", "comment", "--comment", "forward", "-j", "FLANNEL-FWD"},
		"two comments": {
			"-m", "comment", "--comment", "a", "-m", "comment", "--comment", "flanneld forward", "-m", "mark", "--mark", "1",
			"-j", "FLANNEL-FWD",
		},
	} {
		h := newHost(t)
		f := newFirewall(t, h.ns)
		for _, e := range engines(t)[1:] {
			h.settle(inIPTables(e))
			key := forwardKey(e, false)
			before := f.iptables(key, "-S", "FORWARD")
			f.iptables(key, "-F", "FORWARD")
			f.iptables(key, append([]string{"-A", "FORWARD"}, rule...)...)
			if p := h.plan(inIPTables(e)); len(p.Ops) != 1 {
				t.Errorf("%s, %s: want one change, have:\n%s", e, name, p)
			}
			h.settle(inIPTables(e))
			if d := cmp.Diff(before, f.iptables(key, "-S", "FORWARD")); d != "" {
				t.Errorf("%s, %s (-want +have):\n%s", e, name, d)
			}
		}
	}
}
