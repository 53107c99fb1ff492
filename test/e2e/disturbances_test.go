package e2e

import (
	"errors"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// disturbance is something that anybody may do to what weftd has programmed.
type disturbance struct {
	name string
	do   func() error
}

// side is one family's part of the overlay on a node, and one peer's part of it.
type side struct {
	*mirror
	family   string
	number   int // netlink's
	table    nftables.TableFamily
	dev      string
	dst      *net.IPNet // the peer's subnet
	gateway  net.IP     // the peer's address in the overlay
	hardware net.HardwareAddr
	vtep     net.IP // the peer's address in the underlay
	other    net.IP // another host of the underlay
	stray    net.IP // an address of the cluster that is nobody's
	metric   int
}

// side finds what weftd has programmed for a pod elsewhere.
func (m *mirror) side(pod, other netip.Addr) (s side, err error) {
	s = side{
		mirror: m, family: "IPv4", number: netlink.FAMILY_V4, table: nftables.TableFamilyIPv4,
		dev: "flannel.1", other: other.AsSlice(), stray: net.ParseIP("10.42.250.0").To4(),
	}
	if pod.Is6() {
		s.family, s.number, s.table = "IPv6", netlink.FAMILY_V6, nftables.TableFamilyIPv6
		s.dev, s.stray = "flannel-v6.1", net.ParseIP("fd00:42:0:fff::")
	}
	routes, err := m.clusterRoutes()
	if err != nil {
		return s, err
	}
	for _, r := range routes {
		if r.Dst.Contains(pod.AsSlice()) {
			s.dst, s.gateway, s.metric = r.Dst, r.Gw, r.Priority
		}
	}
	link, err := m.LinkByName(s.dev)
	if err != nil {
		return s, err
	}
	neighs, err := m.NeighList(link.Attrs().Index, s.number)
	for _, n := range neighs {
		if n.IP.Equal(s.gateway) {
			s.hardware = n.HardwareAddr
		}
	}
	fdb, errFDB := m.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	for _, n := range fdb {
		if n.HardwareAddr.String() == s.hardware.String() {
			s.vtep = n.IP
		}
	}
	if s.vtep == nil {
		err = errors.Join(err, errors.New("no entries for pod "+pod.String()))
	}
	return s, errors.Join(err, errFDB)
}

// disturbances are all of a family.
func (s side) disturbances() []disturbance {
	var all []disturbance
	for _, list := range [][]disturbance{s.links(), s.addresses(), s.routes(), s.entries(), s.firewall()} {
		for _, d := range list {
			all = append(all, disturbance{s.family + " " + d.name, d.do})
		}
	}
	return all
}

// on makes a disturbance of the device.
func (s side) on(f func(netlink.Link) error) func() error {
	return func() error {
		link, err := s.LinkByName(s.dev)
		if err != nil {
			return err
		}
		return f(link)
	}
}

func (s side) links() []disturbance {
	return []disturbance{
		{"link deleted", s.on(s.LinkDel)},
		{"link down", s.on(s.LinkSetDown)},
		{"link down and up", s.on(func(l netlink.Link) error { return errors.Join(s.LinkSetDown(l), s.LinkSetUp(l)) })},
		{"link renamed", s.on(func(l netlink.Link) error { return s.LinkSetName(l, "elsewhere") })},
		{"link MTU", s.on(func(l netlink.Link) error { return s.LinkSetMTU(l, 1300) })},
		{"link MAC", s.on(func(l netlink.Link) error {
			own := l.Attrs().HardwareAddr // another one on each node, as a daemon that starts then keeps it
			return s.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0x77, own[2], own[3], own[4], own[5]})
		})},
		{"link local", s.on(s.setLocal)},
	}
}

// setLocal is `ip link set … type vxlan local …`, which the library can't say.
func (s side) setLocal(l netlink.Link) error {
	kind := nl.IFLA_VXLAN_LOCAL
	if s.number == netlink.FAMILY_V6 {
		kind = nl.IFLA_VXLAN_LOCAL6
	}
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(l.Attrs().Index)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("vxlan"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(kind, s.other)
	return s.node.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		req.AddData(header)
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

func (s side) addresses() []disturbance {
	each := func(f func(netlink.Link, *netlink.Addr) error) func() error {
		return s.on(func(l netlink.Link) error {
			addrs, err := s.AddrList(l, s.number)
			for _, a := range addrs {
				if !a.IP.IsLinkLocalUnicast() {
					err = errors.Join(err, f(l, &a))
				}
			}
			return err
		})
	}
	bits := 8 * len(s.stray)
	return []disturbance{
		{"address deleted", each(s.AddrDel)},
		{"address deleted and back", each(func(l netlink.Link, a *netlink.Addr) error {
			return errors.Join(s.AddrDel(l, a), s.AddrAdd(l, &netlink.Addr{IPNet: a.IPNet}))
		})},
		{"foreign address of the cluster's", s.on(func(l netlink.Link) error {
			return s.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: s.stray, Mask: net.CIDRMask(bits, bits)}})
		})},
	}
}

// byKey is what to delete a route by: with gateway and interface the kernel finds
// none that goes by a nexthop object.
func byKey(r netlink.Route) *netlink.Route {
	return &netlink.Route{Dst: r.Dst, Priority: r.Priority, Family: r.Family}
}

func (s side) routes() []disturbance {
	elsewhere := func() *netlink.Route { return &netlink.Route{Dst: s.dst, Gw: s.other, Priority: s.metric} }
	ours := func() *netlink.Route {
		return byKey(netlink.Route{Dst: s.dst, Priority: s.metric, Family: s.number})
	}
	flush := s.on(func(l netlink.Link) error {
		all, err := s.RouteList(l, s.number)
		for _, r := range all {
			if r.Protocol == weftProtocol {
				err = errors.Join(err, s.RouteDel(byKey(r)))
			}
		}
		return err
	})
	return []disturbance{
		{"route deleted", func() error { return s.RouteDel(ours()) }},
		{"route replaced, to another gateway", func() error { return s.RouteReplace(elsewhere()) }},
		{"route deleted, another added", func() error {
			return errors.Join(s.RouteDel(ours()), s.RouteAdd(elsewhere()))
		}},
		{"route replaced, to another peer", s.on(func(l netlink.Link) error {
			return s.RouteReplace(&netlink.Route{
				Dst: s.dst, Gw: s.stray, LinkIndex: l.Attrs().Index, Flags: unix.RTNH_F_ONLINK, Priority: s.metric,
			})
		})},
		{"route replaced, by a blackhole", func() error {
			return s.RouteReplace(&netlink.Route{Dst: s.dst, Type: unix.RTN_BLACKHOLE, Priority: s.metric})
		}},
		{"routes flushed", flush},
		{"another route before ours", s.prepend},
	}
}

// prepend is `ip route prepend`, which the library can't say. IPv6 takes it for
// a second next hop of ours.
func (s side) prepend() error {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(s.number), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST,
	}}
	ones, _ := s.dst.Mask.Size()
	header.Dst_len = uint8(ones)
	return s.node.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_ACK)
		req.AddData(header)
		req.AddData(nl.NewRtAttr(unix.RTA_DST, s.dst.IP))
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, s.other))
		req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(s.metric))))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// entries are neighbours and those of the forwarding table (FDB).
func (s side) entries() []disturbance {
	entry := func(verb func(*netlink.Neigh) error, n netlink.Neigh) func() error {
		return s.on(func(l netlink.Link) error {
			n.LinkIndex, n.State = l.Attrs().Index, netlink.NUD_PERMANENT
			return verb(&n)
		})
	}
	strange := net.HardwareAddr{2, 0, 0, 0, 0, 0x78}
	neigh := func(ip net.IP, hw net.HardwareAddr) netlink.Neigh {
		return netlink.Neigh{Family: s.number, IP: ip, HardwareAddr: hw}
	}
	fdb := func(hw net.HardwareAddr, to net.IP) netlink.Neigh {
		return netlink.Neigh{Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, HardwareAddr: hw, IP: to}
	}
	return []disturbance{
		{"neighbour deleted", entry(s.NeighDel, neigh(s.gateway, s.hardware))},
		{"neighbour changed", entry(s.NeighSet, neigh(s.gateway, strange))},
		{"foreign neighbour", entry(s.NeighSet, neigh(s.stray, strange))},
		{"FDB entry deleted", entry(s.NeighDel, fdb(s.hardware, s.vtep))},
		{"FDB entry changed", entry(s.NeighSet, fdb(s.hardware, s.other))},
		{"foreign FDB entry", entry(s.NeighAppend, fdb(strange, s.other))},
	}
}

func (s side) firewall() []disturbance {
	in := func(f func(*nftables.Chain, []*nftables.Rule) error) func() error {
		return func() error {
			chain, err := s.chain(s.table, "postrouting")
			if err != nil {
				return err
			}
			rules, err := s.nft.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			if len(rules) < 2 { // in a chaos run somebody else was here
				return errNothing
			}
			return errors.Join(f(chain, rules), s.nft.Flush())
		}
	}
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	return []disturbance{
		{"rule deleted", in(func(_ *nftables.Chain, rules []*nftables.Rule) error { return s.nft.DelRule(rules[1]) })},
		{"rule inserted", in(func(c *nftables.Chain, _ []*nftables.Rule) error {
			s.nft.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: accept})
			return nil
		})},
		{"rule replaced", in(func(_ *nftables.Chain, rules []*nftables.Rule) error {
			rules[1].Exprs = accept
			s.nft.ReplaceRule(rules[1])
			return nil
		})},
		{"chain flushed", in(func(c *nftables.Chain, _ []*nftables.Rule) error { s.nft.FlushChain(c); return nil })},
		{"chain deleted", in(func(c *nftables.Chain, _ []*nftables.Rule) error {
			s.nft.FlushChain(c)
			s.nft.DelChain(c)
			return nil
		})},
		{"table deleted", in(func(c *nftables.Chain, _ []*nftables.Rule) error { s.nft.DelTable(c.Table); return nil })},
		{"forwarding off", func() error {
			f := s.sysctls[0]
			if s.number == netlink.FAMILY_V6 {
				f = s.sysctls[1]
			}
			_, err := f.WriteAt([]byte("0\n"), 0)
			return err
		}},
	}
}
