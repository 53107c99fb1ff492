package linux

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/tables"
)

// Tables reads all that decides what becomes of a packet in the namespace,
// whoever made it. What can't be read is named in Unread; an error means that
// the kernel did not answer at all.
func (k *Kernel) Tables(ctx context.Context) (tables.Space, error) {
	s := tables.Space{Sysctls: map[string]string{}}
	for _, step := range []func(*tables.Space) error{
		k.spaceLinks, k.spaceAddrs, k.spacePolicies, k.spaceRoutes, k.spaceNeighs, k.spaceSysctls,
	} {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		if err := step(&s); err != nil {
			return s, err
		}
	}
	k.spaceFirewall(ctx, &s)
	return s, nil
}

func (k *Kernel) spaceLinks(s *tables.Space) (err error) {
	s.Links, err = dump(k, unix.RTM_GETLINK, parseSpaceLink, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	return nil
}

func parseSpaceLink(m []byte) (tables.Link, bool) {
	base, ok := parseLink(m)
	if !ok {
		return tables.Link{}, false
	}
	parsed, err := netlink.LinkDeserialize(nil, m)
	if err != nil {
		return tables.Link{}, false
	}
	a := parsed.Attrs()
	l := tables.Link{
		Index: base.index, Name: base.name, MAC: base.mac, MTU: base.mtu, Up: base.up, Master: a.MasterIndex,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	if kind := parsed.Type(); kind != "device" {
		l.Kind = kind
	}
	if l.Kind == "veth" {
		l.Peer = a.ParentIndex
	}
	if st := a.Statistics; st != nil {
		l.Rx, l.Tx = st.RxPackets, st.TxPackets
	}
	if v := base.vxlan; v != nil {
		l.VXLAN = &tables.VXLAN{VNI: v.vni, Port: v.port, Local: v.local, Parent: v.parent, External: v.external}
	}
	return l, true
}

func (k *Kernel) spaceAddrs(s *tables.Space) error {
	all, err := k.addresses(0)
	for _, a := range all {
		s.Addrs = append(s.Addrs, tables.Addr{Link: a.index, Prefix: a.prefix})
	}
	return err
}

func (k *Kernel) spaceRoutes(s *tables.Space) error {
	for _, f := range families() {
		all, err := dump(k, unix.RTM_GETROUTE, parseSpaceRoute, &nl.RtMsg{RtMsg: unix.RtMsg{Family: f}})
		if err != nil && !gone(err) {
			return fmt.Errorf("list routes: %w", err)
		}
		s.Routes = append(s.Routes, all...)
	}
	return nil
}

func parseSpaceRoute(m []byte) (tables.Route, bool) {
	r, ok := parseRoute(m)
	if !ok {
		return tables.Route{}, false
	}
	header := nl.DeserializeRtMsg(m)
	out := tables.Route{
		Table: kernelTable(r.key.Table), Prefix: r.key.Prefix, Metric: r.key.Metric, Via: r.via, Link: r.index, Src: r.src,
		Protocol: int(r.protocol), Type: routeType(header.Type), OnLink: r.onlink, Nexthop: r.nexthop, Hops: 1,
	}
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		switch a.kind {
		case unix.RTA_VIA:
			if len(a.value) > 2 {
				out.Via, _ = netip.AddrFromSlice(a.value[2:])
			}
		case unix.RTA_METRICS:
			for metric := range attrs(a.value) {
				if metric.kind == unix.RTAX_MTU {
					out.MTU = int(metric.uint32())
				}
			}
		case unix.RTA_MULTIPATH:
			out.Hops = hopsOf(a.value)
		}
	}
	return out, true
}

// hopsOf counts the next hops of a multipath route.
func hopsOf(b []byte) (n int) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		n++
	}
	return n
}

func routeType(t uint8) string {
	names := [...]string{
		unix.RTN_UNSPEC: "unspec", unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
		unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
		unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", t)
}

// spaceNeighs reads neighbours of both families, and the forwarding tables.
func (k *Kernel) spaceNeighs(s *tables.Space) error {
	all, err := dump(k, unix.RTM_GETNEIGH, parseNeighbour, &netlink.Ndmsg{Family: unix.AF_UNSPEC})
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range all {
		if n.ip.IsValid() && !n.ip.IsMulticast() {
			s.Neighs = append(s.Neighs, tables.Neigh{Link: n.index, IP: n.ip, MAC: n.mac, State: neighState(n.state)})
		}
	}
	if all, err = dump(k, unix.RTM_GETNEIGH, parseNeighbour, &netlink.Ndmsg{Family: unix.AF_BRIDGE}); err != nil {
		return fmt.Errorf("list forwarding entries: %w", err)
	}
	for _, n := range all {
		if n.mac.IsUnicast() {
			s.FDB = append(s.FDB, tables.Forward{Link: n.index, MAC: n.mac, Dst: n.ip})
		}
	}
	return nil
}

func neighState(state uint16) string {
	for bit, name := range map[uint16]string{
		netlink.NUD_PERMANENT: "permanent", netlink.NUD_REACHABLE: "reachable", netlink.NUD_STALE: "stale",
		netlink.NUD_DELAY: "delay", netlink.NUD_PROBE: "probe", netlink.NUD_FAILED: "failed",
		netlink.NUD_INCOMPLETE: "incomplete", netlink.NUD_NOARP: "noarp",
	} {
		if state&bit != 0 {
			return name
		}
	}
	return "none"
}

func (k *Kernel) spacePolicies(s *tables.Space) error {
	for _, f := range families() {
		all, err := dump(k, unix.RTM_GETRULE, parsePolicy, &nl.RtMsg{RtMsg: unix.RtMsg{Family: f}})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("list routing policies: %w", err)
		}
		slices.SortStableFunc(all, func(a, b tables.Policy) int { return cmp.Compare(a.Priority, b.Priority) })
		s.Policies = append(s.Policies, all...)
	}
	return nil
}

// parsePolicy reads struct fib_rule_hdr, which is laid out as struct rtmsg.
func parsePolicy(m []byte) (tables.Policy, bool) {
	if len(m) < unix.SizeofRtMsg {
		return tables.Policy{}, false
	}
	h := nl.DeserializeRtMsg(m)
	if h.Family != unix.AF_INET && h.Family != unix.AF_INET6 {
		return tables.Policy{}, false
	}
	const invert = 2 // FIB_RULE_INVERT
	p := tables.Policy{IPv6: h.Family == unix.AF_INET6, Table: int(h.Table), Not: h.Flags&invert != 0}
	switch h.Type {
	case nl.FR_ACT_TO_TBL:
	case nl.FR_ACT_BLACKHOLE:
		p.Refuses = "blackhole"
	case nl.FR_ACT_UNREACHABLE:
		p.Refuses = "unreachable"
	case nl.FR_ACT_PROHIBIT:
		p.Refuses = "prohibit"
	default:
		p.Odd = fmt.Sprintf("action %d", h.Type)
	}
	if h.Tos != 0 {
		p.Odd = fmt.Sprintf("tos %d", h.Tos)
	}
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		takePolicy(&p, h, a)
	}
	if p.Mark != 0 && p.Mask == 0 {
		p.Mask = ^uint32(0)
	}
	return p, true
}

func takePolicy(p *tables.Policy, h *nl.RtMsg, a attr) {
	switch a.kind {
	case nl.FRA_DST:
		p.Dst = netip.PrefixFrom(a.addr(), int(h.Dst_len))
	case nl.FRA_SRC:
		p.Src = netip.PrefixFrom(a.addr(), int(h.Src_len))
	case nl.FRA_IIFNAME:
		p.In = a.text()
	case nl.FRA_PRIORITY:
		p.Priority = int(a.uint32())
	case nl.FRA_FWMARK:
		p.Mark = a.uint32()
	case nl.FRA_FWMASK:
		p.Mask = a.uint32()
	case nl.FRA_TABLE:
		p.Table = int(a.uint32())
	case nl.FRA_SUPPRESS_PREFIXLEN, nl.FRA_SUPPRESS_IFGROUP:
		if a.uint32() != ^uint32(0) {
			p.Odd = "suppress"
		}
	case nl.FRA_OIFNAME:
		p.Odd = "oif " + a.text()
	case nl.FRA_L3MDEV:
		p.Odd = "l3mdev"
	case nl.FRA_UID_RANGE, nl.FRA_IP_PROTO, nl.FRA_SPORT_RANGE, nl.FRA_DPORT_RANGE, nl.FRA_TUN_ID, nl.FRA_FLOW:
		p.Odd = fmt.Sprintf("attribute %d", a.kind)
	}
}

// spaceSysctls reads those that decide about packets.
func (k *Kernel) spaceSysctls(s *tables.Space) error {
	names := map[string]bool{
		ipForward: true, ip6Forward: true, "net/ipv4/conf/all/rp_filter": true,
		"net/bridge/bridge-nf-call-iptables": true, "net/bridge/bridge-nf-call-ip6tables": true,
	}
	for _, l := range s.Links {
		names["net/ipv4/conf/"+l.Name+"/rp_filter"] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		value, ok, err := k.readSysctl(name)
		switch {
		case err != nil:
			s.Unread = append(s.Unread, fmt.Sprintf("sysctl %s: %v", name, err))
		case ok:
			s.Sysctls[name] = value
		}
	}
	return nil
}

// addressOf converts what nftables' library gives.
func addressOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}
