package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// application is one Apply at work.
type application struct {
	k        *Kernel
	domain   dataplane.Domain
	indexes  map[string]int // of interfaces; forgotten when a link changes
	batch    batch
	nexthops nexthops
	failed   []*dataplane.OpError
}

// Apply writes the ops in order. Entries of the FDB, neighbours and routes go in
// batches, elements of sets that follow each other in one transaction; every other
// op is a request of its own, for which a batch does not wait. All chains
// are written in the place of the first of them: those of
// nftables in one transaction, so that they take effect together or not at all,
// those of iptables each in one.
func (k *Kernel) Apply(ctx context.Context, p dataplane.Plan) []*dataplane.OpError {
	a := &application{
		k: k, domain: k.memory.territory(), indexes: map[string]int{}, nexthops: nexthops{
			k: k, many: tunnels(p) > fewNexthops, has: sync.OnceValue(k.hasNexthops), seen: map[uint32]nexthop{},
		},
	}
	var chains []dataplane.Op
	for _, op := range p.Ops {
		if op.Kind == dataplane.KindChain {
			chains = append(chains, op)
		}
	}
	k.memory.planned(p)
	if p.ReadBack {
		k.memory.engross(true)
		defer k.memory.engross(false)
	}
	for i := 0; i < len(p.Ops); i++ {
		op := p.Ops[i]
		if !a.joins(op) || ctx.Err() != nil {
			a.flush()
		}
		switch {
		case ctx.Err() != nil:
			a.fail(op, ctx.Err())
		case op.Kind == dataplane.KindElem:
			run := sameKind(p.Ops[i:])
			k.applyElems(run, a.fail)
			i += len(run) - 1
		case batched(op.Kind):
			a.add(op)
		case op.Kind != dataplane.KindChain:
			a.fail(op, a.write(op))
		case len(chains) > 0:
			k.applyChains(ctx, chains, a.fail)
			chains = nil
		}
	}
	a.flush()
	if ctx.Err() == nil {
		a.sweep()
	}
	return a.failed
}

func (a *application) fail(op dataplane.Op, err error) {
	if err != nil {
		a.failed = append(a.failed, &dataplane.OpError{Op: op, Err: err})
	}
}

// sameKind is how far ops are of the kind of the first of them.
func sameKind(ops []dataplane.Op) []dataplane.Op {
	n := 1
	for n < len(ops) && ops[n].Kind == ops[0].Kind {
		n++
	}
	return ops[:n]
}

func batched(k dataplane.Kind) bool {
	return k == dataplane.KindFDB || k == dataplane.KindNeigh || k == dataplane.KindRoute
}

// joins tells whether the op may go into the batch at work. Some routes are
// written a second time when the batch is through: nothing is deleted before.
func (a *application) joins(op dataplane.Op) bool {
	n := len(a.batch.entries)
	return batched(op.Kind) && len(a.batch.types) < maxBatch &&
		(n == 0 || (a.batch.entries[n-1].op.Verb == dataplane.Delete) == (op.Verb == dataplane.Delete))
}

// add encodes the op. What is to be deleted from a link that is gone is gone too.
func (a *application) add(op dataplane.Op) {
	e := entry{op: op, first: len(a.batch.types)}
	if name := linkOf(op); name != "" {
		e.index, e.err = a.index(name)
	}
	switch {
	case e.err == nil:
		a.encode(&e)
	case op.Verb == dataplane.Delete:
		e.err = ignoreGone(e.err)
	}
	e.end = len(a.batch.types)
	a.batch.entries = append(a.batch.entries, e)
}

// linkOf is the link that the entry stands on, or leads through.
func linkOf(op dataplane.Op) string {
	switch key := op.Key.(type) {
	case dataplane.FDBKey:
		return key.Link
	case dataplane.NeighKey:
		return key.Link
	}
	return routeOf(op).Link
}

// routeOf is the route that the op puts or deletes.
func routeOf(op dataplane.Op) dataplane.Route {
	v := op.New
	if op.Verb == dataplane.Delete {
		v = op.Old
	}
	r, _ := v.(dataplane.Route)
	return r
}

func (a *application) encode(e *entry) {
	b, deletes := &a.batch, e.op.Verb == dataplane.Delete
	switch key := e.op.Key.(type) {
	case dataplane.FDBKey:
		a.forward(e.index, key.MAC, e.op)
	case dataplane.NeighKey:
		m, _ := e.op.New.(mac.Addr)
		if deletes {
			b.deleteNeighbour(e.index, key.IP)
		} else {
			b.putNeighbour(e.index, key.IP, m)
		}
	case dataplane.RouteKey:
		a.encodeRoute(e, key)
	}
}

// flush sends the batch, and does what its answers ask for.
func (a *application) flush() {
	if len(a.batch.entries) == 0 {
		return
	}
	a.batch.flush(a.k)
	for i := range a.batch.entries {
		e := &a.batch.entries[i]
		err := e.err
		if own := a.batch.errs[e.first:e.end]; e.op.Kind == dataplane.KindRoute && len(own) > 0 {
			err = a.routeWritten(e, own)
		} else {
			err = errors.Join(err, errors.Join(own...))
		}
		a.fail(e.op, err)
	}
	a.batch.clear()
}

// write is for ops of the other kinds.
func (a *application) write(op dataplane.Op) error {
	switch key := op.Key.(type) {
	case string:
		if op.Kind == dataplane.KindSysctl {
			return a.sysctl(key, op)
		}
		return a.link(key, op)
	case dataplane.AddrKey:
		index, err := a.index(key.Link)
		switch {
		case op.Verb == dataplane.Delete && err != nil:
			return ignoreGone(err)
		case err != nil:
			return err
		case op.Verb == dataplane.Delete:
			return a.k.deleteAddr(index, key.Prefix)
		}
		return a.k.putAddr(index, key.Prefix)
	}
	return fmt.Errorf("%s has a key of type %T", op.Kind, op.Key)
}

func (a *application) sysctl(name string, op dataplane.Op) error {
	value, _ := op.New.(string)
	a.k.memory.wroteSysctl(name, value)
	return a.k.setSysctl(name, value)
}

func (a *application) link(name string, op dataplane.Op) error {
	clear(a.indexes)
	a.nexthops.forget() // a link that goes, or down, takes them along
	want, _ := op.New.(dataplane.Link)
	switch op.Verb {
	case dataplane.Create:
		a.k.memory.wroteLink(op.Verb, name, want)
		return a.k.createLink(name, want)
	case dataplane.Change:
		seen, _ := op.Old.(dataplane.Link)
		expected := want
		expected.GBP = seen.GBP // stays as it was made
		a.k.memory.wroteLink(op.Verb, name, expected)
		return a.k.changeLink(name, want)
	default:
		seen, _ := op.Old.(dataplane.Link)
		return a.k.deleteLink(name, seen)
	}
}

// index finds our device by its identity, never a foreign one by our name.
func (a *application) index(name string) (int, error) {
	if i, ok := a.indexes[name]; ok {
		return i, nil
	}
	var l link
	var ok bool
	var err error
	if _, ours := a.domain.Links[name]; ours {
		var devices []link
		devices, err = a.k.vxlans()
		l, ok = claim(a.domain.Links, devices)[name]
	} else {
		l, ok, err = a.k.linkByName(name)
	}
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("interface %s: %w", name, unix.ENODEV)
	}
	a.indexes[name] = l.index
	return l.index, nil
}

// forward writes an FDB entry. One that was seen with settings of its own is
// made anew: it may point to a nexthop object, which a replace leaves in place.
// Watch knows the write before it happens: its notification may be faster.
func (a *application) forward(index int, m mac.Addr, op dataplane.Op) {
	vtep, _ := op.New.(netip.Addr)
	was, _ := op.Old.(netip.Addr)
	if op.Verb == dataplane.Delete || op.Verb == dataplane.Change && !was.IsValid() {
		a.batch.deleteForward(index, m)
	}
	if op.Verb != dataplane.Delete {
		a.batch.putForward(index, m, vtep)
	}
	a.k.memory.wroteForward(index, m, vtep)
}
