package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// dualConfig is a dual-stack network with this backend.
func dualConfig(backend string) string {
	return `{"EnableIPv6":true,"Network":"10.42.0.0/16","SubnetMax":"10.42.199.0",` +
		`"IPv6Network":"fd00:42::/48","IPv6SubnetMax":"fd00:42:0:efff::","Backend":` + backend + `}`
}

// configured starts a daemon on every node, on a store with this configuration.
func (c *cluster) configured(config string, extra ...string) []*daemon {
	c.t.Helper()
	daemons := []*daemon{c.daemon(0, c.storeArgs(extra...)...).start()}
	for i := range c.Nodes[1:] {
		daemons = append(daemons, c.daemon(i+1, extra...).start())
	}
	c.setConfig(config)
	return daemons
}

// setConfig writes the network configuration as soon as the store is there.
func (c *cluster) setConfig(config string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() error {
		out, err := output(c.t, &c.Nodes[0].Namespace, filepath.Join(bin, "etcdctl"),
			"--endpoints", c.etcdURL(), "put", "/coreos.com/network/config", config)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

// way is how a node's routes lead to a subnet: "via 192.168.77.2 dev eth0".
func (c *cluster) way(node int, subnet netip.Prefix) (way string, err error) {
	dst := &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen())}
	family := netlink.FAMILY_V4
	if subnet.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	var found []string
	err = c.Nodes[node].Do(func() error {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
		if err != nil {
			return err
		}
		for _, r := range routes {
			switch {
			case r.Type == unix.RTN_BLACKHOLE:
				found = append(found, fmt.Sprintf("blackhole metric %d", r.Priority))
			case len(r.Gw) > 0:
				link, err := netlink.LinkByIndex(r.LinkIndex)
				if err != nil {
					return err
				}
				found = append(found, fmt.Sprintf("via %s dev %s", r.Gw, link.Attrs().Name))
			}
		}
		return nil
	})
	return strings.Join(found, ", "), err
}

// awaitWay waits until a node's routes lead to a subnet like this.
func (c *cluster) awaitWay(node int, subnet netip.Prefix, want string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() error {
		have, err := c.way(node, subnet)
		if err == nil && have != want {
			err = fmt.Errorf("%s: to %s: %q, want %q", c.Nodes[node].Name, subnet, have, want)
		}
		return err
	})
}

// subnetsOf are the pod subnets of a ready node.
func subnetsOf(t *testing.T, d *daemon) []netip.Prefix {
	t.Helper()
	s, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	var out []netip.Prefix
	for _, text := range s.Node.Subnets {
		out = append(out, netip.MustParsePrefix(text))
	}
	if len(out) != 2 {
		t.Fatalf("%s: subnets %v", d.node.Name, out)
	}
	return out
}

// tunnelled counts the packets that a node has sent through its devices and got
// from them.
func (c *cluster) tunnelled(node int) (packets uint64) {
	c.t.Helper()
	err := c.Nodes[node].Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "vxlan" {
				packets += l.Attrs().Statistics.RxPackets + l.Attrs().Statistics.TxPackets
			}
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return packets
}

// behind makes node reach peer by way of router, in IPv4 only, or as before.
func (c *cluster) behind(verb func(*netlink.Route) error, node, peer, router int) {
	c.t.Helper()
	err := c.Nodes[router].Do(func() error { // a redirect would undo it
		var errs []error
		for _, where := range []string{"all", topology.Eth0} {
			errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/conf/"+where+"/send_redirects", []byte("0"), 0o644))
		}
		return errors.Join(errs...)
	})
	if err == nil {
		err = c.Nodes[node].Do(func() error {
			return verb(&netlink.Route{
				Dst: &net.IPNet{IP: c.Nodes[peer].Addrs[0].AsSlice(), Mask: net.CIDRMask(32, 32)},
				Gw:  c.Nodes[router].Addrs[0].AsSlice(),
			})
		})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestDirectRouting: on one link no packet of a pod goes through the tunnel; a
// peer behind a router is reached through it, family by family, and directly
// again when the router is out of the way.
func TestDirectRouting(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	daemons := c.configured(dualConfig(`{"Type":"vxlan","DirectRouting":true}`), "--ip-blackhole-route")
	var subnets [][]netip.Prefix
	for _, d := range daemons {
		d.awaitReady(2)
		d.awaitPlanEmpty()
		subnets = append(subnets, subnetsOf(t, d))
	}
	for i, own := range subnets {
		for f, p := range own {
			c.awaitWay(i, p, "blackhole metric 2147483647")
			peer := (i + 1) % 3
			c.awaitWay(i, subnets[peer][f], fmt.Sprintf("via %s dev eth0", c.Nodes[peer].Addrs[f]))
		}
	}
	pods := c.pods()
	before := [3]uint64{c.tunnelled(0), c.tunnelled(1), c.tunnelled(2)}
	c.mesh(pods, 1430)
	if after := [3]uint64{c.tunnelled(0), c.tunnelled(1), c.tunnelled(2)}; after != before {
		t.Errorf("packets went through the tunnel: %v, before %v", after, before)
	}
	direct := fmt.Sprintf("via %s dev eth0", c.Nodes[2].Addrs[0])
	c.behind(netlink.RouteAdd, 0, 2, 1)
	c.awaitWay(0, subnets[2][0], fmt.Sprintf("via %s dev flannel.1", subnets[2][0].Addr()))
	c.awaitWay(0, subnets[2][1], fmt.Sprintf("via %s dev eth0", c.Nodes[2].Addrs[1]))
	daemons[0].awaitPlanEmpty()
	before[2] = c.tunnelled(2)
	c.pair(pods[0], pods[5], 1430)
	if after := c.tunnelled(2); after == before[2] {
		t.Error("nothing went through the tunnel though there is a router between")
	}
	c.behind(netlink.RouteDel, 0, 2, 1)
	c.awaitWay(0, subnets[2][0], direct)
	daemons[0].awaitPlanEmpty()
	c.pair(pods[0], pods[5], 1430)
}

// TestHostGateway: routes and nothing else, with the whole MTU; a peer behind a
// router is left out and named, and it alone.
func TestHostGateway(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	daemons := c.configured(dualConfig(`{"Type":"host-gw"}`))
	for _, d := range daemons {
		if s := d.awaitReady(2); s.Node.MTU != 1500 {
			t.Errorf("%s: MTU %d, want 1500", d.node.Name, s.Node.MTU)
		}
		d.awaitPlanEmpty()
	}
	pods := c.pods()
	c.mesh(pods, 1500)
	c.nodesReachPods(pods)
	lease := c.etcdctl("get", "--prefix", "/coreos.com/network/subnets/")
	if !strings.Contains(lease, `"BackendType":"host-gw"}`) || strings.Contains(lease, "Data") {
		t.Errorf("leases are not as flannel writes them:\n%s", lease)
	}
	far := subnetsOf(t, daemons[2])
	c.behind(netlink.RouteAdd, 0, 2, 1)
	for _, p := range far {
		c.awaitWay(0, p, "")
	}
	s := daemons[0].awaitReady(1)
	if len(s.Skipped) != 1 || !strings.Contains(s.Skipped[0].Reason, "behind the router "+c.Nodes[1].Addrs[0].String()) {
		t.Errorf("skipped: %+v", s.Skipped)
	}
	c.pair(pods[0], pods[2], 1500)
	c.behind(netlink.RouteDel, 0, 2, 1)
	for f, p := range far {
		c.awaitWay(0, p, fmt.Sprintf("via %s dev eth0", c.Nodes[2].Addrs[f]))
	}
	daemons[0].awaitReady(2)
	c.pair(pods[0], pods[5], 1500)
}

// TestAlloc: a lease without a word about a backend, as flannel writes it, and
// the subnet file.
func TestAlloc(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	daemons := c.configured(`{"Network":"10.42.0.0/16","Backend":{"Type":"alloc"}}`)
	for i, d := range daemons {
		d.awaitReady(1)
		d.awaitPlanEmpty()
		if env, err := os.ReadFile(d.node.SubnetFile()); err != nil || !strings.Contains(string(env), "FLANNEL_MTU=1500") {
			t.Errorf("subnet file: %s %v", env, err)
		}
		want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null}`, c.Nodes[i].Addrs[0])
		if leases := c.etcdctl("get", "--prefix", "/coreos.com/network/subnets/"); !strings.Contains(leases, want) {
			t.Errorf("no lease %s in\n%s", want, leases)
		}
	}
}
