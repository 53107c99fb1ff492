package dataplane

import (
	"fmt"
	"slices"
	"strings"
)

// Verb is what an Op does to its entry.
type Verb byte

// The verbs. Create makes an entry where none was seen and must fail with
// ErrOccupied rather than overwrite a foreign one; Change replaces an entry
// that was seen and is ours; Delete of what is gone already is a success.
const (
	Create Verb = '+'
	Change Verb = '~'
	Delete Verb = '-'
)

// Op is one write to the kernel. Key, Old and New have the types of the State
// map of its Kind; Old is nil for Create, New for Delete.
type Op struct {
	Verb     Verb
	Kind     Kind
	Key      any
	Old, New any
}

// String is one line, as an operator would type the entry.
func (o Op) String() string {
	r := rowOf(o.Kind)
	if o.Verb == Delete {
		return fmt.Sprintf("- %s %s", o.Kind, r.describe(o.Key, o.Old))
	}
	s := fmt.Sprintf("%c %s %s", o.Verb, o.Kind, r.describe(o.Key, o.New))
	if o.Verb == Change {
		s += fmt.Sprintf("  (was: %s)", r.describe(o.Key, o.Old))
	}
	return s
}

// Entry names the entry alone: its kind and its key.
func (o Op) Entry() string {
	if k, ok := o.Key.(fmt.Stringer); ok {
		return o.Kind.String() + " " + k.String()
	}
	return fmt.Sprintf("%s %v", o.Kind, o.Key)
}

// Plan leads from what the kernel has to what is wanted. Ops are in the order
// in which they must be applied: at every prefix of it no route lacks its
// neighbour and no neighbour its FDB entry.
type Plan struct {
	Ops []Op
	// Conflicts are wanted entries on whose key something foreign stands: Old
	// is what is there, New what is wanted. They are never applied.
	Conflicts []Op
	// ReadBack says that whoever applies the plan observes all afterwards, whatever
	// becomes of it: a Kernel need not hear meanwhile what others do.
	ReadBack bool
}

// Empty tells whether there is nothing to write. Conflicts don't count: there
// is nothing that weft may do about them.
func (p Plan) Empty() bool { return len(p.Ops) == 0 }

// Calm tells whether there is nothing to write, and nothing in the way of it.
func (p Plan) Calm() bool { return len(p.Ops)+len(p.Conflicts) == 0 }

// String is the plan line by line, conflicts last.
func (p Plan) String() string {
	var b strings.Builder
	for _, op := range p.Ops {
		b.WriteString(op.String() + "\n")
	}
	for _, op := range p.Conflicts {
		r := rowOf(op.Kind)
		fmt.Fprintf(&b, "! %s %s  (occupied by: %s)\n", op.Kind, r.describe(op.Key, op.New), r.describe(op.Key, op.Old))
	}
	return b.String()
}

// WithoutDeletes is the plan for one who doesn't know yet all that is wanted:
// it makes and mends, and removes nothing for good.
func (p Plan) WithoutDeletes() Plan {
	var kept []Op
	for i, op := range p.Ops {
		replaced := i+1 < len(p.Ops) && p.Ops[i+1].Verb == Create && p.Ops[i+1].Key == op.Key
		if op.Verb != Delete || replaced {
			kept = append(kept, op)
		}
	}
	return Plan{Ops: kept, Conflicts: p.Conflicts}
}

// Diff plans the way from have to want. Both must speak of the same Scope. The
// plan is deterministic, and knows what the kernel does by itself: what a link
// takes with it is not deleted one by one, and what a change of a link flushes
// is put again.
func Diff(want State, have Observed) Plan {
	d := differ{want: &want, have: &have.Have, occupied: &have.Occupied, links: map[string]linkChange{}}
	var creates, deletes [][]Op
	for _, r := range rows() {
		d.creates, d.deletes = nil, nil
		r.diff(&d)
		creates, deletes = append(creates, d.creates), append(deletes, d.deletes)
	}
	slices.Reverse(deletes)
	return Plan{Ops: slices.Concat(append(creates, deletes...)...), Conflicts: d.conflicts}
}

// linkChange is what the plan does to a link before it comes to the entries
// that stand on it.
type linkChange struct {
	old, new Link
	gone     bool // deleted for good
	blocked  bool // its name is taken by something foreign
}

type differ struct {
	want, have, occupied *State
	links                map[string]linkChange
	creates, deletes     []Op // of the kind at work
	conflicts            []Op
}

// diff computes the ops of one kind. Links come before all that stands on
// them, so d.links is complete by then. What is right already costs a look-up;
// only what differs is sorted.
func (t *table[K, V]) diff(d *differ) {
	want, have, occupied := *t.of(d.want), *t.of(d.have), *t.of(d.occupied)
	differing, met := t.differing(d, want, have)
	d.creates = make([]Op, 0, len(differing))
	for _, k := range differing {
		w := want[k]
		if t.blocked(d, k, w) {
			continue
		}
		h, ok := have[k]
		o, taken := occupied[k]
		if taken && !ok && t.adopts != nil && t.adopts(o, w) {
			h, ok = o, true
		}
		if taken && !ok {
			d.conflicts = append(d.conflicts, Op{Verb: Create, Kind: t.kind, Key: k, Old: o, New: w})
			t.noteBlocked(d, k)
			continue
		}
		if !ok || t.flushed(d, k, h) {
			d.creates = append(d.creates, Op{Verb: Create, Kind: t.kind, Key: k, New: w})
			continue
		}
		d.creates = append(d.creates, t.change(d, k, h, w)...)
	}
	if !t.keep && met < len(have) {
		t.drop(d, t.unwanted(want, have), have)
	}
}

// drop deletes what is there and not wanted, unless a link takes it along.
func (t *table[K, V]) drop(d *differ, keys []K, have map[K]V) {
	for _, k := range keys {
		h := have[k]
		if t.flushed(d, k, h) || t.goes(d, k, h) {
			continue
		}
		t.noteGone(d, k)
		d.deletes = append(d.deletes, Op{Verb: Delete, Kind: t.kind, Key: k, Old: h})
	}
}

// differing gives, in order, the wanted keys that have to be written, and how many
// of the wanted ones are there.
func (t *table[K, V]) differing(d *differ, want, have map[K]V) (keys []K, met int) {
	keys = make([]K, 0, max(0, len(want)-len(have)))
	for k, w := range want {
		h, ok := have[k]
		if ok {
			met++
		}
		if !ok || !t.equal(h, w) || t.flushed(d, k, h) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, t.less)
	return keys, met
}

// unwanted gives, in order, the keys that are there and not wanted.
func (t *table[K, V]) unwanted(want, have map[K]V) []K {
	var keys []K
	for k := range have {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, t.less)
	return keys
}

// change is one replacing op, or, for a link whose identity changed, a delete
// and a create.
func (t *table[K, V]) change(d *differ, k K, h, w V) []Op {
	old, isLink := any(h).(Link)
	if !isLink {
		return []Op{{Verb: Change, Kind: t.kind, Key: k, Old: h, New: w}}
	}
	next := any(w).(Link)
	d.links[any(k).(string)] = linkChange{old: old, new: next}
	if !recreated(old, next) {
		return []Op{{Verb: Change, Kind: t.kind, Key: k, Old: h, New: w}}
	}
	return []Op{{Verb: Delete, Kind: t.kind, Key: k, Old: h}, {Verb: Create, Kind: t.kind, Key: k, New: w}}
}

// flushed tells whether the plan's own change of a link has taken this entry
// away before it is the turn of the entry's kind.
func (t *table[K, V]) flushed(d *differ, k K, v V) bool {
	c, ok := t.linkChange(d, k, v)
	return ok && !c.gone && !c.blocked && t.flush(c.old, c.new)
}

// goes tells whether the entry goes with its link. That happens at the end of
// the plan: until then it stands, and a key that is wanted elsewhere (a route
// over another link) has to be changed, not created.
func (t *table[K, V]) goes(d *differ, k K, v V) bool {
	c, ok := t.linkChange(d, k, v)
	return ok && c.gone
}

func (t *table[K, V]) linkChange(d *differ, k K, v V) (linkChange, bool) {
	if t.link == nil || len(d.links) == 0 {
		return linkChange{}, false
	}
	c, ok := d.links[t.link(k, v)]
	return c, ok
}

func (t *table[K, V]) blocked(d *differ, k K, v V) bool {
	c, _ := t.linkChange(d, k, v)
	return c.blocked
}

func (t *table[K, V]) noteBlocked(d *differ, k K) {
	if name, ok := any(k).(string); ok && t.kind == KindLink {
		d.links[name] = linkChange{blocked: true}
	}
}

func (t *table[K, V]) noteGone(d *differ, k K) {
	if name, ok := any(k).(string); ok && t.kind == KindLink {
		d.links[name] = linkChange{gone: true}
	}
}

func (t *table[K, V]) describe(key, value any) string {
	v, _ := value.(V)
	return t.text(key.(K), v)
}
