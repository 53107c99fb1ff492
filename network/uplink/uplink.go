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
	"slices"
	"strings"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Wish is what the operator asked for.
type Wish struct {
	Ifaces []string     // names or addresses, the first that matches wins; none: the default route's
	Public []netip.Addr // what to announce, one per family at most; none: the interface's address
}

// Pick chooses the uplink.
//
// The interface is the first of the wish that exists; else the one that has a
// public address of the wish; else that of the default route with the best
// metric, which must be one and the same for all families that have one.
//
// The address of a family is the public one if the interface has it, else the
// one that named the interface, else the interface's best. Addresses that peers
// would not accept (link-local, inside of the cluster network) don't count.
func Pick(facts dataplane.Facts, cfg subnet.Config, wish Wish) (backend.Uplink, error) {
	if len(cfg.Networks) == 0 {
		return backend.Uplink{}, errors.New("no uplink can be chosen: the network configuration has no network")
	}
	c := chooser{facts: facts, cfg: cfg, wish: wish}
	name, err := c.choose()
	if err != nil {
		return backend.Uplink{}, err
	}
	if facts.Ifaces[name].MTU <= 0 {
		return backend.Uplink{}, fmt.Errorf("interface %s has no MTU: choose another one with --iface", name)
	}
	up := backend.Uplink{Iface: name, MTU: facts.Ifaces[name].MTU}
	for _, network := range cfg.Networks {
		local, public, err := c.addresses(name, network.Prefix)
		if err != nil {
			return backend.Uplink{}, err
		}
		up.Local, up.Public = append(up.Local, local), append(up.Public, public)
	}
	return up, nil
}

type chooser struct {
	facts dataplane.Facts
	cfg   subnet.Config
	wish  Wish
}

// choose gives the name of an interface that exists.
func (c chooser) choose() (string, error) {
	switch {
	case len(c.wish.Ifaces) > 0:
		return c.byWish()
	case len(c.publics()) > 0:
		return c.byPublic()
	}
	return c.byDefaultRoute()
}

// byWish takes the first that exists and can carry a tunnel.
func (c chooser) byWish() (string, error) {
	var reasons []string
	for _, w := range c.wish.Ifaces {
		name := w
		if addr, err := netip.ParseAddr(w); err == nil {
			name = c.holder(addr)
		}
		if _, ok := c.facts.Ifaces[name]; !ok {
			reasons = append(reasons, w+" is not on this host")
			continue
		}
		if reason := c.unfit(name); reason != "" {
			reasons = append(reasons, w+" "+reason)
			continue
		}
		return name, nil
	}
	return "", fmt.Errorf("no interface to use: %s; there is %s", strings.Join(reasons, ", "), c.list())
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

// addresses gives the tunnel's own address of a family, and the one to announce.
func (c chooser) addresses(name string, network netip.Prefix) (local, public netip.Addr, err error) {
	for _, p := range c.publics() {
		if same(p, network) {
			public = p
			break
		}
	}
	if public.IsValid() && !c.usable(public) {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("public address %s can't be announced: no peer would accept it; "+
			"it must be unicast, and not link-local, loopback or inside of the cluster network", public)
	}
	if local, err = c.local(name, network, public); err != nil {
		return netip.Addr{}, netip.Addr{}, err
	}
	if !public.IsValid() {
		public = local
	}
	return local, public, nil
}

// local prefers the address to announce, then one that was named as --iface.
func (c chooser) local(name string, network netip.Prefix, public netip.Addr) (netip.Addr, error) {
	var usable, unusable []netip.Addr
	for _, p := range c.facts.Ifaces[name].Addrs {
		switch a := p.Addr(); {
		case !same(a, network):
		case !c.usable(a):
			unusable = append(unusable, a)
		default:
			usable = append(usable, a)
		}
	}
	if slices.Contains(usable, public) {
		return public, nil
	}
	for _, w := range c.wish.Ifaces {
		if a, err := netip.ParseAddr(w); err == nil && slices.Contains(usable, a) {
			return a, nil
		}
	}
	if len(usable) > 0 {
		return usable[0], nil
	}
	err := fmt.Errorf("interface %s has no %s address", name, family(network))
	if len(unusable) > 0 {
		err = fmt.Errorf("%w that peers could use (%s is link-local or inside of the cluster network)", err, join(unusable))
	}
	return netip.Addr{}, fmt.Errorf("%w: give it one, or choose another interface with --iface", err)
}

// publics are the wish's addresses of the families that the cluster has.
func (c chooser) publics() (out []netip.Addr) {
	for _, p := range c.wish.Public {
		if slices.ContainsFunc(c.cfg.Networks, func(n subnet.Network) bool { return same(p, n.Prefix) }) {
			out = append(out, p)
		}
	}
	return out
}

// holder is the interface with an address: the first by name, or "".
func (c chooser) holder(addr netip.Addr) string {
	for _, name := range slices.Sorted(maps.Keys(c.facts.Ifaces)) {
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
