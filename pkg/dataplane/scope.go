package dataplane

import "maps"

// Scope is the part of the kernel that one round reads, compares and writes.
type Scope struct {
	All bool // everything of the Domain; Keys don't matter then
	// Keys are the entries in question; values don't matter. A link here
	// stands for itself and for everything on it: a link notification is all
	// that the kernel sends when a link takes its routes and neighbours along.
	Keys   State
	Domain Domain
	// Unless, for a scope of All, is the Mark of an earlier look at the same
	// Domain: whoever needs no entry that is as it was then says so. 0 is none.
	Unless uint64
	// Facts, which only a Watch sets, says that what Kernel.Facts told last
	// is so no longer. It asks for no entry to be read; All says the same.
	Facts bool
	// Writers, which only a Watch sets, says by entry (Op.Entry) who wrote it
	// last, as far as the kernel tells. Of very many it names some.
	Writers map[string]string
}

// maxWriters bounds Scope.Writers: somebody who flushes a table is named once.
const maxWriters = 64

// Empty tells whether the scope asks for nothing, and says nothing of Facts.
func (s Scope) Empty() bool { return !s.All && !s.Facts && s.Keys.Len() == 0 }

// Add widens the scope by another. The Domain stays.
func (s *Scope) Add(o Scope) {
	s.All, s.Facts = s.All || o.All, s.Facts || o.Facts
	for entry, who := range o.Writers {
		s.note(entry, who)
	}
	if s.All {
		s.Keys = State{}
		return
	}
	s.Keys.Merge(o.Keys)
}

// Name says who wrote the entries that the scope names.
func (s *Scope) Name(who string) {
	if s.Keys.Len() > maxWriters {
		return
	}
	s.Keys.Keys(func(kind Kind, key any) { s.note(Op{Kind: kind, Key: key}.Entry(), who) })
}

func (s *Scope) note(entry, who string) {
	if s.Writers == nil {
		s.Writers = map[string]string{}
	}
	if _, known := s.Writers[entry]; known || len(s.Writers) < maxWriters {
		s.Writers[entry] = who
	}
}

// AddOp widens the scope by the entry that the op writes.
func (s *Scope) AddOp(o Op) {
	if !s.All {
		rowOf(o.Kind).mark(&s.Keys, o.Key)
	}
}

// AddLinkOf widens the scope by the whole link that the op's entry stands on.
func (s *Scope) AddLinkOf(o Op) {
	if s.All {
		return
	}
	for _, v := range []any{o.New, o.Old} {
		if name := rowOf(o.Kind).linkOf(o.Key, v); v != nil && name != "" {
			links.mark(&s.Keys, name)
		}
	}
}

// AddAbsent widens the scope by the links that the plan writes on and that are
// absent, and tells whether there are any that it did not name yet.
func (s *Scope) AddAbsent(p Plan, absent map[string]bool) (more bool) {
	for _, op := range p.Ops {
		name := op.link()
		if _, named := s.Keys.Links[name]; !s.All && !named && absent[name] {
			links.mark(&s.Keys, name)
			more = true
		}
	}
	return more
}

// Covers tells whether the scope speaks of the entry that the op writes.
func (s Scope) Covers(o Op) bool {
	if s.All {
		return true
	}
	if _, named := s.Keys.Links[o.link()]; named && o.link() != "" {
		return true
	}
	return rowOf(o.Kind).has(&s.Keys, o.Key)
}

// link is the link that the op's entry stands, or shall stand, on.
func (o Op) link() string {
	if o.Kind == KindLink {
		return o.Key.(string)
	}
	v := o.New
	if v == nil {
		v = o.Old
	}
	return rowOf(o.Kind).linkOf(o.Key, v)
}

// Within gives the part of the state that the scope speaks of. For a scope of
// All it is the state itself, not a copy: don't write to it.
func (s State) Within(scope Scope) State {
	if scope.All {
		return s
	}
	var out State
	for _, r := range rows() {
		r.within(&out, &s, &scope.Keys)
	}
	return out
}

// Few is the state without what grows with the number of peers: the part that an
// observation with Same has.
func (s State) Few() State {
	s.Elems, s.FDB, s.Neighs, s.Routes = nil, nil, nil, nil
	return s
}

// Len counts the entries of all kinds. It goes without the tables, which would have
// every State that is asked allocated.
func (s State) Len() int {
	return len(s.Links) + len(s.Addrs) + len(s.Elems) + len(s.FDB) + len(s.Neighs) + len(s.Routes) + len(s.Chains) +
		len(s.Sysctls)
}

// Clear empties the state for another use: the maps of what peers have are kept, the
// others may be somebody's by now.
func (s *State) Clear() {
	clear(s.Elems)
	clear(s.FDB)
	clear(s.Neighs)
	clear(s.Routes)
	*s = State{Elems: s.Elems, FDB: s.FDB, Neighs: s.Neighs, Routes: s.Routes}
}

// Merge copies the entries of o into s, over those with the same keys.
func (s *State) Merge(o State) {
	for _, r := range rows() {
		r.merge(s, &o)
	}
}

// Remove deletes the keys of o from s.
func (s *State) Remove(o State) {
	for _, r := range rows() {
		r.remove(s, &o)
	}
}

// Overlaps tells whether both states hold an entry with the same key.
func (s State) Overlaps(o State) bool {
	for _, r := range rows() {
		if r.overlaps(&s, &o) {
			return true
		}
	}
	return false
}

// Keys visits the key of every entry, kind by kind, in no order within one.
func (s State) Keys(visit func(Kind, any)) {
	for _, r := range rows() {
		r.keys(&s, visit)
	}
}

// row hides the types of one table.
type row interface {
	diff(*differ)
	describe(key, value any) string
	linkOf(key, value any) string
	mark(s *State, key any)
	has(s *State, key any) bool
	within(dst, src, keys *State)
	merge(dst, src *State)
	remove(dst, src *State)
	overlaps(a, b *State) bool
	keys(*State, func(Kind, any))
}

// rows lists all tables in order of creation.
func rows() [8]row {
	return [...]row{sysctls, links, addrs, elems, fdb, neighs, routes, chains}
}

func rowOf(k Kind) row { return rows()[k] }

func (t *table[K, V]) linkOf(key, value any) string {
	v, ok := value.(V)
	if !ok || t.link == nil {
		return ""
	}
	return t.link(key.(K), v)
}

func (t *table[K, V]) mark(s *State, key any) {
	m := t.of(s)
	if *m == nil {
		*m = map[K]V{}
	}
	if _, ok := (*m)[key.(K)]; !ok {
		var zero V
		(*m)[key.(K)] = zero
	}
}

func (t *table[K, V]) has(s *State, key any) bool {
	_, ok := (*t.of(s))[key.(K)]
	return ok
}

func (t *table[K, V]) within(dst, src, keys *State) {
	all, marked := *t.of(src), *t.of(keys)
	out := map[K]V{}
	for k := range marked {
		if v, ok := all[k]; ok {
			out[k] = v
		}
	}
	if t.link != nil && len(keys.Links) > 0 {
		for k, v := range all {
			if _, ok := keys.Links[t.link(k, v)]; ok {
				out[k] = v
			}
		}
	}
	if len(out) > 0 {
		*t.of(dst) = out
	}
}

func (t *table[K, V]) merge(dst, src *State) {
	from, to := *t.of(src), t.of(dst)
	if len(from) == 0 {
		return
	}
	if *to == nil {
		*to = make(map[K]V, len(from))
	}
	maps.Copy(*to, from)
}

func (t *table[K, V]) remove(dst, src *State) {
	to := *t.of(dst)
	for k := range *t.of(src) {
		delete(to, k)
	}
}

func (t *table[K, V]) overlaps(a, b *State) bool {
	x, y := *t.of(a), *t.of(b)
	for k := range y {
		if _, ok := x[k]; ok {
			return true
		}
	}
	return false
}

func (t *table[K, V]) keys(s *State, visit func(Kind, any)) {
	for k := range *t.of(s) {
		visit(t.kind, k)
	}
}
