// Package fake is dataplane.Kernel in memory, with the habits of the real one
// that a program falls over: what a link takes along when it goes, what is
// flushed without a word, what is refused.
//
//	loop ── Observe, Apply, Watch ──→ Kernel ←── Put, Delete, Rename … ── the world (a test)
//
// It owns the copy of those habits; kerneltest holds it to the real kernel. It
// refuses to forward packets.
package fake

import (
	"maps"
	"net/netip"
	"sync"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// Kernel is one network namespace. All methods are safe for concurrent use.
type Kernel struct {
	mu      sync.Mutex
	ifaces  map[string]*iface // by the name of the moment
	routes  map[dataplane.RouteKey]route
	chains  map[ruleset.Key]ruleset.Chain
	elems   map[ruleset.Elem]struct{}
	builtIn map[ruleset.Key][]builtInRule // of iptables
	host    ruleset.Facts
	sysctls map[string]string
	created int // interfaces ever made

	domain   dataplane.Domain              // of the last Observe
	stood    map[dataplane.RouteKey]string // where a route of ours was seen, and the link that it led through
	asked    map[string]bool               // sysctls that went through Observe or Apply
	peers    []netip.Addr                  // of the last Facts, and of Paths since
	looked   int                           // ways that were asked for
	mtus     map[netip.Prefix]int          // that routes say
	watchers map[*watcher]bool
	applying bool // what changes now is our own doing
	muted    bool

	faults        faults
	writes, reads int
}

// iface is an interface with all that dies with it but its routes.
type iface struct {
	name   string
	index  int
	mtu    int
	mac    mac.Addr
	up     bool
	vxlan  *dataplane.Link // VNI, Port, Local, Parent, Learning, GBP, TXChecksum only
	addrs  map[netip.Prefix]bool
	fdb    map[mac.Addr]forward
	neighs map[netip.Addr]mac.Addr // permanent ones
}

type forward struct {
	dst     netip.Addr
	learned bool
}

// route is an entry with or without weft's protocol. Those that the kernel
// makes for the addresses of a link are not kept, see connected.
type route struct {
	dataplane.Route
	marked bool
}

const (
	loopback       = "lo"
	ethernetMTU    = 1500
	defaultMetric6 = 1024 // IP6_RT_PRIO_USER
	kernelMetric6  = 256  // IP6_RT_PRIO_ADDRCONF
	tableMain      = 254  // RT_TABLE_MAIN; 0 in a RouteKey
	ipForward      = "net/ipv4/ip_forward"
	ip6Forward     = "net/ipv6/conf/all/forwarding"
)

// New makes a fresh namespace: `lo` is up, nothing is forwarded, nothing else
// is there.
func New() *Kernel {
	k := &Kernel{
		ifaces:   map[string]*iface{},
		routes:   map[dataplane.RouteKey]route{},
		chains:   map[ruleset.Key]ruleset.Chain{},
		elems:    map[ruleset.Elem]struct{}{},
		builtIn:  map[ruleset.Key][]builtInRule{},
		sysctls:  map[string]string{ipForward: "0", ip6Forward: "0"},
		stood:    map[dataplane.RouteKey]string{},
		asked:    map[string]bool{ipForward: true, ip6Forward: true},
		watchers: map[*watcher]bool{},
	}
	lo := k.newIface(loopback)
	lo.mtu, lo.up = 65536, true
	lo.addrs[netip.MustParsePrefix("127.0.0.1/8")] = true
	lo.addrs[netip.MustParsePrefix("::1/128")] = true
	return k
}

// Restarted is what a new process sees: the same namespace, through a Kernel
// with no memory of domain and sysctls. The old one is dead: don't use it, and
// end its Watch before.
func (k *Kernel) Restarted() *Kernel {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &Kernel{
		ifaces: k.ifaces, routes: k.routes, chains: k.chains, elems: k.elems, builtIn: k.builtIn, host: k.host,
		sysctls: k.sysctls, created: k.created,
		stood:    map[dataplane.RouteKey]string{},
		asked:    map[string]bool{ipForward: true, ip6Forward: true},
		watchers: map[*watcher]bool{},
	}
}

// Writes counts the ops that Apply was given, those that failed included.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// Reads counts the calls of Observe.
func (k *Kernel) Reads() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reads
}

// claims finds our device for every wanted name. Its identity is what the
// kernel allows only once: VNI, port and the family of the outer address (two
// devices that differ in nothing but the family stand side by side). Failing
// that, a device that bears the name and our VNI is ours, to be made anew.
func (k *Kernel) claims() map[string]*iface {
	out := make(map[string]*iface, len(k.domain.Links))
	taken := map[*iface]bool{}
	for name, id := range k.domain.Links {
		for _, i := range k.ifaces {
			if i.vxlan != nil && sameIdentity(*i.vxlan, id) {
				out[name], taken[i] = i, true
			}
		}
	}
	for name, id := range k.domain.Links {
		i := k.ifaces[name]
		if out[name] == nil && i != nil && !taken[i] && i.vxlan != nil && i.vxlan.VNI == id.VNI {
			out[name] = i
		}
	}
	return out
}

// sameIdentity treats a missing Local as fitting either family.
func sameIdentity(a, b dataplane.Link) bool {
	return a.VNI == b.VNI && a.Port == b.Port &&
		(!a.Local.IsValid() || !b.Local.IsValid() || a.Local.Is4() == b.Local.Is4())
}

// wantedName is the name that the domain has for the interface, if it is ours.
func (k *Kernel) wantedName(i *iface) (string, bool) {
	for name, ours := range k.claims() {
		if ours == i {
			return name, true
		}
	}
	return "", false
}

// named finds the interface that an op means: ours under whatever name it
// has now, never a foreign one that bears our name.
func (k *Kernel) named(name string) *iface {
	if _, ours := k.domain.Links[name]; ours {
		return k.claims()[name]
	}
	return k.ifaces[name]
}

func (k *Kernel) inNetworks(p netip.Prefix) bool {
	for _, n := range k.domain.Networks {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// canonical is the key as the kernel files it.
func canonical(k dataplane.RouteKey) dataplane.RouteKey {
	if k.Prefix.Addr().Is6() && k.Metric == 0 {
		k.Metric = defaultMetric6
	}
	if k.Table == tableMain {
		k.Table = 0
	}
	k.Prefix = k.Prefix.Masked()
	return k
}

// connected are the routes that the kernel itself makes for the addresses of
// links that are up.
func (k *Kernel) connected() map[dataplane.RouteKey]dataplane.Route {
	out := map[dataplane.RouteKey]dataplane.Route{}
	for _, i := range k.ifaces {
		for p := range i.addrs {
			switch {
			case !i.up || i.name == loopback:
			case p.Addr().Is6():
				out[dataplane.RouteKey{Prefix: p.Masked(), Metric: kernelMetric6}] = dataplane.Route{Link: i.name}
			case !p.IsSingleIP():
				out[dataplane.RouteKey{Prefix: p.Masked()}] = dataplane.Route{Link: i.name, Src: p.Addr()}
			}
		}
	}
	return out
}

func copyDomain(d dataplane.Domain) dataplane.Domain {
	return dataplane.Domain{
		Links:    maps.Clone(d.Links),
		Networks: append([]netip.Prefix(nil), d.Networks...),
		Uplink:   d.Uplink,
		Tables:   append([]string(nil), d.Tables...),
		Chains:   append([]ruleset.Key(nil), d.Chains...),

		Leftovers: append([]ruleset.Key(nil), d.Leftovers...),
	}
}
