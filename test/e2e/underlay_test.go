package e2e

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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// followed is how soon the whole cluster has followed a change of a node's
// underlay; here with much patience, as machines of tests are busy.
const followed = 5 * time.Second

// TestUnderlayIsFollowed changes the uplink of a node in every way. Its peers
// hear of it by one write, or by none if it is not their business.
func TestUnderlayIsFollowed(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	c.newStore(dualConfig(`{"Type":"vxlan"}`))
	var daemons []*daemon
	for i := range c.Nodes {
		daemons = append(daemons, c.daemon(i).start())
	}
	var pods []*topology.Pod
	for i, d := range daemons {
		d.awaitReady(2)
		pods = append(pods, c.pod(c.Nodes[i], "a"))
	}
	n := &uplinkNode{mirror: newMirror(t, c.Nodes[1]), c: c, mtu: 1500, addrs: slices.Clone(c.Nodes[1].Addrs)}
	peer := newMirror(t, c.Nodes[2])
	key := keyOf(daemons[1].awaitReady(2).Node.Lease)
	for _, change := range []struct {
		name   string
		do     func() error
		writes int
	}{
		{"IPv4 address", func() error { return n.readdress(100, 0) }, 1},
		{"IPv6 address", func() error { return n.readdress(100, 1) }, 1},
		{"both addresses", func() error { return n.readdress(0, 0, 1) }, 1},
		{"MTU", func() error { n.mtu = 1400; return n.LinkSetMTU(n.eth0(), 1400) }, 0},
		{"MTU again", func() error { n.mtu = 1500; return n.LinkSetMTU(n.eth0(), 1500) }, 0},
		{"link down and up", n.flap, 0},
		{"default route gone and back", n.reroute, 0},
		{"interface made anew", n.replug, 0},
	} {
		before := c.version(key)
		if err := change.do(); err != nil {
			t.Fatalf("%s: %v", change.name, err)
		}
		began := time.Now()
		eventually(t, followed, func() error { return errors.Join(n.tunnelFits(), n.knownTo(peer)) })
		took := time.Since(began).Round(time.Millisecond)
		eventually(t, followed, func() error {
			if have := c.version(key) - before; have != change.writes {
				return fmt.Errorf("%s: %d writes to the store, want %d", change.name, have, change.writes)
			}
			return nil
		})
		t.Logf("%-28s followed after %6s, %d writes", change.name, took, change.writes)
		for _, d := range daemons {
			d.awaitReady(2)
			d.awaitPlanEmpty()
		}
		c.pair(pods[0], pods[1], n.mtu-70)
		c.pair(pods[1], pods[2], n.mtu-70)
		if t.Failed() {
			t.Fatalf("that was after: %s", change.name)
		}
	}
}

// version counts the writes of a key since it was made.
func (c *cluster) version(key string) (n int) {
	c.t.Helper()
	out, err := c.store.try("get", key, "-w", "fields")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		_, _ = fmt.Sscanf(line, `"Version" : %d`, &n) // other lines don't fit
	}
	return n
}

// uplinkNode is a node whose uplink is changed, and how it should be.
type uplinkNode struct {
	*mirror
	c     *cluster
	mtu   int
	addrs []netip.Addr
}

func (n *uplinkNode) eth0() netlink.Link {
	n.t.Helper()
	link, err := n.LinkByName(topology.Eth0)
	if err != nil {
		n.t.Fatal(err)
	}
	return link
}

// readdress gives the node its own address plus so much, in these families.
func (n *uplinkNode) readdress(plus byte, families ...int) error {
	var errs []error
	link := n.eth0()
	for _, i := range families {
		bits := []int{underlay4.Bits(), underlay6.Bits()}[i]
		raw := n.node.Addrs[i].AsSlice()
		raw[len(raw)-1] += plus
		next, _ := netip.AddrFromSlice(raw)
		old := ipNet(netip.PrefixFrom(n.addrs[i], bits))
		old.IP = n.addrs[i].AsSlice()
		if next != n.addrs[i] {
			errs = append(errs, n.AddrDel(link, &netlink.Addr{IPNet: old}))
		}
		n.addrs[i] = next
	}
	return errors.Join(append(errs, n.complete())...)
}

// complete gives the uplink the addresses and the routes that it should have.
func (n *uplinkNode) complete() error {
	var errs []error
	link := n.eth0()
	for i, a := range n.addrs {
		bits := []int{underlay4.Bits(), underlay6.Bits()}[i]
		own := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
		errs = append(errs, n.AddrReplace(link, &netlink.Addr{IPNet: own, Flags: unix.IFA_F_NODAD}),
			n.RouteReplace(n.everywhere(i)))
	}
	return errors.Join(errs...)
}

func (n *uplinkNode) everywhere(i int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: n.eth0().Attrs().Index, Gw: n.c.Outside.Addrs[i].AsSlice(),
		Family: []int{netlink.FAMILY_V4, netlink.FAMILY_V6}[i],
	}
}

func (n *uplinkNode) flap() error {
	return errors.Join(n.LinkSetDown(n.eth0()), n.LinkSetUp(n.eth0()), n.complete())
}

func (n *uplinkNode) reroute() error {
	return errors.Join(n.RouteDel(n.everywhere(0)), n.RouteDel(n.everywhere(1)), n.complete())
}

// replug deletes the interface and makes another one of its name, as a driver
// does that is loaded anew: the tunnel on it goes along.
func (n *uplinkNode) replug() error {
	const port = "again"
	under := &topology.Namespace{Name: strings.TrimSuffix(n.node.Name, "-2") + "-underlay"}
	hardware := n.eth0().Attrs().HardwareAddr
	if err := n.LinkDel(n.eth0()); err != nil {
		return err
	}
	var far netlink.Link
	err := under.Do(func() (err error) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "far", PeerHardwareAddr: hardware}
		if err = netlink.LinkAdd(veth); err != nil {
			return err
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Type() != "bridge" {
				continue
			}
			near, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			err = errors.Join(netlink.LinkSetMaster(near, l), netlink.LinkSetUp(near))
			if err != nil {
				return err
			}
		}
		far, err = netlink.LinkByName("far")
		return err
	})
	if err != nil {
		return err
	}
	if err := n.take(under, far); err != nil {
		return err
	}
	return n.complete()
}

// take brings an interface into the node as its uplink.
func (n *uplinkNode) take(from *topology.Namespace, link netlink.Link) error {
	return n.node.Do(func() error {
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer func() { _ = here.Close() }()
		if err := from.Do(func() error { return netlink.LinkSetNsFd(link, int(here.Fd())) }); err != nil {
			return err
		}
		mine, err := netlink.LinkByName("far")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetName(mine, topology.Eth0), netlink.LinkSetUp(mine))
	})
}

// tunnelFits wants the node's own devices on its uplink as it is.
func (n *uplinkNode) tunnelFits() error {
	for i, name := range []string{"flannel.1", "flannel-v6.1"} {
		link, err := n.LinkByName(name)
		if err != nil {
			return err
		}
		v := link.(*netlink.Vxlan)
		want := n.mtu - []int{50, 70}[i]
		if have, _ := netip.AddrFromSlice(v.SrcAddr); have.Unmap() != n.addrs[i] || v.MTU != want {
			return fmt.Errorf("%s: local %s, MTU %d; want %s, %d", name, v.SrcAddr, v.MTU, n.addrs[i], want)
		}
	}
	return nil
}

// knownTo wants a peer to send to the node's addresses, and to none of before.
func (n *uplinkNode) knownTo(peer *mirror) error {
	entries, err := peer.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	var have []string
	for _, e := range entries {
		if e.IP != nil && e.State&netlink.NUD_PERMANENT != 0 {
			have = append(have, e.IP.String())
		}
	}
	for _, a := range n.addrs {
		if !slices.Contains(have, a.String()) {
			return fmt.Errorf("the peer sends to %v, want %s among them", have, a)
		}
	}
	if len(have) != 4 {
		return fmt.Errorf("the peer sends to %v, want 4 addresses", have)
	}
	return nil
}
