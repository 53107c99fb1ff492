package linux

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
)

// A look at everything after which nothing, or something else, is written makes
// no occupied key forgotten: only who watches it hears that it is free.
func TestOccupiedKeysStayWatched(t *testing.T) {
	m := newMemory(83)
	key := func(n byte) dataplane.RouteKey {
		return dataplane.RouteKey{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, n}), 24)}
	}
	plan := func(verb dataplane.Verb, n byte) dataplane.Plan {
		return dataplane.Plan{Ops: []dataplane.Op{{Verb: verb, Kind: dataplane.KindRoute, Key: key(n)}}}
	}
	m.planned(plan(dataplane.Create, 1))
	m.occupied(key(1))
	m.full = true // an audit, or somebody who asked what we would do
	m.planned(plan(dataplane.Create, 2))
	if _, watched := m.routes[key(1)]; !watched || m.stoodOn(key(1)) {
		t.Errorf("of the occupied key is known: %+v", m.routes)
	}
	m.full = true
	m.planned(plan(dataplane.Create, 3))
	if _, watched := m.routes[key(2)]; watched {
		t.Error("a key that nobody wants any more is still watched")
	}
	m.planned(plan(dataplane.Delete, 1))
	if _, watched := m.routes[key(1)]; watched {
		t.Error("an occupied key that is not wanted any more is still watched")
	}
}
