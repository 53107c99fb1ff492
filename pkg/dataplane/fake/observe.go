package fake

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// Facts reads the interfaces, the default routes of table main, and by that
// table the paths to peers.
func (k *Kernel) Facts(ctx context.Context, peers []netip.Addr) (dataplane.Facts, error) {
	if err := ctx.Err(); err != nil {
		return dataplane.Facts{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	f := dataplane.Facts{
		Ifaces: map[string]dataplane.Iface{}, Defaults: map[dataplane.RouteKey]dataplane.Route{}, Firewall: k.host,
	}
	for name, i := range k.ifaces {
		fact := dataplane.Iface{Index: i.index, MTU: i.mtu, MAC: i.mac, Up: i.up, Addrs: i.sortedAddrs()}
		if i.vxlan != nil {
			fact.VXLAN = &dataplane.Link{VNI: i.vxlan.VNI, Port: i.vxlan.Port, Local: i.vxlan.Local}
		}
		f.Ifaces[name] = fact
	}
	for key, r := range k.routes {
		if key.Prefix.Bits() == 0 && key.Table == 0 {
			f.Defaults[key] = r.Route
		}
	}
	k.peers, k.looked = slices.Clone(peers), k.looked+len(peers)
	k.lookUp(&f, peers)
	return f, nil
}

// Paths reads the ways to more peers than the last Facts told of, and nothing else.
func (k *Kernel) Paths(ctx context.Context, more []netip.Addr) (f dataplane.Facts, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.peers, k.looked = append(k.peers, more...), k.looked+len(more)
	k.lookUp(&f, more)
	return f, ctx.Err()
}

// Looked is how many ways to peers were asked for since the start.
func (k *Kernel) Looked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.looked
}

func (k *Kernel) lookUp(f *dataplane.Facts, peers []netip.Addr) {
	f.Paths, f.PathMTU = make(map[netip.Addr]dataplane.Route, len(peers)), map[netip.Addr]int{}
	for _, peer := range peers {
		if path, ok := k.path(peer); ok {
			f.Paths[peer] = path
			if mtu := k.routeMTU(peer); mtu > 0 {
				f.PathMTU[peer] = mtu
			}
		}
	}
}

// sortedAddrs has global addresses before link-local ones.
func (i *iface) sortedAddrs() []netip.Prefix {
	rank := func(p netip.Prefix) int {
		if p.Addr().IsLinkLocalUnicast() {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(i.addrs), func(a, b netip.Prefix) int {
		return cmp.Or(rank(a)-rank(b), a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
}

// Observe reads what is ours of the scope. What is occupied it knows for the
// names of links always, for routes and the rest only where the scope names
// the key, as the real one does.
func (k *Kernel) Observe(ctx context.Context, s dataplane.Scope) (dataplane.Observed, error) {
	if err := ctx.Err(); err != nil {
		return dataplane.Observed{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads++
	if k.faults.reads > 0 {
		k.faults.reads--
		return dataplane.Observed{}, k.faults.readErr
	}
	if k.faults.dump != nil {
		if err := k.faults.dump(); err != nil {
			return dataplane.Observed{}, err
		}
	}
	k.domain = copyDomain(s.Domain)
	for key := range s.Keys.Sysctls {
		k.asked[key] = true
	}
	v := view{k: k, claims: k.claims(), names: map[string]string{}}
	for name, i := range v.claims {
		v.names[i.name] = name
	}
	var out dataplane.Observed
	v.links(&out)
	v.routes(&out)
	v.rest(&out.Have)
	v.absent(&out, s)
	out.Have = copyState(out.Have.Within(s))
	for key, r := range out.Have.Routes {
		k.stood[key] = r.Link
	}
	out.Occupied = out.Occupied.Within(s)
	if !s.All {
		v.occupied(&out, s.Keys)
		return out, nil
	}
	out.Mark = mark(out.Have)
	if out.Same = out.Mark == s.Unless; out.Same {
		out.Have = out.Have.Few()
	}
	return out, nil
}

// mark sums up the entries, and what the real kernel has besides.
func mark(have dataplane.State) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, have.Elems, have.FDB, have.Neighs, have.Routes) // maps are printed in order
	return max(h.Sum64(), 1)
}

// view is one look at the kernel with the eyes of its owner.
type view struct {
	k      *Kernel
	claims map[string]*iface // wanted name → device
	names  map[string]string // name of the moment → wanted name, for our devices
}

// absent names the links that can't be written on.
func (v *view) absent(out *dataplane.Observed, s dataplane.Scope) {
	out.Absent = map[string]bool{}
	for name := range v.k.domain.Links {
		_, named := s.Keys.Links[name]
		if i := v.claims[name]; !s.All && !named && (i == nil || !i.up) {
			out.Absent[name] = true
		}
	}
}

func (v *view) links(out *dataplane.Observed) {
	out.Have.Links = map[string]dataplane.Link{}
	out.Have.Addrs = map[dataplane.AddrKey]struct{}{}
	out.Have.FDB = map[dataplane.FDBKey]netip.Addr{}
	out.Have.Neighs = map[dataplane.NeighKey]mac.Addr{}
	out.Occupied.Links = map[string]dataplane.Link{}
	for name, i := range v.claims {
		l := i.link()
		if i.name != name {
			l.Actual = i.name
		}
		out.Have.Links[name] = l
		for p := range i.addrs {
			if ours := p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() && v.k.inNetworks(p); ours {
				out.Have.Addrs[dataplane.AddrKey{Link: name, Prefix: p}] = struct{}{}
			}
		}
		for m, f := range i.fdb {
			if !f.learned {
				out.Have.FDB[dataplane.FDBKey{Link: name, MAC: m}] = f.dst
			}
		}
		for ip, m := range i.neighs {
			out.Have.Neighs[dataplane.NeighKey{Link: name, IP: ip}] = m
		}
	}
	for name := range v.k.domain.Links {
		if i := v.k.ifaces[name]; i != nil && v.names[name] == "" {
			out.Occupied.Links[name] = i.link()
		}
	}
}

func (i *iface) link() dataplane.Link {
	var l dataplane.Link
	if i.vxlan != nil {
		l = *i.vxlan
	}
	l.MTU, l.MAC, l.Up = i.mtu, i.mac, i.up
	return l
}

// routes are ours by weft's protocol, or as flannel leaves them.
func (v *view) routes(out *dataplane.Observed) {
	out.Have.Routes = map[dataplane.RouteKey]dataplane.Route{}
	for key, r := range v.k.routes {
		name, through := v.names[r.Link]
		inside := v.k.inNetworks(key.Prefix)
		flannels := !r.marked && through && inside && r.OnLink && r.Via == key.Prefix.Addr()
		if flannels || r.marked && (through || inside) {
			out.Have.Routes[key] = v.wanted(r.Route, name)
			if flannels {
				r := out.Have.Routes[key]
				r.Unmarked = true
				out.Have.Routes[key] = r
			}
		}
	}
}

// wanted names the route's link as the domain does.
func (v *view) wanted(r dataplane.Route, name string) dataplane.Route {
	if name != "" {
		r.Link = name
	}
	return r
}

func (v *view) rest(have *dataplane.State) {
	have.Chains = map[ruleset.Key]ruleset.Chain{}
	for key, c := range v.k.chains {
		if v.k.ours(key) {
			have.Chains[key] = v.k.jumped(key, cloneChain(c))
		}
	}
	have.Elems = map[ruleset.Elem]struct{}{}
	for el := range v.k.elems {
		if slices.Contains(v.k.domain.Tables, el.Set.Table) {
			have.Elems[el] = struct{}{}
		}
	}
	have.Sysctls = map[string]string{}
	for key := range v.k.asked {
		if value, there := v.k.sysctls[key]; there {
			have.Sysctls[key] = value
		}
	}
}

// occupied looks at the keys of a narrow scope that are not ours.
func (v *view) occupied(out *dataplane.Observed, keys dataplane.State) {
	for key := range keys.Routes {
		if _, ours := out.Have.Routes[key]; ours {
			continue
		}
		if r, there := v.k.routeAt(canonical(key)); there {
			if out.Occupied.Routes == nil {
				out.Occupied.Routes = map[dataplane.RouteKey]dataplane.Route{}
			}
			r = v.wanted(r, v.names[r.Link])
			_, r.Unmarked = v.k.routes[canonical(key)]
			_, r.Usurps = v.k.stood[key]
			out.Occupied.Routes[key] = r
		}
	}
	for key := range keys.Chains {
		if c, there := v.k.chains[key]; there && !v.k.ours(key) {
			if out.Occupied.Chains == nil {
				out.Occupied.Chains = map[ruleset.Key]ruleset.Chain{}
			}
			out.Occupied.Chains[key] = cloneChain(c)
		}
	}
}

func cloneChain(c ruleset.Chain) ruleset.Chain {
	c.Rules = slices.Clone(c.Rules)
	return c
}

// copyState drops empty maps, so that results compare with cmp.Diff.
func copyState(s dataplane.State) dataplane.State {
	var out dataplane.State
	out.Merge(s)
	return out
}
