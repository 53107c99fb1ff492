package linux

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// routes reads what is ours everywhere or on whole links, then what stands on
// the keys that the scope names.
func (o *observation) routes() error {
	for _, f := range families() {
		for _, filter := range o.routeFilters(f) {
			all, err := o.k.routesBy(filter)
			if err != nil {
				return err
			}
			if o.scope.All {
				grow(&o.out.Have.Routes, len(all))
				grow(&o.nexthops, len(all))
			}
			for _, r := range all {
				if err := o.putRoute(r, false); err != nil {
					return err
				}
			}
		}
	}
	if o.scope.All {
		return nil // foreign routes are found when a creation fails
	}
	return o.routeKeys()
}

func (o *observation) routeFilters(family uint8) []routeFilter {
	var filters []routeFilter
	if o.scope.All {
		filters = append(filters, routeFilter{family: family, protocol: o.k.protocol})
	} else {
		for _, l := range o.others {
			filters = append(filters, routeFilter{family: family, protocol: o.k.protocol, index: l.index})
		}
	}
	for name, l := range o.mine {
		if !o.whole(name) {
			continue
		}
		if !o.scope.All {
			filters = append(filters, routeFilter{family: family, protocol: o.k.protocol, index: l.index})
		}
		filters = append(filters, routeFilter{family: family, protocol: unix.RTPROT_BOOT, index: l.index})
	}
	return filters
}

// routeKeys reads single keys, and by a dump what single gets can't tell.
func (o *observation) routeKeys() error {
	type table struct {
		family uint8
		number int
	}
	unclear := map[table]map[dataplane.RouteKey]bool{}
	doubt := func(key dataplane.RouteKey) {
		t := table{family(key.Prefix.Addr()), kernelTable(key.Table)}
		if unclear[t] == nil {
			unclear[t] = map[dataplane.RouteKey]bool{}
		}
		unclear[t][key] = true
	}
	var there []route
	if keys := slices.Collect(maps.Keys(o.scope.Keys.Routes)); len(keys) <= fewKeys {
		err := o.k.routesAt(keys, func(key dataplane.RouteKey, r route, is verdict) {
			switch is {
			case found:
				there = append(there, r)
			case unsure:
				doubt(key)
			}
		})
		if err != nil {
			return err
		}
	} else {
		for _, key := range keys {
			doubt(key)
		}
	}
	for _, r := range there {
		if err := o.putRoute(r, true); err != nil {
			return err
		}
	}
	for t, keys := range unclear {
		all, err := o.k.routesBy(routeFilter{family: t.family, table: t.number})
		if err != nil {
			return err
		}
		for _, r := range all {
			if !keys[r.key] {
				continue
			}
			if err := o.putRoute(r, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// putRoute files a route as ours or, if it stands on a key of the scope, as
// foreign. The first with a key is the one that the kernel uses.
func (o *observation) putRoute(r route, named bool) error {
	_, ours := o.out.Have.Routes[r.key]
	_, foreign := o.out.Occupied.Routes[r.key]
	if r.other || ours || foreign {
		return nil
	}
	name, err := o.linkName(r.index)
	if err != nil {
		return err
	}
	value := r.value(name)
	switch {
	case r.protocol == o.k.protocol && (o.isOurs(r.index) || within(r.key.Prefix, o.scope.Domain.Networks)):
		if !r.plain {
			value = dataplane.Route{} // like no wanted one
		}
		o.out.Have.Routes[r.key] = value
		o.nexthops[r.key] = r.nexthop
	case o.leftByFlannel(r):
		value.Unmarked = true
		o.out.Have.Routes[r.key] = value
	case named:
		value.Unmarked = r.plain && r.nexthop == 0 && r.protocol == unix.RTPROT_BOOT
		value.Usurps = o.k.memory.stoodOn(r.key)
		o.out.Occupied.Routes[r.key] = value
	}
	return nil
}

// leftByFlannel tells a route in the shape in which flannel writes those to its
// peers: through our device, via the network address of its own prefix, with
// no protocol of its own.
func (o *observation) leftByFlannel(r route) bool {
	return r.plain && r.nexthop == 0 && r.onlink && r.protocol == unix.RTPROT_BOOT && r.via == r.key.Prefix.Addr() &&
		o.isOurs(r.index) && within(r.key.Prefix, o.scope.Domain.Networks)
}

func (o *observation) isOurs(index int) bool {
	for _, l := range o.mine {
		if l.index == index {
			return true
		}
	}
	return false
}

// linkName gives our devices under their wanted names.
func (o *observation) linkName(index int) (string, error) {
	if name, ok := o.names[index]; ok || index == 0 {
		return name, nil
	}
	l, _, err := o.k.linkByIndex(index)
	if err != nil {
		return "", err
	}
	o.names[index] = l.name
	return l.name, nil
}

// useOfNexthops notes what routes of ours go by, and in full what they don't.
func (o *observation) useOfNexthops() error {
	if !o.scope.All {
		for key := range o.scope.Keys.Routes {
			if _, ours := o.nexthops[key]; !ours {
				o.nexthops[key] = 0 // gone, or not ours any more
			}
		}
		return nil
	}
	if o.k.hasNexthops() {
		for _, l := range o.mine {
			all, err := o.k.nexthopsOn(l.index)
			if err != nil {
				return err
			}
			foreign := func(n nexthop) bool { return n.protocol != o.k.protocol }
			o.objects = append(o.objects, slices.DeleteFunc(all, foreign)...)
		}
	}
	return nil
}

// occupant looks at what an exclusive creation met.
func (k *Kernel) occupant(key dataplane.RouteKey, domain dataplane.Domain) (
	ours bool, foreign dataplane.Route, err error,
) {
	o := &observation{k: k, names: map[int]string{}, nexthops: map[dataplane.RouteKey]uint32{}, scope: dataplane.Scope{
		Keys:   dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{key: {}}},
		Domain: domain,
	}}
	o.out.Have.Routes = map[dataplane.RouteKey]dataplane.Route{}
	o.out.Occupied.Routes = map[dataplane.RouteKey]dataplane.Route{}
	o.out.Absent = map[string]bool{}
	if err := o.links(); err != nil {
		return false, dataplane.Route{}, err
	}
	if err := o.routeKeys(); err != nil {
		return false, dataplane.Route{}, err
	}
	_, ours = o.out.Have.Routes[key]
	return ours, o.out.Occupied.Routes[key], nil
}
