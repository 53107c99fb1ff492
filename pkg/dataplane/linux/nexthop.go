package linux

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// This file knows nexthop objects (Linux 5.3 and later). An IPv4 route that leads
// through a tunnel goes by one, because the kernel keeps the plain routes of one
// device in one list, which it walks at every write. Nobody outside of this
// package sees them: a route is the same value with an object and without.

// gateway is where an object leads: onlink, always.
type gateway struct {
	index int
	via   netip.Addr
}

// nexthop is an object as the kernel describes it; id 0 is none.
type nexthop struct {
	id       uint32
	protocol uint8
	to       gateway
	odd      bool // not like those that we make: a group, with a tunnel, not onlink
}

// Our ids are those from 0x50000000 to 0x5fffffff that nobody else has.
const (
	nexthopBase = 0x50000000
	nexthopMask = 0x0fffffff
	// nexthopProbes is how many ids are tried for one gateway.
	nexthopProbes = 8
	// fewNexthops is how many are asked for by themselves, a system call each; for
	// more all are read.
	fewNexthops = 128
	nhaFDB      = 11 // NHA_FDB (linux/nexthop.h), which x/sys lacks
	// sizeofNhmsg is that of struct nhmsg.
	sizeofNhmsg = 8
)

// id spreads gateways so that those of /28 and larger subnets behind one link
// never share an id: their product with an odd number is another one each, also
// without its lower four bits, which are the same.
func (g gateway) id(probe int) uint32 {
	ip := g.via.As4()
	spread := binary.BigEndian.Uint32(ip[:])*0x9e3779b1 + uint32(g.index)*0x85ebca6b
	return nexthopBase | (spread>>4+uint32(probe))&nexthopMask
}

func parseNexthop(m []byte) (nexthop, bool) {
	if len(m) < sizeofNhmsg {
		return nexthop{}, false
	}
	n := nexthop{protocol: m[2], odd: binary.NativeEndian.Uint32(m[4:])&unix.RTNH_F_ONLINK == 0}
	for a := range attrs(m[sizeofNhmsg:]) {
		switch a.kind {
		case unix.NHA_ID:
			n.id = a.uint32()
		case unix.NHA_OIF:
			n.to.index = int(a.uint32())
		case unix.NHA_GATEWAY:
			n.to.via = a.addr()
		case unix.NHA_GROUP, unix.NHA_BLACKHOLE, unix.NHA_ENCAP_TYPE, nhaFDB:
			n.odd = true
		}
	}
	return n, n.id != 0
}

func (e *encoder) beginNexthop(typ, flags int, family, protocol uint8, nh uint32) {
	e.begin(typ, flags)
	e.bytes(family, 0, protocol, 0)
	e.uint32(nh)
}

func (e *encoder) putNexthop(protocol uint8, id uint32, to gateway) {
	e.beginNexthop(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.AF_INET, protocol, unix.RTNH_F_ONLINK)
	e.uint32Attr(unix.NHA_ID, id)
	e.uint32Attr(unix.NHA_OIF, uint32(to.index))
	e.addrAttr(unix.NHA_GATEWAY, to.via)
	e.end()
}

func (e *encoder) deleteNexthop(id uint32) {
	e.beginNexthop(unix.RTM_DELNEXTHOP, 0, unix.AF_UNSPEC, 0, 0)
	e.uint32Attr(unix.NHA_ID, id)
	e.end()
}

// nhHeader is struct nhmsg of a request to read.
type nhHeader struct{}

func (nhHeader) Len() int { return sizeofNhmsg }

func (nhHeader) Serialize() []byte { return make([]byte, sizeofNhmsg) }

func (k *Kernel) nexthopAt(id uint32) (nexthop, error) {
	n, _, err := get(k, unix.RTM_GETNEXTHOP, parseNexthop, nhHeader{}, uint32Attr(unix.NHA_ID, id))
	if err != nil && !gone(err) {
		return nexthop{}, fmt.Errorf("look up nexthop %d: %w", id, err)
	}
	return n, nil
}

// nexthopsOn lists those of one interface, or with index 0 all.
func (k *Kernel) nexthopsOn(index int) ([]nexthop, error) {
	c, err := k.route()
	if err != nil {
		return nil, err
	}
	keep := func(m []byte) (nexthop, bool) {
		n, ok := parseNexthop(m)
		return n, ok && (index == 0 || n.to.index == index)
	}
	var all []nexthop
	if c.strict && index != 0 {
		all, err = dump(k, unix.RTM_GETNEXTHOP, keep, nhHeader{}, uint32Attr(unix.NHA_OIF, uint32(index)))
	} else {
		all, err = dump(k, unix.RTM_GETNEXTHOP, keep, nhHeader{})
	}
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list nexthops: %w", err)
	}
	return all, nil
}

// nexthopCompat is 0 where somebody told the kernel to name a route's object only,
// and not where it leads: such routes are of no use to us, or to other tools.
const nexthopCompat = "net/ipv4/nexthop_compat_mode"

// hasNexthops tells whether routes shall lead through objects.
func (k *Kernel) hasNexthops() bool {
	if k.noNexthops {
		return false
	}
	if _, err := k.nexthopAt(nexthopBase); err != nil {
		return false // EOPNOTSUPP before 5.3
	}
	mode, _, err := k.readSysctl(nexthopCompat)
	return err == nil && mode != "0" // there is no such file before 5.8: as 1
}

// nexthopUse is which routes of ours lead through which objects, as far as was
// read and written. It decides only which object to delete.
type nexthopUse struct {
	full   bool // everything was read once
	routes map[dataplane.RouteKey]uint32
	count  map[uint32]int
	unused map[uint32]bool // to be deleted by the next Apply
}

func newNexthopUse() nexthopUse {
	return nexthopUse{routes: map[dataplane.RouteKey]uint32{}, count: map[uint32]int{}, unused: map[uint32]bool{}}
}

// set notes what a route goes by now; 0 is no object.
func (u *nexthopUse) set(key dataplane.RouteKey, id uint32) {
	was := u.routes[key]
	if was == id {
		return
	}
	if id != 0 {
		u.routes[key] = id
		u.count[id]++
		delete(u.unused, id)
	} else {
		delete(u.routes, key)
	}
	if was == 0 {
		return
	}
	u.count[was]--
	u.spare(was)
}

// spare marks an object that no route of ours goes by.
func (u *nexthopUse) spare(id uint32) {
	if id != 0 && u.count[id] <= 0 {
		delete(u.count, id)
		u.unused[id] = true
	}
}

// observed notes what an Observe saw: the objects of routes (0 for none), and,
// after a full one, all objects of ours. The map is ours from then on.
func (u *nexthopUse) observed(full bool, routes map[dataplane.RouteKey]uint32, all []nexthop) {
	if full {
		*u = nexthopUse{full: true, routes: routes, count: make(map[uint32]int, len(all)), unused: map[uint32]bool{}}
		maps.DeleteFunc(routes, func(_ dataplane.RouteKey, id uint32) bool { return id == 0 })
		for _, id := range routes {
			u.count[id]++
		}
	} else {
		for key, id := range routes {
			u.set(key, id)
		}
	}
	for _, n := range all {
		u.spare(n.id)
	}
}

// nexthops is what one Apply knows of the kernel's objects.
type nexthops struct {
	k    *Kernel
	many bool // read all at the first question
	has  func() bool
	seen map[uint32]nexthop // nothing there: the zero nexthop
	all  bool               // seen is complete
}

func (n *nexthops) at(id uint32) (nexthop, error) {
	if o, known := n.seen[id]; known || n.all {
		return o, nil
	}
	if !n.many {
		o, err := n.k.nexthopAt(id)
		if err == nil {
			n.seen[id] = o
		}
		return o, err
	}
	all, err := n.k.nexthopsOn(0)
	if err != nil {
		return nexthop{}, err
	}
	for _, o := range all {
		n.seen[o.id] = o
	}
	n.all = true
	return n.seen[id], nil
}

// forget what was read: it is not so any more.
func (n *nexthops) forget() {
	clear(n.seen)
	n.all = false
}

// place finds the object that leads to a gateway, or an id for it. It gives id 0 where there
// is none to be had: the route goes without then.
func (n *nexthops) place(to gateway) (id uint32, there bool) {
	if !n.has() {
		return 0, false
	}
	want := nexthop{protocol: n.k.protocol, to: to}
	for probe := range nexthopProbes {
		want.id = to.id(probe)
		o, err := n.at(want.id)
		switch {
		case err != nil:
			return 0, false
		case o == want:
			return o.id, true
		case o.id == 0:
			n.seen[want.id] = want
			return want.id, false
		}
	}
	return 0, false
}

// sweep deletes objects that no route of ours goes by any more. What bears not
// our mark is not ours, whatever its id. An object that could not be deleted
// shows again in the next full Observe.
func (a *application) sweep() {
	use := &a.k.nexthopUse
	if !use.full || len(use.unused) == 0 || !a.nexthops.has() {
		return
	}
	a.nexthops.many = a.nexthops.many || len(use.unused) > fewNexthops
	var b batch
	for _, id := range slices.Sorted(maps.Keys(use.unused)) {
		if o, err := a.nexthops.at(id); err != nil || o.id == 0 || o.protocol != a.k.protocol {
			continue
		}
		if len(b.types) == maxBatch {
			b.flush(a.k)
			b.clear()
		}
		b.deleteNexthop(id)
		a.nexthops.seen[id] = nexthop{}
	}
	b.flush(a.k)
	clear(use.unused)
}

// tunnel gives the gateway of a route that goes by an object where there are any.
func tunnel(r dataplane.Route, index int) (gateway, bool) {
	return gateway{index, r.Via}, r.OnLink && r.Via.Is4() && index != 0
}

// nexthopChange: who deletes an object deletes its routes, without a word about
// them; who replaces it leads them elsewhere.
func (m *memory) nexthopChange(b []byte) dataplane.Scope {
	n, ok := parseNexthop(b)
	if !ok || n.protocol != m.protocol {
		return dataplane.Scope{}
	}
	if name, ours := m.devices[n.to.index]; ours {
		return linkScope(name)
	}
	return dataplane.Scope{}
}
