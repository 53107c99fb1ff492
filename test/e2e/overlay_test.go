package e2e

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

func TestOverlay(t *testing.T) {
	for _, tc := range []struct {
		name     string
		underlay []netip.Prefix
		config   []string
		mtu      int
	}{
		{"dual stack", []netip.Prefix{underlay4, underlay6}, []string{"--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48"}, 1430},
		{"ipv4 only", []netip.Prefix{underlay4}, []string{"--network=10.42.0.0/16"}, 1450},
		{"ipv6 only over ipv6", []netip.Prefix{underlay6}, []string{"--ipv6-network=fd00:42::/48"}, 1430},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 3, tc.underlay...)
			daemons := []*daemon{c.daemon(0, c.storeArgs(tc.config...)...).start()}
			for i := range c.Nodes[1:] {
				daemons = append(daemons, c.daemon(i+1).start())
			}
			for _, d := range daemons {
				if s := d.awaitReady(2); s.Node.MTU != tc.mtu {
					t.Errorf("%s: MTU %d, want %d", d.node.Name, s.Node.MTU, tc.mtu)
				}
			}
			pods := c.pods()
			c.mesh(pods, tc.mtu)
			c.nodesReachPods(pods)
			c.masquerade(pods)
			c.leasesAreFlannels()
			if out, err := output(t, &c.Nodes[1].Namespace, filepath.Join(bin, "weftctl"), "plan",
				"--socket", filepath.Join(c.Nodes[1].Dir, "weftd.sock")); err != nil {
				t.Errorf("weftctl plan: %v\n%s", err, out)
			}
			c.weftctlShowsPeers(len(tc.underlay))
		})
	}
}

// weftctlShowsPeers: both other nodes, each by its tunnel, and that they came.
func (c *cluster) weftctlShowsPeers(families int) {
	c.t.Helper()
	for command, want := range map[string]int{"peers": 2 * families, "events": 2} {
		out, err := output(c.t, &c.Nodes[1].Namespace, filepath.Join(bin, "weftctl"), command, "-o", "json",
			"--socket", filepath.Join(c.Nodes[1].Dir, "weftd.sock"))
		have := strings.Count(out, `"way": "tunnel"`) + strings.Count(out, `"kind":"peer-came"`)
		if err != nil || have != want {
			c.t.Errorf("weftctl %s: %d lines of peers, want %d; %v\n%s", command, have, want, err, out)
		}
	}
}

func (c *cluster) nodesReachPods(pods []*topology.Pod) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for _, n := range c.Nodes {
		for _, pod := range pods {
			for _, a := range pod.Addrs {
				if _, err := n.Ping(ctx, topology.Ping{To: a}); err != nil {
					c.t.Error(err)
				}
			}
		}
	}
}

// masquerade: a host outside sees the node, never the pod.
func (c *cluster) masquerade(pods []*topology.Pod) {
	c.t.Helper()
	c.serve(c.Outside)
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for i, pod := range pods {
		node := c.Nodes[i/2]
		for f, a := range c.Outside.Addrs {
			page, err := pod.Fetch(ctx, netip.AddrPortFrom(a, pagePort))
			if err != nil {
				c.t.Error(err)
				continue
			}
			if page.Client != node.Addrs[f] {
				c.t.Errorf("outside sees %s as %s, want its node's %s", pod.Name, page.Client, node.Addrs[f])
			}
		}
	}
}

// leasesAreFlannels compares what etcdctl shows with the contract: keys and
// values, byte by byte but for what is random.
func (c *cluster) leasesAreFlannels() {
	c.t.Helper()
	lines := strings.Split(strings.TrimSpace(c.etcdctl("get", "--prefix", "/coreos.com/network/subnets/")), "\n")
	if len(lines) != 2*len(c.Nodes) {
		c.t.Fatalf("etcdctl shows %d lines for %d nodes: %q", len(lines), len(c.Nodes), lines)
	}
	for i := 0; i < len(lines); i += 2 {
		if !leaseKey.MatchString(lines[i]) {
			c.t.Errorf("key %q is not as flannel writes it", lines[i])
		}
		if !leaseValue.MatchString(lines[i+1]) {
			c.t.Errorf("value %s is not as flannel writes it", lines[i+1])
		}
	}
}
