package linux

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// fewKeys is how many entries of a table are asked for one by one; for more it is dumped,
// and filtered. Among 10,000 a dump costs what some 2,500 questions do
// (BenchmarkObservePeers); among fewer peers both cost little.
const fewKeys = 1024

// observation is one Observe at work.
type observation struct {
	k     *Kernel
	scope dataplane.Scope
	out   dataplane.Observed
	mine  map[string]link // our devices by wanted name
	names map[int]string  // of interfaces, by index; ours by their wanted names
	under map[int]link    // the parents of our devices

	others []link // foreign interfaces that the scope names

	nexthops map[dataplane.RouteKey]uint32 // the objects of routes in Have
	objects  []nexthop                     // all of ours, if the scope is All
}

// Observe reads what the scope speaks of.
func (k *Kernel) Observe(ctx context.Context, s dataplane.Scope) (dataplane.Observed, error) {
	o := &observation{k: k, scope: s, names: map[int]string{}, out: dataplane.Observed{
		Have: dataplane.State{
			Links: map[string]dataplane.Link{}, Addrs: map[dataplane.AddrKey]struct{}{},
			Elems: map[ruleset.Elem]struct{}{},
			FDB:   map[dataplane.FDBKey]netip.Addr{}, Neighs: map[dataplane.NeighKey]mac.Addr{},
			Routes: map[dataplane.RouteKey]dataplane.Route{}, Chains: map[ruleset.Key]ruleset.Chain{},
			Sysctls: map[string]string{},
		},
		Occupied: dataplane.State{
			Links: map[string]dataplane.Link{}, Routes: map[dataplane.RouteKey]dataplane.Route{},
		},
		Absent:  map[string]bool{},
		Dropped: map[ruleset.Key]uint64{},
	}}
	o.nexthops = map[dataplane.RouteKey]uint32{}
	k.memory.enter(s)
	chains := func() error { return o.chains(ctx) }
	for _, step := range []func() error{o.links, o.sysctls, o.addrs, o.many, chains} {
		if err := ctx.Err(); err != nil {
			return dataplane.Observed{}, err
		}
		if err := step(); err != nil {
			return dataplane.Observed{}, err
		}
	}
	k.memory.observed(o)
	return o.out, nil
}

// many reads what grows with the number of peers, and only as much of it as tells
// that it is as it was, where that is enough.
func (o *observation) many() (err error) {
	if o.scope.All && o.scope.Unless != 0 {
		o.k.marking.begin(true)
		err := o.tables()
		mark := o.k.marking.end()
		if o.out.Same = err == nil && mark == o.scope.Unless; err != nil || o.out.Same {
			o.out.Mark = mark
			return err
		}
	}
	if o.scope.All {
		o.k.marking.begin(false)
		defer func() { o.out.Mark = o.k.marking.end() }()
	}
	if err := o.tables(); err != nil {
		return err
	}
	o.k.nexthopUse.observed(o.scope.All, o.nexthops, o.objects)
	return nil
}

// tables reads elements, FDB, neighbours, routes, and what routes go by. While dumps give
// nothing but the mark, it files nothing.
func (o *observation) tables() error {
	for _, table := range []func() error{o.elements, o.fdb, o.neighs, o.routes, o.useOfNexthops} {
		if err := table(); err != nil {
			return err
		}
	}
	return nil
}

// whole tells whether the scope asks for all that stands on the link.
func (o *observation) whole(name string) bool {
	_, named := o.scope.Keys.Links[name]
	return o.scope.All || named
}

func (o *observation) links() error {
	devices, err := o.k.vxlans()
	if err != nil {
		return err
	}
	o.mine = claim(o.scope.Domain.Links, devices)
	if err := o.underlays(); err != nil {
		return err
	}
	for name, l := range o.mine {
		o.names[l.index] = name
		if o.whole(name) {
			v := l.value(o.under[l.vxlan.parent].name)
			if l.name != name {
				v.Actual = l.name
			}
			if v.TXChecksum, err = o.k.txChecksum(l.name); err != nil {
				return err
			}
			o.out.Have.Links[name] = v
		}
	}
	o.absent()
	wanted := maps.Clone(o.scope.Keys.Links)
	if wanted == nil || o.scope.All {
		wanted = map[string]dataplane.Link{}
	}
	if o.scope.All {
		maps.Copy(wanted, o.scope.Domain.Links)
	}
	for name := range wanted {
		if _, ours := o.mine[name]; ours {
			continue
		}
		foreign, ok, err := o.k.linkByName(name)
		if err != nil {
			return err
		}
		if ok {
			o.out.Occupied.Links[name] = foreign.value("")
			o.others = append(o.others, foreign)
		}
	}
	return nil
}

// absent names our links that nothing can be written on.
func (o *observation) absent() {
	for name := range o.scope.Domain.Links {
		if !o.whole(name) && !o.mine[name].up {
			o.out.Absent[name] = true
		}
	}
}

// underlays looks at the interfaces that our devices stand on. The one that
// direct routes lead through takes them along just so, device or not.
func (o *observation) underlays() (err error) {
	if o.under, err = o.k.parents(o.mine); err != nil {
		return err
	}
	uplink := o.scope.Domain.Uplink
	known := uplink == ""
	for _, l := range o.under {
		known = known || l.name == uplink
	}
	if !known {
		l, ok, err := o.k.linkByName(uplink)
		if err != nil {
			return err
		}
		if ok {
			o.under[l.index] = l
		}
	}
	for _, parent := range o.under {
		if err := o.k.meetParent(parent); err != nil {
			return err
		}
	}
	return nil
}

func (o *observation) sysctls() error {
	names := maps.Clone(o.scope.Keys.Sysctls)
	if o.scope.All {
		names = o.k.memory.knownSysctls()
	}
	for name := range names {
		value, ok, err := o.k.readSysctl(name)
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", name, err)
		}
		if ok {
			o.out.Have.Sysctls[name] = value
		}
	}
	return nil
}

func (o *observation) addrs() error {
	asked := map[string]bool{}
	for key := range o.scope.Keys.Addrs {
		asked[key.Link] = true
	}
	for name, l := range o.mine {
		if !o.whole(name) && !asked[name] {
			continue
		}
		all, err := o.k.addresses(l.index)
		if err != nil {
			return err
		}
		for _, a := range all {
			key := dataplane.AddrKey{Link: name, Prefix: a.prefix}
			_, named := o.scope.Keys.Addrs[key]
			if named || o.whole(name) && owned(a.prefix, o.scope.Domain.Networks) {
				o.out.Have.Addrs[key] = struct{}{}
			}
		}
	}
	return nil
}

func (o *observation) fdb() error {
	keys := map[string]map[mac.Addr]bool{}
	for key := range o.scope.Keys.FDB {
		add(keys, key.Link, key.MAC)
	}
	put := func(name string, n neighbour) {
		key := dataplane.FDBKey{Link: name, MAC: n.mac}
		if n.odd { // like no wanted one: the invalid address stands for it
			n.ip = netip.Addr{}
		}
		o.out.Have.FDB[key] = n.ip
	}
	room := func(n int) { grow(&o.out.Have.FDB, n) }
	return perLink(o, unix.AF_BRIDGE, keys, (*encoder).getForward, func(n neighbour) mac.Addr { return n.mac }, room, put)
}

func (o *observation) neighs() error {
	keys := map[string]map[netip.Addr]bool{}
	for key := range o.scope.Keys.Neighs {
		add(keys, key.Link, key.IP)
	}
	put := func(name string, n neighbour) { o.out.Have.Neighs[dataplane.NeighKey{Link: name, IP: n.ip}] = n.mac }
	room := func(n int) { grow(&o.out.Have.Neighs, n) }
	keyOf := func(n neighbour) netip.Addr { return n.ip }
	return perLink(o, unix.AF_UNSPEC, keys, (*encoder).getNeighbour, keyOf, room, put)
}

// grow makes room at once: a map that grows by and by is copied many times.
func grow[K comparable, V any](m *map[K]V, n int) {
	if len(*m) == 0 {
		*m = make(map[K]V, n)
	}
}

func add[K comparable](sets map[string]map[K]bool, name string, key K) {
	if sets[name] == nil {
		sets[name] = map[K]bool{}
	}
	sets[name][key] = true
}

// perLink reads the entries of one table for each of our devices: all of them,
// or those that the scope names, by gets if they are few.
func perLink[K comparable](
	o *observation, family uint8, keys map[string]map[K]bool,
	get func(*encoder, int, K), keyOf func(neighbour) K, grow func(int), put func(string, neighbour),
) error {
	for name, l := range o.mine {
		whole, some := o.whole(name), keys[name]
		if !whole && len(some) == 0 {
			continue
		}
		if !whole && len(some) <= fewKeys {
			there, err := getNeighbours(o.k, slices.Collect(maps.Keys(some)), func(e *encoder, key K) {
				get(e, l.index, key)
			})
			if err == nil {
				for _, n := range there {
					put(name, n)
				}
				continue
			}
			if !errors.Is(err, errNoGet) {
				return err
			}
		}
		all, err := o.k.neighbours(family, l.index)
		if err != nil {
			return err
		}
		if whole {
			grow(len(all))
		}
		for _, n := range all {
			if whole || some[keyOf(n)] {
				put(name, n)
			}
		}
	}
	return nil
}
