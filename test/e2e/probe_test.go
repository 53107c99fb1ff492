package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/probe"
)

// TestProbes: what a node measures to its peer, and how soon it sees that the
// tunnel's port is blocked while the node itself answers.
func TestProbes(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start(), c.daemon(1).start(),
	}
	for _, d := range daemons {
		d.awaitReady(1)
	}
	for _, d := range daemons {
		d.awaitPaths(30*time.Second, probe.OK, probe.OK)
	}
	block := c.Nodes[1].Namespace
	if out, err := output(t, &block, "nft", "add table ip blocked; add chain ip blocked in "+
		"{ type filter hook input priority -300; }; add rule ip blocked in udp dport 8472 drop"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	began := time.Now()
	daemons[0].awaitPaths(15*time.Second, probe.OverlayDown, probe.OK)
	t.Logf("seen after %s", time.Since(began).Round(100*time.Millisecond))
	if s, err := daemons[0].status(); err != nil || !s.Ready {
		t.Errorf("a peer that doesn't answer made a node unready: %v, %v", s.Reasons, err)
	}
	if out, err := output(t, &block, "nft", "delete table ip blocked"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	daemons[0].awaitPaths(15*time.Second, probe.OK, probe.OK)
	daemons[0].awaitLog("a peer doesn't answer probes", "overlay-down")
}

// awaitPaths waits until the paths to the one peer are so, IPv4 first. One that
// answers again, and has lost probes lately, is OK.
func (d *daemon) awaitPaths(limit time.Duration, want ...probe.State) {
	d.t.Helper()
	eventually(d.t, limit, func() error {
		var peers []network.Peer
		if err := d.ask("/v1/peers", &peers); err != nil || len(peers) != 1 || len(peers[0].Paths) != len(want) {
			return fmt.Errorf("%s: %+v, %w", d.node.Name, peers, err)
		}
		for i, path := range peers[0].Paths {
			fine := path.RTT > 0 && (path.Probe == probe.OK || path.Probe == probe.Lossy)
			if (want[i] != probe.OK || !fine) && path.Probe != want[i] {
				return fmt.Errorf("%s: the path to %s is %s, %.2f ms, want %s",
					d.node.Name, strings.TrimSuffix(path.Subnet, "/24"), path.Probe, path.RTT, want[i])
			}
		}
		return nil
	})
}
