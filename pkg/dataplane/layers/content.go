package layers

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// content is the State of a fragment, kept in lists: a map of one entry takes a
// kilobyte, and a peer has five. What peers have none of stays as it was.
type content struct {
	elems  []pair[ruleset.Elem, struct{}]
	fdb    []pair[dataplane.FDBKey, netip.Addr]
	neighs []pair[dataplane.NeighKey, mac.Addr]
	routes []pair[dataplane.RouteKey, dataplane.Route]
	rest   *dataplane.State // of the other kinds; nil: nothing
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func pack(s dataplane.State) *content {
	c := &content{elems: pairs(s.Elems), fdb: pairs(s.FDB), neighs: pairs(s.Neighs), routes: pairs(s.Routes)}
	s.Elems, s.FDB, s.Neighs, s.Routes = nil, nil, nil, nil
	if s.Len() > 0 {
		c.rest = &s
	}
	return c
}

func pairs[K comparable, V any](m map[K]V) []pair[K, V] {
	if len(m) == 0 {
		return nil
	}
	out := make([]pair[K, V], 0, len(m))
	for k, v := range m {
		out = append(out, pair[K, V]{k, v})
	}
	return out
}

// State is the content as it was packed.
func (f Fragment) State() (s dataplane.State) {
	f.content.mergeInto(&s)
	return s
}

func (c *content) mergeInto(s *dataplane.State) {
	merge(&s.Elems, c.elems)
	merge(&s.FDB, c.fdb)
	merge(&s.Neighs, c.neighs)
	merge(&s.Routes, c.routes)
	if c.rest != nil {
		s.Merge(*c.rest)
	}
}

func merge[K comparable, V any](to *map[K]V, from []pair[K, V]) {
	if len(from) > 0 && *to == nil {
		*to = make(map[K]V, len(from))
	}
	for i := range from {
		(*to)[from[i].key] = from[i].value
	}
}

func (c *content) removeFrom(s *dataplane.State) {
	remove(s.Elems, c.elems)
	remove(s.FDB, c.fdb)
	remove(s.Neighs, c.neighs)
	remove(s.Routes, c.routes)
	if c.rest != nil {
		s.Remove(*c.rest)
	}
}

func remove[K comparable, V any](from map[K]V, entries []pair[K, V]) {
	for i := range entries {
		delete(from, entries[i].key)
	}
}

// overlaps tells whether s holds an entry with a key of ours.
func (c *content) overlaps(s *dataplane.State) bool {
	return holds(s.Elems, c.elems) || holds(s.FDB, c.fdb) || holds(s.Neighs, c.neighs) || holds(s.Routes, c.routes) ||
		c.rest != nil && s.Overlaps(*c.rest)
}

func holds[K comparable, V any](m map[K]V, entries []pair[K, V]) bool {
	for i := range entries {
		if _, ok := m[entries[i].key]; ok {
			return true
		}
	}
	return false
}

// keys visits the key of every entry.
func (c *content) keys(visit func(dataplane.Kind, any)) {
	for i := range c.elems {
		visit(dataplane.KindElem, c.elems[i].key)
	}
	for i := range c.fdb {
		visit(dataplane.KindFDB, c.fdb[i].key)
	}
	for i := range c.neighs {
		visit(dataplane.KindNeigh, c.neighs[i].key)
	}
	for i := range c.routes {
		visit(dataplane.KindRoute, c.routes[i].key)
	}
	if c.rest != nil {
		c.rest.Keys(visit)
	}
}
