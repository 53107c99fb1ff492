package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// TestExitStatus: what the shell and systemd see.
func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("ip-masq: true\nifcae: eth0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args           []string
		env            string
		status         int
		stdout, stderr string // words of each; "" is nothing at all
	}{
		"help":                {[]string{"-h"}, "", 0, "--iface-can-reach", ""},
		"version":             {[]string{"-version"}, "FLANNELD_V=x", 0, "", "go1."},
		"an unknown flag":     {[]string{"--ifcae=eth0"}, "", 2, "", "-ifcae"},
		"a bad expression":    {[]string{"--iface-regex=("}, "", 2, "", "missing closing )"},
		"a bad variable":      {nil, "FLANNELD_HEALTHZ_PORT=x", 2, "", "FLANNELD_HEALTHZ_PORT"},
		"a bad file":          {[]string{"--config", bad}, "", 2, "", bad + ":2: ifcae:"},
		"a file that is not":  {nil, "WEFTD_CONFIG=/nowhere/weftd.yaml", 2, "", "/nowhere/weftd.yaml"},
		"a margin of a day":   {[]string{"--subnet-lease-renew-margin=1440"}, "", 1, "", "1 to 1439 minutes"},
		"no password's file":  {[]string{"--etcd-username=u", "--etcd-password-file=/nowhere/p"}, "", 1, "", "/nowhere/p"},
		"a path in endpoints": {[]string{"--etcd-endpoints=http://a:1/v2"}, "", 1, "", "http://a:1/v2"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "weftd"), c.args...)
			cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, []string{c.env}
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if have := cmd.ProcessState.ExitCode(); have != c.status {
				t.Errorf("exit status %d, want %d", have, c.status)
			}
			for what, out := range map[string]struct{ want, have string }{
				"stdout": {c.stdout, stdout.String()}, "stderr": {c.stderr, stderr.String()},
			} {
				if !strings.Contains(out.have, out.want) || (out.want == "") != (out.have == "") {
					t.Errorf("%s: want %q, have:\n%s", what, out.want, out.have)
				}
			}
		})
	}
}

// secondInterface gives a node eth1, with an address and the way to a network
// behind it.
func secondInterface(t *testing.T, n *topology.Node) {
	t.Helper()
	err := n.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth1"
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: "wall"}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("172.16.9.1/24")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
			return err
		}
		_, behind, err := net.ParseCIDR("198.51.100.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: behind, Gw: net.ParseIP("172.16.9.254")})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tunnel tells the device's own address and its parent, as ip -d link does.
func tunnel(n *topology.Node) (local, parent string, err error) {
	err = n.Do(func() error {
		link, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return err
		}
		vxlan, ok := link.(*netlink.Vxlan)
		if !ok {
			return fmt.Errorf("flannel.1 is a %s", link.Type())
		}
		on, err := netlink.LinkByIndex(vxlan.VtepDevIndex)
		if err != nil {
			return err
		}
		local, parent = vxlan.SrcAddr.String(), on.Attrs().Name
		return nil
	})
	return local, parent, err
}

// TestUplinkFlags: a node is restarted with one way to choose its uplink after
// the other. It keeps its lease, whatever it announces.
func TestUplinkFlags(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	n := c.Nodes[1]
	secondInterface(t, n)
	store := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	store.awaitReady(0)
	config := filepath.Join(n.Dir, "weftd.yaml")
	text := "iface-regex: ['^wlan', '^eth1$']\npublic-ip: 203.0.113.7\nlog-level: error\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	eth0 := n.Addrs[0].String()
	lease := ""
	for _, step := range []struct {
		name          string
		args          []string
		env           [2]string
		parent, local string
		public        string
	}{
		{"by the default route", nil, [2]string{}, "eth0", eth0, eth0},
		{"by a name's pattern", []string{"--iface=eth7", "--iface-regex=^eth[1-9]"}, [2]string{}, "eth1", "172.16.9.1", "172.16.9.1"},
		{"by an address's pattern, in the environment", nil, [2]string{"FLANNELD_IFACE_REGEX", `^192\.168\.`}, "eth0", eth0, eth0},
		{"by what can be reached", []string{"--iface-can-reach=198.51.100.9"}, [2]string{}, "eth1", "172.16.9.1", "172.16.9.1"},
		{"by a local public address", []string{"--public-ip=" + eth0}, [2]string{}, "eth0", eth0, eth0},
		{"by a file, behind NAT", []string{"--config", config}, [2]string{}, "eth1", "172.16.9.1", "203.0.113.7"},
		{"the file's interface is not used", []string{"--config", config, "--iface=eth0"}, [2]string{}, "eth0", eth0, "203.0.113.7"},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.env[0] != "" {
				t.Setenv(step.env[0], step.env[1])
			}
			d := c.daemon(1, step.args...)
			d.t, d.args = t, append(without(d.args[:4], "--iface", topology.Eth0), d.args[4:]...)
			s := d.start().awaitReady(1)
			if lease == "" {
				lease = s.Node.Lease
			}
			if s.Node.Lease != lease {
				t.Errorf("lease %s, want %s as before", s.Node.Lease, lease)
			}
			local, parent, err := tunnel(n)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{step.parent, step.local, step.public}
			if d := cmp.Diff(want, []string{parent, local, s.Node.Public[0]}); d != "" {
				t.Errorf("parent, local, public (-want +have):\n%s", d)
			}
			eventually(t, 10*time.Second, func() error { // it is ready by what it saved, before the store is told
				value := c.etcdctl("get", "--print-value-only", "/coreos.com/network/subnets/"+lease)
				if !strings.HasPrefix(value, fmt.Sprintf(`{"PublicIP":%q,`, step.public)) {
					return fmt.Errorf("the lease announces %s, want %s", value, step.public)
				}
				return nil
			})
			eventually(t, 10*time.Second, func() error { return sendsTo(c.Nodes[0], step.public) })
			d.stop()
		})
	}
}

// sendsTo tells whether a node's tunnel has a way to this address alone.
func sendsTo(n *topology.Node, public string) error {
	var have []string
	err := n.Do(func() error {
		link, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return err
		}
		entries, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
		for _, e := range entries {
			ip, _ := netip.AddrFromSlice(e.IP)
			have = append(have, ip.Unmap().String())
		}
		return err
	})
	if d := cmp.Diff([]string{public}, have); err == nil && d != "" {
		return fmt.Errorf("%s sends to (-want +have):\n%s", n.Name, d)
	}
	return err
}
