package e2e

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/topology"
)

// foreign is what somebody else may have on a node, on all the tables that weft
// writes to: some of it in weft's networks, some with weft's mark.
const foreign = `
sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link add foreign0 type veth peer name foreign1
ip link set foreign1 addrgenmode none up
ip link set foreign0 addrgenmode none up
ip addr add 10.99.0.1/24 dev foreign0
ip addr add fd99::1/64 dev foreign0 nodad
ip link add vx9 type vxlan id 9 dstport 4789 dev eth0
ip link set vx9 addrgenmode none
ip link set vx9 address 02:00:00:00:99:00 up
bridge fdb append 02:00:00:00:99:01 dev vx9 dst 192.168.77.99
ip neigh add 10.99.0.9 lladdr 02:00:00:00:99:02 dev foreign0 nud permanent
ip neigh add fd99::9 lladdr 02:00:00:00:99:02 dev foreign0 nud permanent
ip route add 172.16.0.0/12 via 10.99.0.9
ip route add 203.0.113.0/24 via 10.99.0.9 proto 83
ip route add 10.42.251.0/24 via 10.99.0.9
ip route add blackhole 10.42.252.0/24 metric 7
ip route add 198.51.100.0/24 via 10.99.0.9 table 100
ip rule add from 10.99.0.0/24 table 100
ip -6 route add 2001:db8:9::/48 via fd99::9
ip -6 route add fd00:42:0:fffe::/64 via fd99::9
ip -6 rule add from fd99::/64 table 100
ip nexthop add id 99 via 10.99.0.9 dev foreign0
ip route add 192.0.2.0/24 nhid 99
nft add table inet foreign
nft add chain inet foreign forward '{ type filter hook forward priority 5 ; }'
nft add rule inet foreign forward ip saddr 10.99.0.0/24 accept
nft add table ip weft-of-others
nft add chain ip weft-of-others postrouting
`

// tables is that in each kind of iptables. The nat table is used, so that its
// chains, which iptables makes and nobody removes, are there before.
const tables = `
%-%s -A FORWARD -s % -j ACCEPT
%-%s -t nat -A POSTROUTING -s % -j RETURN
`

// TestCleanup: a whole life of weft on a node with things of others on it leaves
// all of these as they were, and nothing of its own.
func TestCleanup(t *testing.T) {
	for name, enable := range map[string]string{"nftables": "true", "iptables": "false"} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2, underlay4, underlay6)
			c.Nodes[1].AllowSpoofing = []string{}                   // leaves a table, too
			c.Nodes[1].HostPorts = map[string]uint16{"a": pagePort} // and so does that
			store, d := c.daemon(0, c.storeArgs()...).start(), c.daemon(1, "--ip-blackhole-route")
			c.put(engineConfig(enable))
			store.awaitReady(0)
			c.seed(1, kinds(t, c))
			before := c.everything(1)
			d.start().awaitReady(1)
			store.awaitReady(1)
			pods := c.pods()
			c.mesh(pods, 1430)
			d.disturbed(pods)
			if _, out, err := d.cleanup(); err == nil || !strings.Contains(out, "stop it first") {
				t.Fatalf("beside the daemon: %v\n%s", err, out)
			}
			d.stop()
			for _, p := range pods {
				if err := p.Delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			c.command(1, "ip", "link", "del", "cni0") // the CNI plugin's, as the page says
			report, out, err := d.cleanup("--lease", "--etcd-endpoints", c.etcdURL())
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if d := cmp.Diff(before, c.everything(1)); d != "" {
				t.Errorf("(-before +after)\n%s\n%s", d, out)
			}
			if len(report.Failed)+len(report.Kept) > 0 {
				t.Errorf("left: %s", out)
			}
			store.awaitReady(0) // it has forgotten this node, by its lease
			// Nothing tells which network it was, and a foreign route has weft's mark.
			if _, out, err := d.cleanup(); err == nil || !strings.Contains(out, "on 1 routes and 0 chains") {
				t.Errorf("without a network: %v\n%s", err, out)
			}
			again, out, err := d.cleanup("--config", engineConfig(enable))
			if err != nil || len(again.Removed)+len(again.Kept) > 0 {
				t.Errorf("a second time: %v\n%s", err, out)
			}
		})
	}
}

// disturbed lets everything be changed and repaired once.
func (d *daemon) disturbed(pods []*topology.Pod) {
	d.t.Helper()
	d.awaitPlanEmpty()
	m := newMirror(d.t, d.node)
	for _, addr := range pods[0].Addrs {
		s, err := m.side(addr, addr)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, one := range append(s.links(), s.addresses()...) {
			m.repaired(one)
		}
	}
}

// cleanup runs weftctl cleanup for the daemon's place.
func (d *daemon) cleanup(args ...string) (report network.CleanupReport, out string, err error) {
	d.t.Helper()
	args = append([]string{
		"cleanup", "-o", "json", "--socket", filepath.Join(d.node.Dir, "weftd.sock"),
		"--state-dir", filepath.Join(d.node.Dir, "state"), "--subnet-file", d.node.SubnetFile(),
	}, args...)
	out, err = output(d.t, &d.node.Namespace, filepath.Join(bin, "weftctl"), args...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &report)
	}
	return report, out, err
}

// command runs a program on a node.
func (c *cluster) command(node int, name string, args ...string) string {
	c.t.Helper()
	out, err := output(c.t, &c.Nodes[node].Namespace, name, args...)
	if err != nil {
		c.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func (c *cluster) seed(node int, all []kind) {
	c.t.Helper()
	script := foreign
	for _, k := range all {
		for program, prefix := range map[string]string{"iptables": "10.99.0.0/24", "ip6tables": "fd99::/64"} {
			fill := strings.NewReplacer("%-%s", program+"-"+string(k), "%", prefix)
			script += fill.Replace(tables)
		}
	}
	c.command(node, "env", c.lock(), "sh", "-e", "-c", script)
}

// everything is all that weft could have touched on a node, but for counters.
func (c *cluster) everything(node int) map[string][]string {
	c.t.Helper()
	counters := regexp.MustCompile(`\[\d+:\d+\]|(?m)^#.*$`)
	out := map[string][]string{}
	for _, line := range []string{
		"ip -br link", "ip -br addr", "ip -4 route show table all", "ip -6 route show table all",
		"ip -4 rule", "ip -6 rule", "ip nexthop", "bridge fdb", "ip neigh show nud permanent",
		"nft -s list ruleset", "sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf.all.forwarding",
		"iptables-legacy-save", "ip6tables-legacy-save",
	} {
		words := strings.Fields(line)
		out[line] = strings.Split(counters.ReplaceAllString(c.command(node, words[0], words[1:]...), ""), "\n")
	}
	return out
}
