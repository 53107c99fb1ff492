package layers

import (
	"maps"
	"net/netip"
	"slices"

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

// usual is the content of a peer of one family, in one piece of memory.
type usual struct {
	content

	elems  [2]pair[ruleset.Elem, struct{}]
	fdb    [1]pair[dataplane.FDBKey, netip.Addr]
	neighs [1]pair[dataplane.NeighKey, mac.Addr]
	routes [1]pair[dataplane.RouteKey, dataplane.Route]
}

func pack(s dataplane.State) *content {
	c := &content{}
	if len(s.Elems) <= len(usual{}.elems) && len(s.FDB) == 1 && len(s.Neighs) == 1 && len(s.Routes) == 1 {
		u := &usual{}
		c = &u.content
		*c = content{elems: u.elems[:0], fdb: u.fdb[:0], neighs: u.neighs[:0], routes: u.routes[:0]}
	}
	c.elems, c.fdb = pairs(c.elems, s.Elems), pairs(c.fdb, s.FDB)
	c.neighs, c.routes = pairs(c.neighs, s.Neighs), pairs(c.routes, s.Routes)
	if rest := s.Few(); rest.Len() > 0 {
		c.rest = &rest
	}
	return c
}

func pairs[K comparable, V any](out []pair[K, V], m map[K]V) []pair[K, V] {
	if len(m) == 0 {
		return nil
	}
	out = slices.Grow(out, len(m))
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

// makeRoom is for many at once: a map that grows by and by is copied many times.
func makeRoom(s *dataplane.State, next []Fragment) {
	if len(next) < mass {
		return
	}
	var elems, fdb, neighs, routes int
	for i := range next {
		c := next[i].content
		elems, fdb, neighs, routes = elems+len(c.elems), fdb+len(c.fdb), neighs+len(c.neighs), routes+len(c.routes)
	}
	enlarge(&s.Elems, elems)
	enlarge(&s.FDB, fdb)
	enlarge(&s.Neighs, neighs)
	enlarge(&s.Routes, routes)
}

// enlarge makes room where there is little beside what may come.
func enlarge[K comparable, V any](m *map[K]V, n int) {
	if n > 4*len(*m) {
		next := make(map[K]V, len(*m)+n)
		maps.Copy(next, *m)
		*m = next
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
