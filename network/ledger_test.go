package network

import (
	"errors"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func TestLedger(t *testing.T) {
	link := dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindLink, Key: "flannel.1", New: dataplane.Link{VNI: 1}}
	route := dataplane.Op{
		Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: dataplane.RouteKey{}, New: dataplane.Route{},
	}
	key := ruleset.Key{Engine: ruleset.IPTablesLegacy, Table: "filter", Chain: "FLANNEL-FWD"}
	chain := dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindChain, Key: key, New: ruleset.Chain{}}
	leftover := dataplane.Op{Verb: dataplane.Delete, Kind: dataplane.KindChain, Key: key, Old: ruleset.Chain{}}
	plan := func(ops ...dataplane.Op) dataplane.Plan { return dataplane.Plan{Ops: ops} }
	full := reconcile.Round{Full: true}
	for name, c := range map[string]struct {
		rounds []reconcile.Round
		want   string // part of the error; "" for ready
	}{
		"nothing was read yet":              {nil, "not programmed yet"},
		"a narrow round is not enough":      {[]reconcile.Round{{Applied: plan(link)}}, "not programmed yet"},
		"everything is as wanted":           {[]reconcile.Round{full}, ""},
		"the kernel can't be read":          {[]reconcile.Round{full, {Err: errors.New("no memory")}}, "no memory"},
		"and can be read again":             {[]reconcile.Round{full, {Err: errors.New("no memory")}, full}, ""},
		"a peer's route is refused":         {[]reconcile.Round{{Full: true, Applied: plan(route), Left: plan(route)}}, ""},
		"the device is refused":             {[]reconcile.Round{{Full: true, Applied: plan(link), Left: plan(link)}}, "link flannel.1"},
		"a chain is refused":                {[]reconcile.Round{{Full: true, Applied: plan(chain), Left: plan(chain)}}, "FLANNEL-FWD"},
		"a chain of flannel's can't go":     {[]reconcile.Round{{Full: true, Applied: plan(leftover), Left: plan(leftover)}}, ""},
		"the device comes with a retry":     {[]reconcile.Round{{Full: true, Applied: plan(link), Left: plan(link)}, {Applied: plan(link)}}, ""},
		"its name is taken":                 {[]reconcile.Round{{Full: true, Left: dataplane.Plan{Conflicts: []dataplane.Op{link}}}}, "ip link delete"},
		"its name is free at the next look": {[]reconcile.Round{{Full: true, Left: dataplane.Plan{Conflicts: []dataplane.Op{link}}}, full}, ""},
		"the reason of the refusal is told": {[]reconcile.Round{{
			Full: true, Applied: plan(link), Left: plan(link),
			Failed: []*dataplane.OpError{{Op: link, Err: errors.New("port 8472 is in use")}},
		}}, "port 8472 is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			var l ledger
			for _, r := range c.rounds {
				l.add(r)
			}
			err := l.err()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("have %v, want %q", err, c.want)
			}
		})
	}
}
