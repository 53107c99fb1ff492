// Package uplink decides which interface carries the tunnel, and which of its
// addresses are the tunnel's.
//
// It owns that choice alone, made from facts. It refuses to change anything
// about an interface, and to guess where two are equally good:
// then it says how to choose.
package uplink

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Wish is what the operator asked for. What names an interface is tried in the
// order of the fields, until one can carry the tunnel.
type Wish struct {
	Ifaces   []string         // names or addresses
	Regex    []*regexp.Regexp // each is matched against all addresses, then against all names
	CanReach netip.Addr       // the interface of the path to it, which must be in Facts.Paths
	Public   []netip.Addr     // what to announce, one per family at most; none: the interface's address
}

// Paths are the addresses to which Pick needs the Paths.
func (w Wish) Paths() []netip.Addr {
	if !w.CanReach.IsValid() {
		return nil
	}
	return []netip.Addr{w.CanReach}
}

// Pick chooses the uplink. Its MTU is the interface's, or the smallest that a route
// to a peer by it says, if Facts know some of these.
//
// The interface is the first of the wish that can carry the tunnel: it is not
// loopback nor the tunnel, has an MTU, and an address of each family. A wish
// that names none leaves it to the public address, if an interface has it; else
// to the default route with the best metric, which must be by one and the same
// interface for all families that have one.
//
// The address of a family is the public one if the interface has it, else the
// one that named the interface, else the interface's best. Addresses that peers
// would not accept (link-local, inside of the cluster network) don't count;
// only behind NAT, where peers are told another one, an IPv4 link-local
// address does if there is no better.
func Pick(facts dataplane.Facts, cfg subnet.Config, wish Wish) (backend.Uplink, error) {
	if len(cfg.Networks) == 0 {
		return backend.Uplink{}, errors.New("no uplink can be chosen: the network configuration has no network")
	}
	c := chooser{facts: facts, cfg: cfg, wish: wish}
	for _, p := range c.publics() {
		if !c.usable(p) {
			return backend.Uplink{}, fmt.Errorf("public address %s can't be announced: no peer would accept it; "+
				"it must be unicast, and not link-local, loopback or inside of the cluster network", p)
		}
	}
	if len(wish.Ifaces) > 0 || len(wish.Regex) > 0 || wish.CanReach.IsValid() {
		return c.byWish()
	}
	by := c.byDefaultRoute
	if len(c.publics()) > 0 {
		by = c.byPublic
	}
	name, err := by()
	if err != nil {
		return backend.Uplink{}, err
	}
	up, lack := c.uplink(name, netip.Addr{})
	if lack != "" {
		return backend.Uplink{}, fmt.Errorf("interface %s %s: mend that, or choose another one with --iface", name, lack)
	}
	return up, nil
}

type chooser struct {
	facts dataplane.Facts
	cfg   subnet.Config
	wish  Wish
}

// uplink is the interface as the uplink, or what it lacks for that: a clause.
func (c chooser) uplink(name string, named netip.Addr) (backend.Uplink, string) {
	if lack := c.unfit(name); lack != "" {
		return backend.Uplink{}, lack
	}
	up := backend.Uplink{Iface: name, MTU: c.facts.Ifaces[name].MTU}
	if up.MTU <= 0 {
		return backend.Uplink{}, "has no MTU"
	}
	for peer, mtu := range c.facts.PathMTU {
		if c.facts.Paths[peer].Link == name {
			up.MTU = min(up.MTU, mtu)
		}
	}
	for _, network := range c.cfg.Networks {
		public := c.public(network.Prefix)
		local, lack := c.local(name, network.Prefix, public, named)
		if lack != "" {
			return backend.Uplink{}, lack
		}
		if !public.IsValid() {
			public = local
		}
		up.Local, up.Public = append(up.Local, local), append(up.Public, public)
	}
	return up, ""
}

// byPublic takes the interface that has a public address. An address that is
// on none (behind NAT) says nothing about the interface.
func (c chooser) byPublic() (string, error) {
	found := ""
	for _, addr := range c.publics() {
		name := c.holder(addr)
		switch {
		case name == "" || c.unfit(name) != "":
		case found != "" && found != name:
			return "", fmt.Errorf("the public addresses %s are on two interfaces, %s and %s: choose one with --iface",
				join(c.publics()), found, name)
		default:
			found = name
		}
	}
	if found == "" {
		return "", fmt.Errorf("public address %s is on no interface that can carry the tunnel: "+
			"choose one with --iface; there is %s", join(c.publics()), c.list())
	}
	return found, nil
}

// byDefaultRoute takes the interface of the best default route.
func (c chooser) byDefaultRoute() (string, error) {
	name, of := "", ""
	for _, network := range c.cfg.Networks {
		next := c.bestDefault(network.Prefix)
		switch {
		case next == "":
		case name == "":
			name, of = next, family(network.Prefix)
		case next != name:
			return "", fmt.Errorf("the default route of %s is by %s, that of %s by %s, and the tunnel needs one for both: "+
				"choose one with --iface", of, name, family(network.Prefix), next)
		}
	}
	if name == "" {
		return "", fmt.Errorf("no default route to tell the interface by: choose one with --iface; there is %s", c.list())
	}
	return name, nil
}

// bestDefault gives the interface of the family's default route of the lowest
// metric, among those that can carry a tunnel; or "".
func (c chooser) bestDefault(like netip.Prefix) string {
	var keys []dataplane.RouteKey
	for k, r := range c.facts.Defaults {
		if _, ok := c.facts.Ifaces[r.Link]; ok && same(k.Prefix.Addr(), like) && c.unfit(r.Link) == "" {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	best := slices.MinFunc(keys, func(a, b dataplane.RouteKey) int {
		return cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Table, b.Table))
	})
	return c.facts.Defaults[best].Link
}

// unfit says why an interface can't carry the tunnel: a clause, or "".
func (c chooser) unfit(name string) string {
	iface := c.facts.Ifaces[name]
	if name == "lo" {
		return "is the loopback interface"
	}
	for _, p := range iface.Addrs {
		if p.Addr().IsLoopback() {
			return "is the loopback interface"
		}
		if iface.VXLAN != nil && c.inCluster(p.Addr()) {
			return "is the tunnel itself"
		}
	}
	return ""
}

// public is the wish's address of a family, or the zero address.
func (c chooser) public(network netip.Prefix) netip.Addr {
	for _, p := range c.publics() {
		if same(p, network) {
			return p
		}
	}
	return netip.Addr{}
}

// local is the tunnel's own address of a family, or what the interface lacks.
// It prefers the address to announce, then those that were named.
func (c chooser) local(name string, network netip.Prefix, public, named netip.Addr) (local netip.Addr, lack string) {
	var usable, unusable []netip.Addr
	for _, p := range c.facts.Ifaces[name].Addrs {
		switch a := p.Addr(); {
		case !same(a, network):
		case c.usable(a), public.IsValid() && a.Is4() && a.IsLinkLocalUnicast():
			usable = append(usable, a)
		default:
			unusable = append(unusable, a)
		}
	}
	wanted := []netip.Addr{public, named}
	for _, w := range c.wish.Ifaces {
		if a, err := netip.ParseAddr(w); err == nil {
			wanted = append(wanted, a)
		}
	}
	for _, a := range wanted {
		if slices.Contains(usable, a) {
			return a, ""
		}
	}
	switch {
	case len(usable) > 0:
		return usable[0], ""
	case len(unusable) > 0:
		return netip.Addr{}, fmt.Sprintf("has no %s address that peers could use (%s is link-local or inside of the "+
			"cluster network)", family(network), join(unusable))
	}
	return netip.Addr{}, fmt.Sprintf("has no %s address", family(network))
}

// publics are the wish's addresses of the families that the cluster has.
func (c chooser) publics() (out []netip.Addr) {
	for _, p := range c.wish.Public {
		if c.has(p) {
			out = append(out, p)
		}
	}
	return out
}

// has tells whether the cluster has the address's family.
func (c chooser) has(a netip.Addr) bool {
	return slices.ContainsFunc(c.cfg.Networks, func(n subnet.Network) bool { return same(a, n.Prefix) })
}

// names are those of all interfaces, the oldest first: the order in which the
// kernel lists them, and flannel takes them.
func (c chooser) names() []string {
	return slices.SortedFunc(maps.Keys(c.facts.Ifaces), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.facts.Ifaces[a].Index, c.facts.Ifaces[b].Index), cmp.Compare(a, b))
	})
}

// holder is the first interface with an address, or "".
func (c chooser) holder(addr netip.Addr) string {
	for _, name := range c.names() {
		for _, p := range c.facts.Ifaces[name].Addrs {
			if p.Addr() == addr {
				return name
			}
		}
	}
	return ""
}

// usable tells whether peers would accept the address (see subnet.Admit).
func (c chooser) usable(a netip.Addr) bool { return a.IsGlobalUnicast() && !c.inCluster(a) }

func (c chooser) inCluster(a netip.Addr) bool {
	return slices.ContainsFunc(c.cfg.Networks, func(n subnet.Network) bool { return n.Prefix.Contains(a) })
}

// list names what there is to choose from.
func (c chooser) list() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.facts.Ifaces)) {
		if c.unfit(name) != "" {
			continue
		}
		var addrs []netip.Addr
		for _, p := range c.facts.Ifaces[name].Addrs {
			addrs = append(addrs, p.Addr())
		}
		text := name
		if len(addrs) > 0 {
			text += " (" + join(addrs) + ")"
		}
		out = append(out, text)
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func join(addrs []netip.Addr) string {
	text := make([]string, len(addrs))
	for i, a := range addrs {
		text[i] = a.String()
	}
	return strings.Join(text, " ")
}

func same(a netip.Addr, p netip.Prefix) bool { return a.BitLen() == p.Addr().BitLen() }

func family(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "IPv6"
	}
	return "IPv4"
}
