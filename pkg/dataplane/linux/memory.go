package linux

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// memory is what Watch must know of Observe and Apply to tell what concerns us
// from what doesn't, and our own writing from others'. It never answers what
// the kernel holds: an Observe reads that.
type memory struct {
	protocol uint8

	mu      sync.Mutex
	domain  dataplane.Domain
	ports   map[port]bool  // of our sockets
	devices map[int]string // our devices, by index → wanted name
	leaving map[int]bool   // devices that we are deleting, until the kernel says that they went
	links   map[string]dataplane.Link
	// births are devices that we made and that were not notified as up yet: the
	// kernel tells of them before they are, too.
	births  map[string]bool
	under   map[int]underlay // the parents of our devices
	parents map[string]bool  // names that our devices were planned on
	routes  map[dataplane.RouteKey]watched
	chains  map[ruleset.Key]bool
	elems   bool // elements of ours were seen or written
	// full: the last Observe was, and found these chains.
	full  bool
	stood map[ruleset.Key]bool
	drops []ruleset.Key // FORWARD chains with policy drop, since the last Facts
	// guards are the chains that Facts.Stateful was made of, as of the last Facts.
	guards       map[foreignChain]bool
	legacyGuards []string
	sysctls      map[string]string // last known value; "" if there was none
	// written holds FDB writes whose notification is still to come: those
	// alone don't name the writer.
	written  map[forwardKey]netip.Addr
	watchers int
	host     host
	writer   processName // that was asked for last
	// engrossed is while a plan is written after which all is read: the FDB is not
	// listened to.
	engrossed bool
	// touched are chains of the nftables transaction that is being notified.
	touched dataplane.Scope

	listeners map[*listener]int // that mute keeps up to date, and their protocols
}

// watched is what is known of the key of a route that concerns us.
type watched struct {
	ours  bool   // a route of ours has stood there, and we did not delete it
	link  string // that it led through
	taken bool   // somebody else's stood there when we wanted to make ours
}

// port is how the kernel names the writer in a notification. Each netlink
// protocol numbers its sockets by itself.
type port struct {
	protocol int
	id       uint32
}

type forwardKey struct {
	index int
	mac   mac.Addr
}

// underlay is what matters about a parent. Its addresses are kept because
// routers refresh their lifetimes every few seconds, which changes nothing.
type underlay struct {
	name  string
	mtu   int
	mac   mac.Addr
	up    bool
	addrs map[netip.Prefix]uint32
}

// lastingFlags are those that make an address better or worse.
const lastingFlags = unix.IFA_F_PERMANENT | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED

// maxWritten bounds written: an FDB write that changes nothing is not notified.
// Forgetting costs superfluous scopes, nothing else.
const maxWritten = 1 << 16

func newMemory(protocol uint8) *memory {
	return &memory{
		protocol: protocol,
		ports:    map[port]bool{},
		devices:  map[int]string{},
		leaving:  map[int]bool{},
		links:    map[string]dataplane.Link{},
		births:   map[string]bool{},
		under:    map[int]underlay{},
		parents:  map[string]bool{},
		routes:   map[dataplane.RouteKey]watched{},
		chains:   map[ruleset.Key]bool{},
		sysctls:  map[string]string{ipForward: "", ip6Forward: ""},
		written:  map[forwardKey]netip.Addr{},
		host:     noHost(),

		listeners: map[*listener]int{},
	}
}

func (m *memory) addPort(p port) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[p] = true
	m.muteAll()
}

// dropPort: the kernel may give the port id to another socket next.
func (m *memory) dropPort(p port) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ports, p)
	m.muteAll()
}

// territory is the domain of the last Observe.
func (m *memory) territory() dataplane.Domain {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.domain
}

func (m *memory) knownSysctls() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.sysctls)
}

// enter notes a scope before it is read: what changes from now on is notified.
func (m *memory) enter(s dataplane.Scope) {
	m.mu.Lock()
	defer m.mu.Unlock()
	otherwise := !slices.Equal(m.domain.Networks, s.Domain.Networks)
	m.domain = dataplane.Domain{
		Links:    maps.Clone(s.Domain.Links),
		Networks: slices.Clone(s.Domain.Networks),
		Uplink:   s.Domain.Uplink,
		Tables:   slices.Clone(s.Domain.Tables),
		Chains:   slices.Clone(s.Domain.Chains),

		Leftovers: slices.Clone(s.Domain.Leftovers),
	}
	if otherwise {
		m.muteAll()
	}
	for name := range s.Keys.Sysctls {
		if _, known := m.sysctls[name]; !known {
			m.sysctls[name] = ""
		}
	}
	m.full = s.All
	for key := range s.Keys.Routes {
		m.watch(key)
	}
	for key := range s.Keys.Chains {
		m.chains[key] = true
	}
}

// observed notes what was read.
func (m *memory) observed(o *observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.devices)
	for name, l := range o.mine {
		m.devices[l.index] = name
		delete(m.leaving, l.index) // it stayed
	}
	under := make(map[int]underlay, len(o.under))
	for index, l := range o.under {
		under[index] = m.underlayOf(l)
	}
	m.under = under
	if o.scope.All {
		clear(m.links)
		m.stood = map[ruleset.Key]bool{}
		for key := range o.out.Have.Chains {
			m.stood[key] = true
		}
	}
	for name := range o.scope.Keys.Links {
		delete(m.links, name)
	}
	for name := range m.births {
		if _, there := o.mine[name]; !there {
			delete(m.births, name)
		}
	}
	maps.Copy(m.links, o.out.Have.Links)
	maps.Copy(m.sysctls, o.out.Have.Sysctls)
	for key, r := range o.out.Have.Routes {
		m.routes[key] = watched{ours: true, link: r.Link}
	}
	for key := range o.out.Have.Chains {
		m.chains[key] = true
	}
	m.elems = m.elems || len(o.out.Have.Elems) > 0
}

// watch notes a key that is wanted, whatever stands there. It needs m.mu.
func (m *memory) watch(key dataplane.RouteKey) {
	if _, known := m.routes[key]; !known {
		m.routes[key] = watched{}
	}
}

// occupied notes that somebody else's route keeps ours from a key: when that one
// goes, ours is due, whatever was planned in between.
func (m *memory) occupied(key dataplane.RouteKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.routes[key]
	w.taken = true
	m.routes[key] = w
}

// stoodOn tells whether a route of ours was the last that we know of a key.
func (m *memory) stoodOn(key dataplane.RouteKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.routes[key].ours
}

// planned notes the keys that a plan wants, occupied ones included. After a full
// read nothing but what was there and what the plan names can be wanted; a read
// that no plan follows (somebody asks what we would do) says nothing.
func (m *memory) planned(p dataplane.Plan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		maps.DeleteFunc(m.routes, func(_ dataplane.RouteKey, w watched) bool { return !w.ours && !w.taken })
		m.chains = m.stood
	}
	m.full = false
	if len(p.Ops) > len(m.routes) {
		grow(&m.routes, len(p.Ops)/perPeer)
	}
	for _, ops := range [][]dataplane.Op{p.Ops, p.Conflicts} {
		for i := range ops {
			m.plannedOp(&ops[i])
		}
	}
}

// perPeer is how many entries a peer has nearly always: two elements, an FDB entry, a
// neighbour and a route.
const perPeer = 5

func (m *memory) plannedOp(op *dataplane.Op) {
	switch key := op.Key.(type) {
	case dataplane.RouteKey:
		if m.watch(key); op.Verb == dataplane.Delete {
			delete(m.routes, key)
		}
	case ruleset.Key:
		m.chains[key] = true
	}
	if l, ok := op.New.(dataplane.Link); ok && l.Parent != "" {
		m.parents[l.Parent] = true
	}
}

func (m *memory) wroteLink(verb dataplane.Verb, name string, l dataplane.Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links[name] = l
	delete(m.births, name)
	if verb == dataplane.Create && m.watchers > 0 {
		m.births[name] = true
	}
}

// letGo forgets a device that we are about to delete: what goes with it is
// notified entry by entry, without a writer's name.
func (m *memory) letGo(index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.devices[index]
	maps.DeleteFunc(m.routes, func(_ dataplane.RouteKey, w watched) bool { return w.ours && w.link == name })
	delete(m.links, name)
	delete(m.devices, index)
	m.leaving[index] = m.watchers > 0
}

func (m *memory) knows(parent int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.under[parent]
	return ok
}

func (m *memory) meet(parent link, addrs []address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.underlayOf(parent)
	for _, a := range addrs {
		u.addrs[a.prefix] = a.flags & lastingFlags
	}
	m.under[parent.index] = u
}

// wroteForward is called before the write: the notification may be faster than
// the answer. An invalid VTEP stands for a deletion.
func (m *memory) wroteForward(index int, hw mac.Addr, vtep netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers == 0 || m.engrossed {
		return
	}
	if len(m.written) >= maxWritten {
		clear(m.written)
	}
	m.written[forwardKey{index, hw}] = vtep
}

func (m *memory) wroteSysctl(name, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sysctls[name] = value
}

func (m *memory) watching(change int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers += change
	if m.watchers == 0 {
		clear(m.written)
		clear(m.leaving)
		clear(m.births)
	}
}

// underlayOf keeps the addresses that are known of an interface.
func (m *memory) underlayOf(l link) underlay {
	addrs := m.under[l.index].addrs
	if addrs == nil {
		addrs = map[netip.Prefix]uint32{}
	}
	return underlay{name: l.name, mtu: l.mtu, mac: l.mac, up: l.up, addrs: addrs}
}
