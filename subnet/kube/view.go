package kube

import (
	"cmp"
	"errors"
	"slices"

	"github.com/weftnet/weft/subnet"
)

// view is what the Nodes say at one revision, kept current Node by Node: a
// change decodes the one Node that changed, a heartbeat none. Pure, and not
// safe for concurrent use.
type view struct {
	keys     keys
	synced   bool  // the whole was read once
	revision int64 // of the newest thing that was heard
	// generation counts the changes that mean something.
	generation int64
	nodes      map[string]*entry

	leases []subnet.Lease // by Created, then ID; nil: to be gathered anew
}

// entry is one Node and what was read from it.
type entry struct {
	node  node
	lease *subnet.Lease   // nil: it has none
	bad   *subnet.Skipped // nil: it could be read
}

func newView(k keys) *view { return &view{keys: k, nodes: map[string]*entry{}} }

// replace takes the whole, as it was at a revision. A lease that says what it
// said before keeps its revision.
func (v *view) replace(all map[string]*node, revision int64) (changed bool) {
	changed = !v.synced
	for name := range v.nodes {
		if all[name] == nil {
			delete(v.nodes, name)
			changed = true
		}
	}
	for _, n := range all {
		changed = v.set(n) || changed
	}
	v.synced, v.revision = true, revision
	v.note(changed)
	return changed
}

// put takes one Node that is new or was changed.
func (v *view) put(n *node) (changed bool) {
	v.revision = max(v.revision, n.revision)
	changed = v.set(n)
	v.note(changed)
	return changed
}

// remove takes one Node's deletion.
func (v *view) remove(name string, revision int64) (changed bool) {
	v.revision = max(v.revision, revision)
	_, changed = v.nodes[name]
	delete(v.nodes, name)
	v.note(changed)
	return changed
}

func (v *view) note(changed bool) {
	if changed {
		v.generation++
		v.leases = nil
	}
}

func (v *view) set(n *node) (changed bool) {
	if have := v.nodes[n.name]; have != nil && have.node.says(n) {
		have.node.revision = n.revision
		return false
	}
	e := &entry{node: *n}
	l, managed, err := v.keys.lease(n)
	switch {
	case err != nil:
		bad := skipped(n.name, err)
		e.bad = &bad
	case managed:
		e.lease = &l
	}
	if have := v.nodes[n.name]; have != nil && have.lease != nil && e.lease != nil && sameLease(*have.lease, *e.lease) {
		e.lease = have.lease // what changed is no part of it
	}
	v.nodes[n.name] = e
	return true
}

// sameLease compares all but the revision.
func sameLease(a, b subnet.Lease) bool {
	return a.ID == b.ID && a.Created == b.Created && a.Backend == b.Backend &&
		slices.EqualFunc(a.Shares, b.Shares, func(a, b subnet.Share) bool {
			return a.Subnet == b.Subnet && a.Public == b.Public && string(a.Data) == string(b.Data)
		})
}

func skipped(name string, err error) subnet.Skipped {
	if f := (*fieldError)(nil); errors.As(err, &f) {
		return subnet.Skipped{ID: name, Node: name, Field: f.field, Reason: f.reason}
	}
	return subnet.Skipped{ID: name, Node: name, Field: "node", Reason: err.Error()}
}

// snapshot lends the leases out: whoever gets it must not write to them.
func (v *view) snapshot() subnet.Snapshot {
	if v.leases == nil {
		v.leases = make([]subnet.Lease, 0, len(v.nodes))
		for _, e := range v.nodes {
			if e.lease != nil {
				v.leases = append(v.leases, *e.lease)
			}
		}
		slices.SortFunc(v.leases, func(a, b subnet.Lease) int {
			return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
		})
	}
	out := subnet.Snapshot{Revision: v.revision, Leases: slices.Clip(v.leases)}
	for _, e := range v.nodes {
		if e.bad != nil {
			out.Malformed = append(out.Malformed, *e.bad)
		}
	}
	slices.SortFunc(out.Malformed, func(a, b subnet.Skipped) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// self gives one Node, if it is there.
func (v *view) self(name string) (node, bool) {
	if e := v.nodes[name]; e != nil {
		return e.node, true
	}
	return node{}, false
}
