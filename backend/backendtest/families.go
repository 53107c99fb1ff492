package backendtest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

// The law of this file: a family is a value. If every IPv4 address of a case is
// written as an IPv6 one, the entries are the same ones, written likewise. What
// the kernel itself has otherwise for IPv6 is set aside: the device's name, its
// MTU and a route's metric.

func only4(h backend.Host) bool {
	return !slices.ContainsFunc(h.Config.Networks, func(n subnet.Network) bool { return n.Prefix.Addr().Is6() })
}

func maps6(t *testing.T, b backend.Backend, c Case) {
	have := want(t, b, mapHost(c.Host), mapLeases(c.Peers))
	like := mapState(want(t, b, c.Host, c.Peers))
	if d := cmp.Diff(text(anonymous(like)), text(anonymous(have))); d != "" {
		t.Errorf("entries for IPv4, mapped, and entries for IPv6:\n%s", d)
	}
}

// map6 puts a.b.c.d behind fd00:: (RFC 4193, a prefix that is nobody's).
func map6(a netip.Addr) netip.Addr {
	if !a.Is4() {
		return a
	}
	v4 := a.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 12: v4[0], 13: v4[1], 14: v4[2], 15: v4[3]})
}

func mapPrefix(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4() {
		return p
	}
	return netip.PrefixFrom(map6(p.Addr()), 96+p.Bits())
}

func mapHost(h backend.Host) backend.Host {
	h = cloneHost(h)
	for i, n := range h.Config.Networks {
		h.Config.Networks[i] = subnet.Network{
			Prefix: mapPrefix(n.Prefix), SubnetLen: 96 + n.SubnetLen, Min: map6(n.Min), Max: map6(n.Max),
		}
	}
	for i := range h.Uplink.Local {
		h.Uplink.Local[i], h.Uplink.Public[i] = map6(h.Uplink.Local[i]), map6(h.Uplink.Public[i])
	}
	for _, iface := range h.Facts.Ifaces {
		for i, p := range iface.Addrs {
			iface.Addrs[i] = mapPrefix(p)
		}
		if iface.VXLAN != nil {
			iface.VXLAN.Local = map6(iface.VXLAN.Local)
		}
	}
	defaults := map[dataplane.RouteKey]dataplane.Route{}
	for k, v := range h.Facts.Defaults {
		k.Prefix, v.Via, v.Src = mapPrefix(k.Prefix), map6(v.Via), map6(v.Src)
		defaults[k] = v
	}
	h.Facts.Defaults = defaults
	paths := map[netip.Addr]dataplane.Route{}
	for to, path := range h.Facts.Paths {
		path.Via, path.Src = map6(path.Via), map6(path.Src)
		paths[map6(to)] = path
	}
	h.Facts.Paths = paths
	h.Lease = mapLeases([]subnet.Lease{h.Lease})[0]
	return h
}

func mapLeases(in []subnet.Lease) []subnet.Lease {
	out := cloneLeases(in)
	for _, l := range out {
		for i, s := range l.Shares {
			l.Shares[i].Subnet, l.Shares[i].Public = mapPrefix(s.Subnet), map6(s.Public)
		}
	}
	return out
}

func mapState(s dataplane.State) dataplane.State {
	out := dataplane.State{
		Links: map[string]dataplane.Link{}, Addrs: map[dataplane.AddrKey]struct{}{},
		FDB: map[dataplane.FDBKey]netip.Addr{}, Neighs: map[dataplane.NeighKey]mac.Addr{},
		Routes: map[dataplane.RouteKey]dataplane.Route{},
	}
	for k, v := range s.Links {
		v.Local = map6(v.Local)
		out.Links[k] = v
	}
	for k := range s.Addrs {
		k.Prefix = mapPrefix(k.Prefix)
		out.Addrs[k] = struct{}{}
	}
	for k, v := range s.FDB {
		out.FDB[k] = map6(v)
	}
	for k, v := range s.Neighs {
		k.IP = map6(k.IP)
		out.Neighs[k] = v
	}
	for k, v := range s.Routes {
		k.Prefix, v.Via, v.Src = mapPrefix(k.Prefix), map6(v.Via), map6(v.Src)
		out.Routes[k] = v
	}
	return out
}

// anonymous sets aside what the law does not speak of. An IPv4-only case has
// one device at most, which is called so.
func anonymous(s dataplane.State) dataplane.State {
	name := func(link string) string {
		if _, ours := s.Links[link]; ours {
			return "device"
		}
		return link
	}
	out := mapState(dataplane.State{})
	for k, v := range s.Links {
		v.MTU = 0
		out.Links[name(k)] = v
	}
	for k := range s.Addrs {
		out.Addrs[dataplane.AddrKey{Link: name(k.Link), Prefix: k.Prefix}] = struct{}{}
	}
	for k, v := range s.FDB {
		out.FDB[dataplane.FDBKey{Link: name(k.Link), MAC: k.MAC}] = v
	}
	for k, v := range s.Neighs {
		out.Neighs[dataplane.NeighKey{Link: name(k.Link), IP: k.IP}] = v
	}
	for k, v := range s.Routes {
		k.Metric, v.Link = 0, name(v.Link)
		out.Routes[k] = v
	}
	return out
}
