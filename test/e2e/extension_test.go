package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
)

// gateways is flannel's own example of the backend, and a first command whose
// output the peers get: each writes down what it read.
const gateways = `{"Network": "10.42.0.0/16", "Backend": {"Type": "extension",
	"PreStartupCommand": "sh -c 'read x < /sys/class/net/eth0/address; echo \"$x\"'",
	"SubnetAddCommand": "sh -c 'ip route add \"$SUBNET\" via \"$PUBLIC_IP\" && cat > \"$0\"/\"$PUBLIC_IP\"' DIR",
	"SubnetRemoveCommand": "ip route del $SUBNET via $PUBLIC_IP"}}`

// TestExtension: packets go by what commands have made, a restart runs nothing,
// a command that fails harms no other peer, and a peer that leaves is undone.
func TestExtension(t *testing.T) {
	c := newCluster(t, 3, underlay4)
	dir := t.TempDir()
	daemons := c.configured(strings.ReplaceAll(gateways, "DIR", dir), "--extension-commands")
	subnets := make([]netip.Prefix, len(daemons))
	for i, d := range daemons {
		s := d.awaitReady(2)
		if s.Node.MTU != 1500 {
			t.Errorf("%s: MTU %d, want 1500", d.node.Name, s.Node.MTU)
		}
		subnets[i] = netip.MustParsePrefix(s.Node.Subnets[0])
	}
	c.awaitWay(1, subnets[2], fmt.Sprintf("via %s dev eth0", c.Nodes[2].Addrs[0]))
	pods := c.pods()
	c.mesh(pods, 1500)
	macs, err := os.ReadFile(filepath.Join(dir, c.Nodes[2].Addrs[0].String()))
	if err != nil || strings.Count(string(macs), ":") != 5 {
		t.Errorf("what the peer's first command wrote: %q %v", macs, err)
	}

	daemons[1].stop()
	daemons[1].start().awaitReady(2)
	c.pair(pods[2], pods[4], 1500)

	// A peer that nobody can reach: its command fails, and those of others don't.
	c.etcdctl("put", "/coreos.com/network/subnets/10.42.250.0-24",
		`{"PublicIP":"203.0.113.9","PublicIPv6":null,"BackendType":"extension"}`)
	eventually(t, 10*time.Second, func() error { return blamed(daemons[1], "10.42.250.0-24") })
	c.pair(pods[2], pods[4], 1500)

	daemons[2].stop()
	c.etcdctl("del", "/coreos.com/network/subnets/"+strings.ReplaceAll(subnets[2].String(), "/", "-"))
	c.awaitWay(1, subnets[2], "")
	c.cleanupListsCommands(1)
}

// blamed tells whether the peer that a command failed for is named, and it alone.
func blamed(d *daemon, lease string) error {
	s, err := d.status()
	if err != nil {
		return err
	}
	if len(s.Skipped) != 1 || s.Peers != 2 || s.Skipped[0].ID != lease || s.Skipped[0].Field != "SubnetAddCommand" ||
		!strings.Contains(s.Skipped[0].Reason, "exit status 2") {
		return fmt.Errorf("%d peers, left out: %+v", s.Peers, s.Skipped)
	}
	return nil
}

func (c *cluster) cleanupListsCommands(node int) {
	c.t.Helper()
	n := c.Nodes[node]
	out, err := output(c.t, &n.Namespace, filepath.Join(bin, "weftctl"), "cleanup", "--dry-run", "-o", "json",
		"--state-dir", filepath.Join(n.Dir, "state"), "--subnet-file", n.SubnetFile(), "--socket", filepath.Join(n.Dir, "weftd.sock"))
	var report network.CleanupReport
	if err == nil {
		err = json.Unmarshal([]byte(out), &report)
	}
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	for _, x := range report.Kept {
		if x.Kind == "command" {
			return
		}
	}
	c.t.Errorf("no command in %s", out)
}
