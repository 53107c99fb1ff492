package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// mirror reads, and disturbs, the kernel of one node, by sockets of its own:
// what weftd says of itself is not asked.
type mirror struct {
	*netlink.Handle
	t       testing.TB
	node    *topology.Node
	nft     *nftables.Conn
	sysctls []*os.File
	network netip.Prefix             // another than network4; or zero
	pods    bool                     // the host's side of pods' attachments counts, too
	chains  func() ([]string, error) // reads the rules where they are not nftables'; or nil
}

// forwarding are the sysctls that weftd sets.
func forwarding() []string {
	return []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"}
}

func newMirror(t testing.TB, node *topology.Node) *mirror {
	t.Helper()
	m := &mirror{t: t, node: node}
	ns, err := netns.GetFromPath(node.Path())
	if err != nil {
		t.Fatal(err)
	}
	if m.Handle, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	if m.nft, err = nftables.New(nftables.WithNetNSFd(int(ns))); err != nil {
		t.Fatal(err)
	}
	err = node.Do(func() error { // a file of /proc/sys/net is that of the opening thread
		for _, path := range forwarding() {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			m.sysctls = append(m.sysctls, f)
		}
		return nil
	})
	t.Cleanup(func() {
		for _, f := range m.sysctls {
			_ = f.Close()
		}
		m.Close()
		_ = ns.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// holds is all that weft owns on the node, and what stands in its place: a line
// for each entry, in order, without what the kernel numbers anew.
func (m *mirror) holds() (lines []string, err error) {
	links, err := m.LinkList()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		if v, ok := l.(*netlink.Vxlan); ok {
			lines = append(lines, fmt.Sprintf("link %s %s mtu %d up %v vni %d port %d local %s learning %v", v.Name,
				v.HardwareAddr, v.MTU, v.Flags&1 != 0, v.VxlanId, v.Port, v.SrcAddr, v.Learning))
			more, err := m.holdsOn(v)
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
	}
	routes, err := m.clusterRoutes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		lines = append(lines, fmt.Sprintf("route %s via %s dev %s type %d proto %d hops %v",
			r.Dst, r.Gw, names[r.LinkIndex], r.Type, r.Protocol, len(r.MultiPath)))
	}
	chains := m.rules
	if m.chains != nil {
		chains = m.chains
	}
	rules, err := chains()
	if err != nil {
		return nil, err
	}
	lines = append(lines, rules...)
	if m.pods {
		more, err := m.holdsOfPods(names)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	for _, f := range m.sysctls {
		var value [8]byte
		n, err := f.ReadAt(value[:], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		lines = append(lines, f.Name()+" "+strings.TrimSpace(string(value[:n])))
	}
	slices.Sort(lines)
	return lines, nil
}

func (m *mirror) holdsOn(l netlink.Link) (lines []string, err error) {
	name := l.Attrs().Name
	addrs, err := m.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("address %s dev %s", a.IPNet, name))
		}
	}
	for _, family := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighs, err := m.NeighList(l.Attrs().Index, family)
		if err != nil {
			return nil, err
		}
		for _, n := range neighs {
			if n.State&netlink.NUD_PERMANENT != 0 {
				lines = append(lines, fmt.Sprintf("neighbour of family %d: %s %s dev %s", family, n.IP, n.HardwareAddr, name))
			}
		}
	}
	return lines, nil
}

// clusterRoutes are the routes to pods elsewhere, by whoever made them.
func (m *mirror) clusterRoutes() (out []netlink.Route, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := m.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.Dst == nil || r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			if addr, _ := netip.AddrFromSlice(r.Dst.IP); network4.Contains(addr) || network6.Contains(addr) ||
				m.network.IsValid() && m.network.Contains(addr) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

var (
	network4 = netip.MustParsePrefix("10.42.0.0/16")
	network6 = netip.MustParsePrefix("fd00:42::/48")
)

// rules lists weft's tables of nftables.
func (m *mirror) rules() (lines []string, err error) {
	chains, err := m.nft.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Table.Name != "weft" || c.Hooknum == nil {
			continue
		}
		name := fmt.Sprintf("chain %d %s", c.Table.Family, c.Name)
		lines = append(lines, fmt.Sprintf("%s %s hook %d priority %d", name, c.Type, *c.Hooknum, *c.Priority))
		rules, err := m.nft.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		for i, r := range rules {
			text := fmt.Sprintf("%s rule %d:", name, i)
			for _, e := range r.Exprs {
				if _, counts := e.(*expr.Counter); !counts {
					text += fmt.Sprintf(" %T%+v", e, e)
				}
			}
			lines = append(lines, text)
		}
	}
	return lines, nil
}

// chain is one of weft's.
func (m *mirror) chain(family nftables.TableFamily, name string) (*nftables.Chain, error) {
	return m.nft.ListChain(&nftables.Table{Name: "weft", Family: family}, name)
}
