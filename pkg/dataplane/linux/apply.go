package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// application is one Apply at work.
type application struct {
	k       *Kernel
	domain  dataplane.Domain
	indexes map[string]int // of interfaces; forgotten when a link changes
}

// Apply writes the ops in order. All chains are written in the place of the
// first of them: those of nftables in one transaction, so that they take effect
// together or not at all, those of iptables each in one.
func (k *Kernel) Apply(ctx context.Context, p dataplane.Plan) []*dataplane.OpError {
	a := &application{k: k, domain: k.memory.territory(), indexes: map[string]int{}}
	var failed []*dataplane.OpError
	fail := func(op dataplane.Op, err error) {
		if err != nil {
			failed = append(failed, &dataplane.OpError{Op: op, Err: err})
		}
	}
	var chains []dataplane.Op
	for _, op := range p.Ops {
		if op.Kind == dataplane.KindChain {
			chains = append(chains, op)
		}
	}
	k.memory.planned(p)
	for _, op := range p.Ops {
		switch {
		case ctx.Err() != nil:
			fail(op, ctx.Err())
		case op.Kind != dataplane.KindChain:
			fail(op, a.write(op))
		case len(chains) > 0:
			k.applyChains(ctx, chains, fail)
			chains = nil
		}
	}
	return failed
}

func (a *application) write(op dataplane.Op) error {
	switch key := op.Key.(type) {
	case string:
		if op.Kind == dataplane.KindSysctl {
			return a.sysctl(key, op)
		}
		return a.link(key, op)
	case dataplane.AddrKey:
		return a.onLink(key.Link, op, func(index int) error {
			if op.Verb == dataplane.Delete {
				return a.k.deleteAddr(index, key.Prefix)
			}
			return a.k.putAddr(index, key.Prefix)
		})
	case dataplane.FDBKey:
		return a.onLink(key.Link, op, func(index int) error { return a.forward(index, key.MAC, op) })
	case dataplane.NeighKey:
		return a.onLink(key.Link, op, func(index int) error {
			if op.Verb == dataplane.Delete {
				return a.k.deleteNeighbour(index, key.IP)
			}
			m, _ := op.New.(mac.Addr)
			return a.k.putNeighbour(index, key.IP, m)
		})
	case dataplane.RouteKey:
		return a.route(key, op)
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

// onLink calls f with the index of the link. What is to be deleted from a link
// that is gone is gone too.
func (a *application) onLink(name string, op dataplane.Op, f func(index int) error) error {
	index, err := a.index(name)
	if err != nil {
		if op.Verb == dataplane.Delete {
			return ignoreGone(err)
		}
		return err
	}
	return f(index)
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
func (a *application) forward(index int, m mac.Addr, op dataplane.Op) error {
	vtep, _ := op.New.(netip.Addr)
	was, _ := op.Old.(netip.Addr)
	if op.Verb == dataplane.Delete || op.Verb == dataplane.Change && !was.IsValid() {
		a.k.memory.wroteForward(index, m, netip.Addr{})
		if err := a.k.deleteForward(index, m); err != nil || op.Verb == dataplane.Delete {
			return err
		}
	}
	a.k.memory.wroteForward(index, m, vtep)
	return a.k.putForward(index, m, vtep)
}

func (a *application) route(key dataplane.RouteKey, op dataplane.Op) error {
	want, _ := op.New.(dataplane.Route)
	if op.Verb == dataplane.Delete {
		want, _ = op.Old.(dataplane.Route)
	}
	index := 0
	if want.Link != "" {
		var err error
		if index, err = a.index(want.Link); err != nil {
			if op.Verb == dataplane.Delete {
				return ignoreGone(err)
			}
			return err
		}
	}
	switch op.Verb {
	case dataplane.Delete:
		return a.k.deleteRoute(key, want, index)
	case dataplane.Change:
		return a.putRoute(key, want, index, unix.NLM_F_REPLACE)
	}
	err := a.putRoute(key, want, index, unix.NLM_F_EXCL)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	ours, foreign, err := a.k.occupant(key, a.domain)
	if err != nil {
		return err
	}
	if ours || foreign.LeftFor(want) {
		return a.putRoute(key, want, index, unix.NLM_F_REPLACE)
	}
	return fmt.Errorf("%w: %s", dataplane.ErrOccupied,
		dataplane.Op{Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: key, New: foreign})
}

// putRoute gets round a check of IPv6 (ip6_route_check_nh_onlink): an onlink
// route is refused while the main table leads to its gateway through another
// interface, be it by an aggregate route to the whole cluster. For the moment
// of the write a host route leads there through ours. Left behind by a crash, it
// bears our mark, so the next Observe finds it.
func (a *application) putRoute(key dataplane.RouteKey, want dataplane.Route, index, flags int) error {
	err := a.k.putRoute(key, want, index, flags)
	if errors.Is(err, unix.EEXIST) && flags == unix.NLM_F_REPLACE {
		// IPv4 keeps several routes on one key, replaces the first, and refuses
		// that when the new one stands further down: behind a foreign one, so
		// that ours is of no use there.
		err = errors.Join(a.k.deleteRoute(key, want, index), a.k.putRoute(key, want, index, flags))
	}
	if !errors.Is(err, unix.EINVAL) || !want.OnLink || !want.Via.Is6() {
		return err
	}
	step := dataplane.RouteKey{Prefix: netip.PrefixFrom(want.Via, want.Via.BitLen()), Metric: 1}
	direct := dataplane.Route{Link: want.Link}
	if a.k.putRoute(step, direct, index, unix.NLM_F_EXCL) != nil {
		return err
	}
	err = a.k.putRoute(key, want, index, flags)
	return errors.Join(err, a.k.deleteRoute(step, direct, index))
}
