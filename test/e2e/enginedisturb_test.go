package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
)

// resynced is how soon rules in iptables-legacy are right again: nobody is told of
// a change there, so weftd looks so often.
const resynced = 5 * time.Second

// TestEngineDisturbances changes and deletes, one by one, rules that stand in
// iptables, by its own programs, and measures the time until all is as it was. What
// the program takes to disturb is in it; and with legacy, where only programs can
// read, what four of them take to look.
func TestEngineDisturbances(t *testing.T) {
	const few = 1
	all := []kind{"nft", "legacy"}
	if rounds(t, few) == few { // in `make test`, where TestRulesInIPTables hurts the legacy ones
		all = all[:1]
	}
	for _, k := range all {
		t.Run(string(k), func(t *testing.T) {
			c := newCluster(t, 2, underlay4, underlay6)
			if k == "legacy" && len(kinds(t, c)) < 2 {
				t.Skip("this kernel has no legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY)")
			}
			daemons := []*daemon{c.daemon(0, c.storeArgs()...), c.daemon(1)}
			for _, d := range daemons {
				d.env = c.env(k)
				d.start()
			}
			c.put(engineConfig("false"))
			for _, d := range daemons {
				d.awaitReady(1)
				d.awaitPlanEmpty()
			}
			x := trial{
				d: daemons[1], m: newMirror(t, c.Nodes[1]), from: c.pod(c.Nodes[1], "a"), to: c.pod(c.Nodes[0], "a"),
				all: c.engineDisturbances(1, k), times: rounds(t, few), most: tolerated,
				pace: 80 * time.Millisecond, // a third of all hurts the same chain
			}
			x.m.chains = x.m.iptablesRules
			if k == "legacy" {
				x.m.chains = func() ([]string, error) { return c.iptablesSaved(1, k) }
				x.times, x.most = 1, tolerated+resynced
			}
			x.run(t)
		})
	}
}

// iptablesRules lists what stands in nftables' tables of iptables.
func (m *mirror) iptablesRules() (lines []string, err error) {
	chains, err := m.nft.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Table.Name != "nat" && c.Table.Name != "filter" {
			continue
		}
		rules, err := m.nft.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("chain %d %s %s", c.Table.Family, c.Table.Name, c.Name)
		lines = append(lines, name)
		for i, r := range rules {
			text := fmt.Sprintf("%s rule %d:", name, i)
			for _, e := range r.Exprs {
				if _, counts := e.(*expr.Counter); counts {
					continue
				}
				b, err := json.Marshal(e)
				if err != nil {
					return nil, err
				}
				text += fmt.Sprintf(" %T %s", e, b)
			}
			lines = append(lines, text)
		}
	}
	return lines, nil
}

// iptablesSaved is what the programs print of the tables in which rules of weft's stand,
// of both families, without counters.
func (c *cluster) iptablesSaved(node int, k kind) (lines []string, err error) {
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter"} {
			out, err := output(c.t, &c.Nodes[node].Namespace, "env", c.lock(), family+"-"+string(k)+"-save", "-t", table)
			if err != nil {
				return nil, fmt.Errorf("%w: %s", err, out)
			}
			for i, line := range strings.Split(out, "\n") {
				if strings.HasPrefix(line, ":") {
					line, _, _ = strings.Cut(line, " [")
				}
				if line != "" && !strings.HasPrefix(line, "#") {
					lines = append(lines, fmt.Sprintf("chain %s %s %3d: %s", family, table, i, line))
				}
			}
		}
	}
	return lines, nil
}

// engineDisturbances are done by the programs of iptables.
func (c *cluster) engineDisturbances(node int, k kind) []disturbance {
	var all []disturbance
	for _, family := range []string{"iptables", "ip6tables"} {
		program := family + "-" + string(k)
		run := func(orders ...string) func() error {
			return func() error {
				for _, order := range orders {
					args := slices.Concat([]string{c.lock(), program, "-w"}, strings.Fields(order))
					if out, err := output(c.t, &c.Nodes[node].Namespace, "env", args...); err != nil {
						return fmt.Errorf("%s %s: %w: %s", program, order, err, out)
					}
				}
				return nil
			}
		}
		for _, d := range []disturbance{
			{"rule deleted", run("-t nat -D FLANNEL-POSTRTG 2")},
			{"chain flushed", run("-t nat -F FLANNEL-POSTRTG")},
			{"rule replaced", run("-t nat -R FLANNEL-POSTRTG 2 -j ACCEPT")},
			{"rule inserted", run("-t filter -I FLANNEL-FWD -j DROP")},
			{"rule appended", run("-t filter -A FLANNEL-FWD -j DROP")},
			{"jump deleted, nat", run("-t nat -D POSTROUTING 1")},
			{"jump deleted, filter", run("-t filter -D FORWARD 1")},
			{"built-in chain flushed", run("-t nat -F POSTROUTING")},
			{"table flushed", run("-t filter -F")},
		} {
			all = append(all, disturbance{program + ": " + d.name, d.do})
		}
	}
	return all
}
