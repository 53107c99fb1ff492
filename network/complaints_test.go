package network

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// A standing complaint is one line in the log, however often it is tried.
func TestComplaints(t *testing.T) {
	link := dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindLink, Key: "flannel.1", New: dataplane.Link{VNI: 1}}
	route := dataplane.Op{
		Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: dataplane.RouteKey{}, New: dataplane.Route{},
	}
	refuses := func(full bool, op dataplane.Op, why string) reconcile.Round {
		return reconcile.Round{
			Full: full, Applied: dataplane.Plan{Ops: []dataplane.Op{op}},
			Failed: []*dataplane.OpError{{Op: op, Err: errors.New(why)}},
			Left:   dataplane.Plan{Ops: []dataplane.Op{op}},
		}
	}
	taken := reconcile.Round{
		Failed: []*dataplane.OpError{{Op: link, Err: fmt.Errorf("%w: by another", dataplane.ErrOccupied)}},
		Left:   dataplane.Plan{Conflicts: []dataplane.Op{link}},
	}
	clean := reconcile.Round{Full: true}
	for name, c := range map[string]struct {
		rounds []reconcile.Round
		want   []int // new refusals and conflicts of each round
	}{
		"refused again and again":     {[]reconcile.Round{refuses(true, link, "no"), refuses(false, link, "no"), refuses(true, link, "no")}, []int{1, 0, 0}},
		"for another reason":          {[]reconcile.Round{refuses(true, link, "no"), refuses(false, link, "never")}, []int{1, 1}},
		"another entry":               {[]reconcile.Round{refuses(true, link, "no"), refuses(false, route, "no"), refuses(false, link, "no")}, []int{1, 1, 0}},
		"written, and refused again":  {[]reconcile.Round{refuses(true, link, "no"), {Applied: dataplane.Plan{Ops: []dataplane.Op{link}}}, refuses(false, link, "no")}, []int{1, 0, 1}},
		"gone, and there again":       {[]reconcile.Round{refuses(true, link, "no"), clean, refuses(true, link, "no")}, []int{1, 0, 1}},
		"taken by another, for good":  {[]reconcile.Round{taken, taken, taken}, []int{1, 0, 0}},
		"taken, given back and taken": {[]reconcile.Round{taken, clean, taken}, []int{1, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			said := complaints{}
			var have []int
			for _, r := range c.rounds {
				refused, conflicts := said.fresh(r)
				have = append(have, len(refused)+len(conflicts))
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Errorf("-want +have\n%s", d)
			}
		})
	}
}
