// Package layers keeps what is wanted as named layers of fragments and merges
// them into one dataplane.State at the cost of what changed.
//
//	base    [base]                      one source each,
//	peers   [lease A][lease B]…    ─→   merged State  +  Scope of what changed
//	rules   [rules]
//
// It owns the merge and the rule that no two fragments hold one key: the first
// in order keeps it, the other is refused as a whole and named. It refuses to
// know what a fragment is about.
package layers

import (
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
)

// Fragment is what one thing (the host, one peer, the rules) wants of the
// kernel. A changed fragment is a new one, and an unchanged one is given again:
// that is how it costs nothing.
type Fragment struct {
	ID      string // unique within its layer
	content *content
}

// New makes a fragment, with a content that is equal to no other's. It copies the
// elements, FDB entries, neighbours and routes; the state's other maps must not change
// any more.
func New(id string, s dataplane.State) Fragment { return Fragment{id, pack(s)} }

// Refused is a fragment that was left out, as a whole, because another one
// holds one of its keys. It is tried again at every Set of its layer.
type Refused struct {
	Layer, ID string
	Holder    string // the fragment that has the key
	Entry     string // the key that both want
}

// Layers is the merged want. The zero value is empty and ready. Not for
// concurrent use.
type Layers struct {
	merged dataplane.State
	layers map[string]*layer
}

type layer struct {
	name   string
	order  []Fragment
	placed map[string]*content // what of it is in merged, by ID
	short  bool                // the last Set left something out
}

// Want is the merged state. Don't write to it, and don't keep it over a Set.
func (l *Layers) Want() dataplane.State { return l.merged }

// mass is how many fragments may change before it is cheaper to look at everything
// than to list their keys: no kernel filters a dump by such a list.
const mass = 512

// Set replaces one layer. The order of the fragments is their seniority: where
// two want one key, the earlier has it. It gives the keys that may have
// changed (all, if there are very many), and what was refused.
func (l *Layers) Set(name string, fragments []Fragment) (dataplane.Scope, []Refused) {
	if l.layers == nil {
		l.layers = map[string]*layer{}
	}
	lay := l.layers[name]
	if lay == nil {
		lay = &layer{name: name, placed: make(map[string]*content, len(fragments))}
		l.layers[name] = lay
	}
	from, oldTo, newTo := lay.window(fragments)
	var changed changes
	l.removeStale(lay, lay.order[from:oldTo], fragments[from:newTo], &changed)
	lay.order = slices.Replace(lay.order, from, oldTo, fragments[from:newTo]...)
	if lay.short {
		from, newTo = 0, len(lay.order)
	}
	refused := l.place(lay, from, newTo, &changed)
	lay.short = len(refused) > 0
	return changed.scope, refused
}

// window finds the part that differs: the old order's [from:oldTo] becomes the
// next one's [from:newTo]. All else costs one comparison of pointers.
func (lay *layer) window(next []Fragment) (from, oldTo, newTo int) {
	oldTo, newTo = len(lay.order), len(next)
	for from < min(oldTo, newTo) && lay.order[from] == next[from] {
		from++
	}
	for oldTo > from && newTo > from && lay.order[oldTo-1] == next[newTo-1] {
		oldTo, newTo = oldTo-1, newTo-1
	}
	return from, oldTo, newTo
}

// removeStale takes out what is gone or has another state now.
func (l *Layers) removeStale(lay *layer, old, next []Fragment, changed *changes) {
	if len(old) == 0 {
		return
	}
	keep := make(map[string]*content, len(next))
	for _, f := range next {
		keep[f.ID] = f.content
	}
	for _, f := range old {
		if was, ok := lay.placed[f.ID]; ok && keep[f.ID] != was {
			l.take(lay, f.ID, changed)
		}
	}
}

// place puts in what is not there yet of the order's [from:to], by seniority.
// Where it meets a fragment that is in the way, it goes on to the end: a junior
// that has to make room may stand anywhere behind.
func (l *Layers) place(lay *layer, from, to int, changed *changes) []Refused {
	var refused []Refused
	var own *owners
	makeRoom(&l.merged, lay.order[from:to])
	for i := from; i < to; i++ {
		f := lay.order[i]
		if _, ok := lay.placed[f.ID]; ok {
			continue
		}
		if f.content.overlaps(&l.merged) {
			if own == nil {
				own, to = l.owners(lay.name), len(lay.order)
			}
			juniors, r := own.judge(i, f)
			if r != nil {
				refused = append(refused, *r)
				continue
			}
			for _, id := range juniors { // their turn in this loop is still to come
				own.forget(lay.placed[id])
				l.take(lay, id, changed)
			}
		}
		lay.placed[f.ID] = f.content
		f.content.mergeInto(&l.merged)
		note(changed, f.content)
		if own != nil {
			own.note(lay.name, f.ID, f.content)
		}
	}
	return refused
}

func (l *Layers) take(lay *layer, id string, changed *changes) {
	was := lay.placed[id]
	delete(lay.placed, id)
	was.removeFrom(&l.merged)
	note(changed, was)
}

// changes is the scope of what a Set changed.
type changes struct {
	scope dataplane.Scope
	n     int // fragments that came or went
}

func note(changed *changes, c *content) {
	if changed.n++; changed.n > mass {
		changed.scope = dataplane.Scope{All: true}
		return
	}
	c.mergeInto(&changed.scope.Keys)
}

// owners tells which fragment holds each key. It is made only where two
// fragments meet, which costs O(all) once for that Set.
type owners struct {
	layer string
	pos   map[string]int // position in the layer at work, by ID
	of    map[ownedKey]owner
}

type ownedKey struct {
	kind dataplane.Kind
	key  any
}

type owner struct{ layer, id string }

func (l *Layers) owners(layer string) *owners {
	own := &owners{layer: layer, pos: map[string]int{}, of: map[ownedKey]owner{}}
	for i, f := range l.layers[layer].order {
		own.pos[f.ID] = i
	}
	for name, lay := range l.layers {
		for id, c := range lay.placed {
			own.note(name, id, c)
		}
	}
	return own
}

func (o *owners) note(layer, id string, c *content) {
	c.keys(func(kind dataplane.Kind, key any) { o.of[ownedKey{kind, key}] = owner{layer, id} })
}

func (o *owners) forget(c *content) {
	c.keys(func(kind dataplane.Kind, key any) { delete(o.of, ownedKey{kind, key}) })
}

// judge says which juniors of the layer have to make room for the fragment at
// position i, or that it is refused.
func (o *owners) judge(i int, f Fragment) (juniors []string, refused *Refused) {
	f.content.keys(func(kind dataplane.Kind, key any) {
		holder, taken := o.of[ownedKey{kind, key}]
		if !taken {
			return
		}
		if holder.layer == o.layer && o.pos[holder.id] > i {
			if !slices.Contains(juniors, holder.id) {
				juniors = append(juniors, holder.id)
			}
			return
		}
		entry := dataplane.Op{Kind: kind, Key: key}.Entry()
		if refused == nil || entry < refused.Entry {
			refused = &Refused{Layer: o.layer, ID: f.ID, Holder: holder.id, Entry: entry}
		}
	})
	return juniors, refused
}
