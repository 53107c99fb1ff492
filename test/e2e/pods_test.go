package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/topology"
)

// holdsOfPods is the host's side of pods' attachments: bridges, pairs, and the
// routes to pods are among the others.
func (m *mirror) holdsOfPods(names map[int]string) (lines []string, err error) {
	links, err := m.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		at := l.Attrs()
		if l.Type() != "bridge" && !strings.HasPrefix(at.Name, "veth") {
			continue
		}
		line := fmt.Sprintf("link %s %s %s mtu %d up %v port of %q", at.Name, l.Type(), at.HardwareAddr, at.MTU,
			at.Flags&net.FlagUp != 0, names[at.MasterIndex])
		if at.MasterIndex != 0 {
			info, err := m.LinkGetProtinfo(l)
			if err != nil {
				return nil, err
			}
			line += fmt.Sprintf(" hairpin %v", info.Hairpin)
		}
		lines = append(lines, line)
		addrs, err := m.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		v6, local := false, false
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				local = true
				continue
			}
			v6 = v6 || a.IP.To4() == nil
			lines = append(lines, fmt.Sprintf("address %s dev %s", a.IPNet, at.Name))
		}
		if v6 { // without one the kernel asks for no neighbours of packets that it forwards
			lines = append(lines, fmt.Sprintf("link-local address dev %s: %v", at.Name, local))
		}
	}
	return m.holdsOfTables(lines)
}

// holdsOfTables adds which pods are held to their addresses, and which have their
// ports of the host.
func (m *mirror) holdsOfTables(lines []string) ([]string, error) {
	records, err := attachment.Dir(m.node.Attachments()).Load()
	if err != nil {
		return nil, err
	}
	var have guard.State
	var ports hostports.State
	if err := m.node.Do(func() (err error) {
		if have, err = guard.Read(); err == nil {
			ports, err = hostports.Read()
		}
		return err
	}); err != nil {
		return nil, err
	}
	for _, r := range records {
		if s, guarded := r.Sources(); guarded {
			lines = append(lines, fmt.Sprintf("guard of %s: %v", s.Link, have.Holds(s)))
		}
		if len(r.Ports) > 0 {
			lines = append(lines, fmt.Sprintf("host ports of %s: rules %v, missing %q",
				r.HostLink, ports.Whole, ports.Missing(r)))
		}
	}
	return lines, nil
}

// podLinks are the host's ends of pods' pairs.
func (m *mirror) podLinks() (out []netlink.Link) {
	m.t.Helper()
	links, err := m.LinkList()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "veth") {
			out = append(out, l)
		}
	}
	return out
}

// on is a disturbance of a link by its name, which may be a new one each time.
func (m *mirror) on(name string, f func(netlink.Link) error) func() error {
	return func() error {
		l, err := m.LinkByName(name)
		if err != nil {
			return err
		}
		return f(l)
	}
}

func (m *mirror) flushed(family int) func(netlink.Link) error {
	return func(l netlink.Link) error {
		addrs, err := m.AddrList(l, family)
		for _, a := range addrs {
			err = errors.Join(err, m.AddrDel(l, &a))
		}
		return err
	}
}

// ofBridge disturbs a node whose pods are on a bridge.
func (m *mirror) ofBridge() []disturbance {
	const bridge = "cni0"
	port := m.podLinks()[0].Attrs().Name
	strange := net.HardwareAddr{2, 0, 0, 0, 0, 0x79}
	return []disturbance{
		{"bridge deleted", m.on(bridge, m.LinkDel)},
		{"bridge down", m.on(bridge, m.LinkSetDown)},
		{"bridge flushed, IPv4", m.on(bridge, m.flushed(netlink.FAMILY_V4))},
		{"bridge flushed, IPv6", m.on(bridge, m.flushed(netlink.FAMILY_V6))},
		{"bridge MTU", m.on(bridge, func(l netlink.Link) error { return m.LinkSetMTU(l, 1300) })},
		{"bridge MAC", m.on(bridge, func(l netlink.Link) error { return m.LinkSetHardwareAddr(l, strange) })},
		{"port removed", m.on(port, m.LinkSetNoMaster)},
		{"port down", m.on(port, m.LinkSetDown)},
		{"port MTU", m.on(port, func(l netlink.Link) error { return m.LinkSetMTU(l, 1300) })},
		{"hairpin lost", m.on(port, func(l netlink.Link) error { return m.LinkSetHairpin(l, false) })},
	}
}

// ofLinks disturbs a node whose pods have links of their own.
func (m *mirror) ofLinks(pod *topology.Pod) []disturbance {
	link := m.podLinks()[0].Attrs().Name
	all := []disturbance{
		{"pod's link down", m.on(link, m.LinkSetDown)},
		{"pod's link flushed, IPv4", m.on(link, m.flushed(netlink.FAMILY_V4))},
		{"pod's link flushed, IPv6", m.on(link, m.flushed(netlink.FAMILY_V6))},
		{"pod's link MTU", m.on(link, func(l netlink.Link) error { return m.LinkSetMTU(l, 1300) })},
	}
	for _, addr := range pod.Addrs {
		all = append(all, disturbance{fmt.Sprintf("pod's route deleted, %d bits", addr.BitLen()), func() error {
			r := &netlink.Route{Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
			if addr.Is4() {
				r.Scope = netlink.SCOPE_LINK
			}
			return m.RouteDel(r)
		}})
	}
	return all
}

// ofTables disturbs what holds pods to their addresses, and leads ports of the host
// to them.
func (m *mirror) ofTables() []disturbance {
	link := m.podLinks()[0].Attrs().Name
	nft := func(what string) func() error {
		return func() error {
			out, err := output(m.t, &m.node.Namespace, "nft", strings.Fields(what)...)
			if err != nil {
				err = fmt.Errorf("nft %s: %w: %s", what, err, out)
			}
			return err
		}
	}
	return []disturbance{
		{"guards deleted", nft("delete table netdev weft-guard")},
		{"guard of a pod deleted", nft("delete chain netdev weft-guard " + link)},
		{"guards' addresses deleted", nft("flush set netdev weft-guard own_ip6")},
		{"guards let all through", nft("insert rule netdev weft-guard direct accept")},
		{"host ports deleted", nft("delete table inet weft-hostports")},
		{"a host port deleted", nft(fmt.Sprintf("delete element inet weft-hostports any4 { tcp . %d }", pagePort))},
		{"host ports' rules deleted", nft("flush chain inet weft-hostports ports")},
		{"all of nftables flushed", nft("flush ruleset")},
	}
}

// TestPodAttachments breaks the host's side of pods' attachments in every way
// that leaves the pod its own, and measures the repair. What another plugin has
// on the node is as it was.
func TestPodAttachments(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	c.Nodes[2].PTP = true
	c.Nodes[1].AllowSpoofing = []string{}
	for _, n := range c.Nodes {
		n.HostPorts = map[string]uint16{"a": pagePort}
	}
	daemons := c.configured(dualConfig(`{"Type":"vxlan"}`))
	for _, d := range daemons {
		d.awaitReady(2)
		d.awaitPlanEmpty()
	}
	pods := c.pods()
	from := pods[0]
	n := rounds(t, 5)
	var results []result
	pace := time.NewTicker(30 * time.Millisecond)
	defer pace.Stop()
	for i, disturbances := range map[int]func(*mirror) []disturbance{
		1: (*mirror).ofBridge,
		2: func(m *mirror) []disturbance { return m.ofLinks(m.owner(pods[4], pods[5])) },
	} {
		m := newMirror(t, c.Nodes[i])
		m.pods = true
		c.command(i, "sh", "-e", "-c", "ip link add foreign type bridge\nip link add v9 type veth peer name p9\n"+
			"ip link set v9 master foreign\nip addr add 10.99.0.1/24 dev foreign")
		another := func() string {
			return c.command(i, "ip", "-br", "addr", "show", "foreign") + c.command(i, "ip", "-br", "link", "show", "v9")
		}
		theirs := another()
		var streams []*stream
		for _, addr := range pods[2*i].Addrs {
			streams = append(streams, startStream(t, &from.Namespace, &pods[2*i].Namespace, addr))
		}
		all := append(disturbances(m), m.ofTables()...)
		first := len(results)
		for _, one := range all {
			results = append(results, result{name: one.name})
		}
		lost := missing(streams)
		for range n {
			for j, one := range all {
				<-pace.C
				results[first+j].took = append(results[first+j].took, m.repaired(one))
				now := missing(streams)
				results[first+j].lost += now - lost
				lost = now
			}
		}
		if have := another(); have != theirs {
			t.Errorf("another's: %s, was %s", have, theirs)
		}
		for _, s := range streams {
			_ = s.finish()
		}
		s, err := daemons[i].status()
		if err != nil || s.RepairedKinds["attachment"] < n*len(all) {
			t.Errorf("%v: %d of %d repairs counted", err, s.RepairedKinds["attachment"], n*len(all))
		}
	}
	t.Log(report(results))
	for _, r := range results {
		if p := r.percentile(99); p > tolerated {
			t.Errorf("%s: repaired after %s, promised are %s", r.name, p, promised)
		}
	}
	c.mesh(pods, 1430)
	for _, n := range c.Nodes[1:] { // by the host's port, too
		for _, addr := range n.Addrs {
			if _, err := c.Outside.Fetch(t.Context(), netip.AddrPortFrom(addr, pagePort)); err != nil {
				t.Errorf("host port of %s: %v", n.Name, err)
			}
		}
	}
	for _, p := range pods { // and the plugin finds all as it left it
		if err := p.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// What begins with a dot is no record: the plugin's counters.
	if left, err := filepath.Glob(filepath.Join(c.Nodes[1].Attachments(), "[^.]*")); err != nil || len(left) > 0 {
		t.Errorf("records left: %v %v", left, err)
	}
}

// owner is that of the pods whose link is the first.
func (m *mirror) owner(pods ...*topology.Pod) *topology.Pod {
	m.t.Helper()
	routes, err := m.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{
		LinkIndex: m.podLinks()[0].Attrs().Index,
	}, netlink.RT_FILTER_OIF)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, p := range pods {
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.String() == p.Addrs[0].String() {
				return p
			}
		}
	}
	m.t.Fatalf("no pod has a route through the first link: %v", routes)
	return nil
}
