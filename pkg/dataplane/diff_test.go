package dataplane

import (
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/mac"
)

// one is this node and the IPv4 half of its peers only, to keep the files short.
func one(peers ...int) State {
	s := world(peers...)
	delete(s.Links, dev6)
	s.Sysctls = nil
	sweepLink(&s, dev6)
	return s
}

type diffCase struct {
	name string
	want State
	have Observed
	cut  bool // WithoutDeletes
}

func diffCases() []diffCase {
	moved := union(one(), one(2))
	moved.Routes = map[RouteKey]Route{{Prefix: prefix("10.42.2.0/24")}: {Via: addr("192.168.77.2"), Link: "eth0"}}
	moved.Neighs, moved.FDB, moved.Links, moved.Addrs = nil, nil, nil, nil

	unmarked := one(2, 3)
	for k, v := range unmarked.Routes {
		v.Unmarked = true
		unmarked.Routes[k] = v
	}
	down := relink(one(2), dev4, func(l *Link) { l.Up = false })
	down.Routes, down.Neighs = nil, nil

	foreignRoute := State{Routes: map[RouteKey]Route{
		{Prefix: prefix("10.42.2.0/24")}: {Via: addr("192.168.77.9"), Link: "eth0"},
	}}
	// Peer 2 as wanted but for the mark, peer 3 through another gateway.
	direct, leftDirect := State{Routes: map[RouteKey]Route{}}, State{Routes: map[RouteKey]Route{}}
	for n, via := range map[int]int{2: 2, 3: 9} {
		k := RouteKey{Prefix: prefix("10.42.%d.0/24", n)}
		direct.Routes[k] = Route{Via: addr("192.168.77.%d", n), Link: "eth0"}
		leftDirect.Routes[k] = Route{Via: addr("192.168.77.%d", via), Link: "eth0", Unmarked: true}
	}
	hole := State{Routes: map[RouteKey]Route{{Prefix: prefix("10.42.1.0/24"), Metric: 9}: {Blackhole: true}}}
	foreignLink := State{Links: map[string]Link{dev4: {VNI: 7, Port: 4789, MTU: 1500}}}
	foreignDummy := State{Links: map[string]Link{dev4: {MTU: 1500, MAC: vtep(0x77), Up: true}}}

	newMAC := one()
	newMAC.Merge(State{
		FDB:    one(2).FDB,
		Routes: one(2).Routes,
		Neighs: one(2).Neighs,
	})
	for k := range newMAC.FDB {
		delete(newMAC.FDB, k)
		k.MAC = vtep(0x99)
		newMAC.FDB[k] = addr("192.168.77.22")
	}
	newMAC.Neighs = map[NeighKey]mac.Addr{{dev4, addr("10.42.2.0")}: vtep(0x99)}

	rules := union(State{Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}, Chains: chainOf(ruleset.Accept)})
	oldRules := State{
		Sysctls: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv4/x": "1"},
		Chains:  chainOf(ruleset.Drop),
	}
	stale := ruleset.Key{Table: "weft", Chain: "stale"}
	oldRules.Chains[stale] = ruleset.Chain{Type: "filter", Hook: ruleset.Forward}

	return []diffCase{
		{name: "fresh start in dual stack", want: world(2)},
		{name: "all is right", want: world(2, 3), have: Observed{Have: world(2, 3)}},
		{name: "peer added", want: one(2, 3), have: Observed{Have: one(2)}},
		{name: "peer changed its MAC and address", want: newMAC, have: Observed{Have: one(2)}},
		{name: "peer removed", want: one(2), have: Observed{Have: one(2, 3)}},
		{name: "our MAC changed", want: one(2), have: Observed{Have: relink(one(2, 3), dev4, func(l *Link) { l.MAC = vtep(9) })}},
		{name: "our device has another VNI", want: one(2), have: Observed{Have: relink(one(2, 3), dev4, func(l *Link) { l.VNI = 2 })}},
		{name: "our device is down", want: one(2), have: Observed{Have: down}},
		{name: "our device was renamed", want: one(2), have: Observed{Have: relink(one(2), dev4, func(l *Link) { l.Actual = "vx0" })}},
		{name: "our device keeps its GBP", want: one(2), have: Observed{Have: relink(one(2), dev4, func(l *Link) { l.GBP = true })}},
		{name: "our device goes", want: State{}, have: Observed{Have: one(2)}},
		{name: "route leaves a device that goes", want: moved, have: Observed{Have: one(2)}},
		{name: "foreign route on our key", want: one(2, 3), have: Observed{Have: one(), Occupied: foreignRoute}},
		{name: "foreign device with our name", want: world(2), have: Observed{Occupied: foreignLink}},
		{name: "foreign dummy with our name", want: one(), have: Observed{Occupied: foreignDummy}},
		{name: "routes that flannel left", want: one(2), have: Observed{Have: unmarked}},
		{name: "direct routes that flannel left", want: direct, have: Observed{Occupied: leftDirect}},
		{name: "tunnel becomes direct", want: direct, have: Observed{Have: one(2, 3)}},
		{name: "direct becomes tunnel", want: one(2, 3), have: Observed{Have: union(one(), direct)}},
		{name: "blackhole", want: hole},
		{name: "peers not known yet", want: relink(one(3), dev4, func(l *Link) { l.VNI = 2 }), have: Observed{Have: one(2)}, cut: true},
		{name: "rules and sysctls", want: rules, have: Observed{Have: oldRules}},
	}
}

func TestDiff(t *testing.T) {
	for _, c := range diffCases() {
		t.Run(c.name, func(t *testing.T) {
			plan := Diff(c.want, c.have)
			title := "plan"
			if c.cut {
				plan, title = plan.WithoutDeletes(), "plan without deletes"
			}
			text := section("have", entries(c.have.Have)) + section("foreign", entries(c.have.Occupied)) +
				section("want", entries(c.want)) + section(title, plan.String())
			golden.Check(t, c.name, text)
		})
	}
}

// entries lists a state: it is the plan that makes it from nothing.
func entries(s State) string {
	return strings.ReplaceAll(Diff(s, Observed{}).String(), "+ ", "")
}

func section(title, body string) string {
	if body == "" {
		body = "(nothing)\n"
	}
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	return title + "\n    " + strings.Join(lines, "\n    ") + "\n\n"
}
