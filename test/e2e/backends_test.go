package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/topology"
)

// backendCase is a life of a node with one backend.
type backendCase struct {
	config   string
	underlay []netip.Prefix
	mtu      int    // of pods; 0: the backend carries none
	dev      string // how the device begins that weftd's routes to peers lead through; empty: it makes none
	extra    []string
}

func backendCases() map[string]backendCase {
	both := []netip.Prefix{underlay4, underlay6}
	dual := func(backend string) string {
		return strings.Replace(dualConfig(backend), "{", `{"EnableNFTables":true,`, 1)
	}
	return map[string]backendCase{
		"vxlan":        {dual(`{"Type":"vxlan"}`), both, 1430, "flannel", nil},
		"vxlan-direct": {dual(`{"Type":"vxlan","DirectRouting":true}`), both, 1430, topology.Eth0, nil},
		"host-gw":      {dual(`{"Type":"host-gw"}`), both, 1500, topology.Eth0, nil},
		"alloc":        {dual(`{"Type":"alloc"}`), both, 0, "", nil},
		"extension": {`{"EnableNFTables":true,"Network":"10.42.0.0/16","Backend":{"Type":"extension",` +
			`"SubnetAddCommand":"ip route add $SUBNET via $PUBLIC_IP","SubnetRemoveCommand":"ip route del $SUBNET via $PUBLIC_IP"}}`,
			both[:1], 1500, "", []string{"--extension-commands"}},
	}
}

// TestBackends: with each backend two nodes converge, pods talk in each family, restarts
// lose nothing and write nothing, what is deleted comes back, and cleanup leaves nothing.
func TestBackends(t *testing.T) {
	for name, b := range backendCases() {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2, b.underlay...)
			c.command(1, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1") // never set back
			store := c.daemon(0, c.storeArgs(b.extra...)...).start()
			c.setConfig(b.config)
			store.awaitReady(0)
			before := c.everything(1)
			d := c.daemon(1, b.extra...).start()
			d.awaitReady(1)
			var far []netip.Prefix
			for _, text := range store.awaitReady(1).Node.Subnets {
				far = append(far, netip.MustParsePrefix(text))
			}
			d.awaitPlanEmpty()
			pods := []*topology.Pod{c.pod(c.Nodes[0], "a"), c.pod(c.Nodes[1], "a")}
			c.restartedUnderTraffic(t, d, pods, b)
			c.repairs(t, d, far, b)
			if b.mtu > 0 {
				c.pair(pods[0], pods[1], b.mtu)
			}
			c.leavesNothing(t, d, pods, far, before)
		})
	}
}

func (c *cluster) restartedUnderTraffic(t *testing.T, d *daemon, pods []*topology.Pod, b backendCase) {
	t.Helper()
	var streams []*stream
	for i, pod := range pods {
		if to := pods[1-i]; b.mtu > 0 {
			c.pair(pod, to, b.mtu)
			for _, addr := range to.Addrs {
				streams = append(streams, startStream(t, &pod.Namespace, &to.Namespace, addr))
			}
		}
	}
	for range rounds(t, 2) {
		d.stop()
		d.start().unchanged(true)
		d.kill()
		d.start().unchanged(true)
	}
	for _, s := range streams {
		s.flawless()
	}
}

// repairs deletes rules, and the routes to a peer where they are weftd's own.
func (c *cluster) repairs(t *testing.T, d *daemon, far []netip.Prefix, b backendCase) {
	t.Helper()
	c.command(1, "nft", "delete", "table", "ip", "weft")
	d.awaitPlanEmpty()
	if have := c.command(1, "nft", "list", "table", "ip", "weft"); !strings.Contains(have, "masquerade") {
		t.Errorf("rules that were deleted: %s", have)
	}
	for _, p := range far {
		have, err := c.way(1, p)
		if err != nil || b.dev != "" && !strings.Contains(have, "dev "+b.dev) {
			t.Errorf("to %s: %q (%v), want a way through %s", p, have, err, b.dev)
		}
		if b.dev != "" {
			c.command(1, "ip", "route", "del", p.String())
			c.awaitWay(1, p, have)
		}
	}
}

// leavesNothing takes weft off node 2, and what its commands made, which cleanup names.
func (c *cluster) leavesNothing(
	t *testing.T, d *daemon, pods []*topology.Pod, far []netip.Prefix, before map[string][]string,
) {
	t.Helper()
	d.stop()
	for _, p := range pods {
		if err := p.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.command(1, "ip", "link", "del", "cni0")
	report, out, err := d.cleanup("--lease", "--etcd-endpoints", c.etcdURL())
	if err != nil || len(report.Failed) > 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, kept := range report.Kept {
		if kept.Kind != "command" {
			t.Errorf("kept: %+v", kept)
		}
	}
	if len(report.Kept) > 0 {
		for _, p := range far {
			c.command(1, "ip", "route", "del", p.String())
		}
	}
	if diff := cmp.Diff(before, c.everything(1)); diff != "" {
		t.Errorf("(-before +after)\n%s\n%s", diff, out)
	}
	if slices.Contains(d.args, "--extension-commands") != (len(report.Kept) > 0) {
		t.Errorf("cleanup names what commands made: %s", fmt.Sprint(report.Kept))
	}
}
