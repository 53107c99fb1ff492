package linux

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

func putFlags(v dataplane.Verb) int {
	if v == dataplane.Change {
		return unix.NLM_F_REPLACE
	}
	return unix.NLM_F_EXCL
}

// tunnels counts the routes of a plan that may go by nexthop objects.
func tunnels(p dataplane.Plan) int {
	n := 0
	for _, op := range p.Ops {
		if op.Kind == dataplane.KindRoute && op.Verb != dataplane.Delete {
			if r := routeOf(op); r.OnLink && r.Via.Is4() {
				n++
			}
		}
	}
	return n
}

// encodeRoute puts the nexthop object of a tunnel route before the route.
func (a *application) encodeRoute(e *entry, key dataplane.RouteKey) {
	e.route = routeWrite{
		key: key, route: routeOf(e.op), protocol: a.k.protocol, index: e.index, flags: putFlags(e.op.Verb),
	}
	if e.op.Verb == dataplane.Delete {
		a.batch.deleteRoute(e.route)
		return
	}
	if to, ok := tunnel(e.route.route, e.index); ok {
		id, there := a.nexthops.place(to)
		if e.route.nexthop = id; id != 0 && !there {
			a.batch.putNexthop(a.k.protocol, id, to)
		}
	}
	a.batch.putRoute(e.route)
}

// routeWritten is the second step of a route, where the answers to the first ask
// for one.
func (a *application) routeWritten(e *entry, answers []error) error {
	use := &a.k.nexthopUse
	err := errors.Join(answers...)
	if e.op.Verb == dataplane.Delete {
		if err == nil {
			use.set(e.route.key, 0)
		}
		return err
	}
	planned := e.route.nexthop
	if planned != 0 && err != nil && !errors.Is(err, errNoAnswer) {
		err = a.withoutNexthop(e, answers)
	}
	if err = a.settle(e, err); err == nil {
		use.set(e.route.key, e.route.nexthop)
	}
	use.spare(planned)
	return err
}

// withoutNexthop writes the plain route where its object can't be had: what
// stands against that one as well is the error to tell. The route may lead
// through a foreign object by now, which took the id after we looked.
func (a *application) withoutNexthop(e *entry, answers []error) error {
	made := errors.Join(answers[:len(answers)-1]...)
	written := answers[len(answers)-1]
	if made == nil && errors.Is(written, unix.EEXIST) {
		return written // the key is taken: nothing wrong with the object
	}
	a.nexthops.forget()
	e.route.nexthop = 0
	if written == nil {
		e.route.flags = unix.NLM_F_REPLACE
	}
	return a.k.one(func(enc *encoder) { enc.putRoute(e.route) })
}

// settle handles an occupied key: what is ours, or was left for us, is replaced.
func (a *application) settle(e *entry, err error) error {
	err = a.insist(e.route, err)
	if e.op.Verb != dataplane.Create || !errors.Is(err, unix.EEXIST) {
		return err
	}
	ours, foreign, err := a.k.occupant(e.route.key, a.domain)
	if err != nil {
		return err
	}
	if ours || foreign.LeftFor(e.route.route) {
		e.route.flags = unix.NLM_F_REPLACE
		return a.insist(e.route, a.k.one(func(enc *encoder) { enc.putRoute(e.route) }))
	}
	a.k.memory.occupied(e.route.key)
	return fmt.Errorf("%w: %s", dataplane.ErrOccupied,
		dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: e.route.key, New: foreign})
}

// insist writes a route once more where the kernel's answer is a quirk.
func (a *application) insist(w routeWrite, err error) error {
	switch {
	case errors.Is(err, unix.EINVAL) && w.route.OnLink && w.route.Via.Is6():
		return a.putHidden(w, err)
	case errors.Is(err, unix.EEXIST) && w.flags == unix.NLM_F_REPLACE:
		// IPv4 keeps several routes on one key, replaces the first, and refuses
		// that when the new one stands further down: behind a foreign one, so
		// that ours is of no use there.
		return a.k.one(func(e *encoder) {
			e.deleteRoute(w)
			e.putRoute(w)
		})
	}
	return err
}

// putHidden gets round a check of IPv6 (ip6_route_check_nh_onlink): an onlink
// route is refused while the main table leads to its gateway through another
// interface, be it by an aggregate route to the whole cluster. For the moment
// of the write a host route leads there through ours. Left behind by a crash, it
// bears our mark, so the next Observe finds it.
func (a *application) putHidden(w routeWrite, refused error) error {
	step := w
	step.key = dataplane.RouteKey{Prefix: netip.PrefixFrom(w.route.Via, w.route.Via.BitLen()), Metric: 1}
	step.route, step.flags = dataplane.Route{Link: w.route.Link}, unix.NLM_F_EXCL
	if a.k.one(func(e *encoder) { e.putRoute(step) }) != nil {
		return refused
	}
	err := a.k.one(func(e *encoder) { e.putRoute(w) })
	return errors.Join(err, a.k.one(func(e *encoder) { e.deleteRoute(step) }))
}
