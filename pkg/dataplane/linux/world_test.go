package linux_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/kerneltest"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/netnstest"
	"github.com/weftnet/weft/pkg/offload"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if locks, err = os.MkdirTemp("", "weft-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(locks) }()
	return netnstest.Run(m)
}

func TestContract(t *testing.T) {
	for name, prepare := range map[string]func(*linux.Kernel){
		"as this kernel is": func(*linux.Kernel) {},
		"as Linux 4.18 is":  (*linux.Kernel).ForceFallbacks,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kerneltest.Run(t, func(t *testing.T) kerneltest.World {
				n := netnstest.New(t)
				opened := func() dataplane.Kernel {
					k := open(t, n)
					prepare(k)
					return k
				}
				first := opened().(*linux.Kernel)
				return kerneltest.World{
					Kernel: first, Reopen: opened, Admin: newAdmin(t, n), Firewall: newFirewall(t, n),
					RoutesStay: first.HasNexthops(),
				}
			})
		})
	}
}

func open(t testing.TB, n *netnstest.NS) *linux.Kernel {
	t.Helper()
	k, err := linux.New(linux.Options{Namespace: n.Handle(), Resync: resync})
	if err != nil {
		t.Fatal(err)
	}
	k.SetLockFile(lockOf(n))
	t.Cleanup(k.Close)
	return k
}

// admin is kerneltest.Admin on vishvananda/netlink, which shares no codec with
// the package under test but that of links.
type admin struct {
	t  testing.TB
	ns *netnstest.NS
	*netlink.Handle
}

func newAdmin(t testing.TB, n *netnstest.NS) *admin {
	t.Helper()
	h, err := netlink.NewHandleAt(n.Handle(), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return &admin{t, n, h}
}

// hidden marks the far ends of the veth pairs that stand for Ethernet devices.
const hidden = "~"

func (a *admin) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *admin) link(name string) netlink.Link {
	a.t.Helper()
	l, err := a.LinkByName(name)
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	return l
}

func (a *admin) index(name string) int {
	a.t.Helper()
	if name == "" {
		return 0
	}
	return a.link(name).Attrs().Index
}

func (a *admin) Put(s dataplane.State) {
	a.t.Helper()
	for name, l := range s.Links {
		a.putLink(name, l)
	}
	for k := range s.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(k.Prefix)}
		if k.Prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := a.AddrAdd(a.link(k.Link), addr); !errors.Is(err, unix.EEXIST) {
			a.must(err)
			a.local(k)
		}
	}
	newFirewall(a.t, a.ns).elements(s.Elems, func(f *firewall, set *nftables.Set, one []nftables.SetElement) error {
		return f.SetAddElements(set, one)
	})
	for k, vtep := range s.FDB {
		a.must(a.NeighSet(&netlink.Neigh{
			Family: unix.AF_BRIDGE, LinkIndex: a.index(k.Link), State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			HardwareAddr: k.MAC.Hardware(), IP: vtep.AsSlice(),
		}))
	}
	for k, m := range s.Neighs {
		a.must(a.NeighSet(&netlink.Neigh{
			LinkIndex: a.index(k.Link), State: netlink.NUD_PERMANENT, IP: k.IP.AsSlice(), HardwareAddr: m.Hardware(),
		}))
	}
	for k, r := range s.Routes {
		a.must(a.RouteReplace(a.route(k, r)))
	}
	for name, value := range s.Sysctls {
		a.ns.Do(func() { a.must(os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)) })
	}
}

// local waits until an address can be reached: the kernel makes the route to an
// IPv6 one, of a link that is up, in a worker of its own.
func (a *admin) local(k dataplane.AddrKey) {
	a.t.Helper()
	if k.Prefix.Addr().Is4() || a.link(k.Link).Attrs().Flags&net.FlagUp == 0 {
		return
	}
	for deadline := time.Now().Add(patience); ; {
		routes, err := a.RouteGet(k.Prefix.Addr().AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("no route to %s: %v, %v", k, routes, err)
		}
	}
}

func (a *admin) route(k dataplane.RouteKey, r dataplane.Route) *netlink.Route {
	out := &netlink.Route{
		Dst: ipNet(k.Prefix), Priority: k.Metric, Table: k.Table,
		LinkIndex: a.index(r.Link), Gw: r.Via.AsSlice(), Src: r.Src.AsSlice(),
	}
	if r.Blackhole {
		out.Type = unix.RTN_BLACKHOLE
	}
	if r.OnLink {
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (a *admin) putLink(name string, l dataplane.Link) {
	a.t.Helper()
	have, err := a.LinkByName(name)
	var absent netlink.LinkNotFoundError
	switch {
	case errors.As(err, &absent):
		have = a.addLink(name, l)
	case err != nil:
		a.t.Fatal(err)
	}
	attrs := have.Attrs()
	if attrs.MTU != l.MTU {
		a.must(a.LinkSetMTU(have, l.MTU))
	}
	if !l.MAC.IsZero() && attrs.HardwareAddr.String() != l.MAC.String() {
		a.must(a.LinkSetHardwareAddr(have, l.MAC.Hardware()))
	}
	if v, ok := have.(*netlink.Vxlan); ok && l.Local.IsValid() && !v.SrcAddr.Equal(l.Local.AsSlice()) {
		a.setLocal(attrs.Index, l.Local)
	}
	if l.TXChecksum != offload.AsIs {
		a.ns.Do(func() { a.must(netnstest.SwitchTXChecksum(name, l.TXChecksum == offload.On)) })
	}
	switch up := attrs.Flags&net.FlagUp != 0; {
	case !up && l.Up:
		a.must(a.LinkSetUp(have))
	case up && !l.Up:
		a.must(a.LinkSetDown(have))
	}
}

func (a *admin) addLink(name string, l dataplane.Link) netlink.Link {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, l.MTU, l.MAC.Hardware()
	if l.MAC.IsZero() {
		attrs.HardwareAddr = nil
	}
	if l.VNI != 0 {
		a.must(a.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: l.VNI, Port: l.Port, SrcAddr: l.Local.AsSlice(), VtepDevIndex: a.index(l.Parent),
			Learning: l.Learning, GBP: l.GBP, UDPCSum: true,
		}))
		return a.link(name)
	}
	a.must(a.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: hidden + name}))
	a.must(a.LinkSetUp(a.link(hidden + name)))
	return a.link(name)
}

// setLocal is `ip link set dev … type vxlan local …`, which the library can't
// say: its LinkModify repeats all attributes, and the kernel refuses that.
func (a *admin) setLocal(index int, local netip.Addr) {
	a.t.Helper()
	kind := nl.IFLA_VXLAN_LOCAL
	if local.Is6() {
		kind = nl.IFLA_VXLAN_LOCAL6
	}
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("vxlan"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(kind, local.AsSlice())
	a.ns.Do(func() {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		req.AddData(header)
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		a.must(err)
	})
}

func (a *admin) Delete(s dataplane.State) {
	a.t.Helper()
	for k := range s.Routes {
		a.must(a.RouteDel(&netlink.Route{Dst: ipNet(k.Prefix), Priority: k.Metric, Table: k.Table}))
	}
	for k := range s.Neighs {
		a.must(a.NeighDel(&netlink.Neigh{LinkIndex: a.index(k.Link), IP: k.IP.AsSlice()}))
	}
	for k := range s.FDB {
		a.must(a.NeighDel(&netlink.Neigh{
			Family: unix.AF_BRIDGE, LinkIndex: a.index(k.Link), Flags: netlink.NTF_SELF, HardwareAddr: k.MAC.Hardware(),
			IP: a.vtepOf(k).AsSlice(),
		}))
	}
	newFirewall(a.t, a.ns).elements(s.Elems, func(f *firewall, set *nftables.Set, one []nftables.SetElement) error {
		return f.SetDeleteElements(set, one)
	})
	for k := range s.Addrs {
		a.must(a.AddrDel(a.link(k.Link), &netlink.Addr{IPNet: ipNet(k.Prefix)}))
	}
	for name := range s.Links {
		a.must(a.LinkDel(a.link(name)))
	}
}

// vtepOf exists because the library always names one in a deletion.
func (a *admin) vtepOf(k dataplane.FDBKey) netip.Addr {
	a.t.Helper()
	all, err := a.NeighList(a.index(k.Link), unix.AF_BRIDGE)
	a.must(err)
	for _, n := range all {
		if n.HardwareAddr.String() == k.MAC.String() {
			ip, _ := netip.AddrFromSlice(n.IP)
			return ip.Unmap()
		}
	}
	a.t.Fatalf("no FDB entry %s", k)
	return netip.Addr{}
}

func (a *admin) Rename(from, to string) {
	a.t.Helper()
	l := a.link(from)
	err := a.LinkSetName(l, to)
	if errors.Is(err, unix.EBUSY) {
		a.must(a.LinkSetDown(l))
		a.must(a.LinkSetName(l, to))
		err = a.LinkSetUp(l)
	}
	a.must(err)
}

func (a *admin) Dump() string {
	a.t.Helper()
	names := map[int]string{}
	links, err := a.LinkList()
	a.must(err)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []string
	for _, l := range links {
		name := l.Attrs().Name
		if name == "lo" || strings.HasPrefix(name, hidden) {
			continue
		}
		out = append(out, dumpLink(l, names))
		out = append(out, a.dumpOn(l)...)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := a.RouteList(nil, family)
		a.must(err)
		for _, r := range routes {
			if r.Protocol != unix.RTPROT_KERNEL && (r.Type == unix.RTN_UNICAST || r.Type == unix.RTN_BLACKHOLE) {
				out = append(out, fmt.Sprintf("route type %d %s via %v dev %s src %v metric %d proto %d flags %d",
					r.Type, r.Dst, r.Gw, names[r.LinkIndex], r.Src, r.Priority, r.Protocol, r.Flags&unix.RTNH_F_ONLINK))
			}
		}
	}
	out = append(out, dumpChains(a.t, a.ns)...)
	out = append(out, xtables{a.t, a.ns}.dumpLegacy()...)
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func dumpLink(l netlink.Link, names map[int]string) string {
	at := l.Attrs()
	s := fmt.Sprintf("link %s %s mtu %d mac %s %s", at.Name, l.Type(), at.MTU, at.HardwareAddr, at.Flags&net.FlagUp)
	if v, ok := l.(*netlink.Vxlan); ok {
		s += fmt.Sprintf(" id %d port %d local %s dev %s", v.VxlanId, v.Port, v.SrcAddr, names[v.VtepDevIndex])
	}
	return s
}

// dumpOn lists what stands on one link. The FDB of Ethernet devices holds the
// kernel's own multicast entries, so only that of VXLAN devices counts.
func (a *admin) dumpOn(l netlink.Link) []string {
	a.t.Helper()
	var out []string
	name := l.Attrs().Name
	addrs, err := a.AddrList(l, netlink.FAMILY_ALL)
	a.must(err)
	for _, addr := range addrs {
		if addr.IP.To4() != nil || !addr.IP.IsLinkLocalUnicast() {
			out = append(out, fmt.Sprintf("address %s dev %s", addr.IPNet, name))
		}
	}
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_BRIDGE && l.Type() != "vxlan" {
			continue
		}
		neighs, err := a.NeighList(l.Attrs().Index, family)
		a.must(err)
		for _, n := range neighs {
			if n.State&netlink.NUD_PERMANENT != 0 {
				out = append(out, fmt.Sprintf("neigh %s %s dev %s family %d", n.HardwareAddr, n.IP, name, family))
			}
		}
	}
	return out
}
