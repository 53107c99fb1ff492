package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/topology"
)

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

func savedLeases(path string, want int) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if got := strings.Count(string(content), `"VtepMAC"`); got != want {
		return fmt.Errorf("%d leases are saved, want %d", got, want)
	}
	return nil
}

// TestBadInput: each gives one error that names the object, and where waiting
// can help the node recovers by itself when the cause is gone.
func TestBadInput(t *testing.T) {
	t.Run("command line", func(t *testing.T) {
		c := newCluster(t, 1, underlay4)
		for _, tc := range []struct{ arg, want string }{
			{"--no-such-flag", "no-such-flag"},
			{"--public-ip=nonsense", "public-ip"},
			{"--network=10.42.0.0/16", "--embedded-etcd"},
			{"positional", "positional"},
			{"--log-level=loud", "loud"},
		} {
			out, err := output(t, &c.Nodes[0].Namespace, filepath.Join(bin, "weftd"), tc.arg)
			if err == nil || err.Error() != "exit status 2" || !strings.Contains(out, tc.want) {
				t.Errorf("weftd %s: %v, want exit status 2 and a word of %q:\n%s", tc.arg, err, tc.want, out)
			}
		}
	})
	t.Run("no store, then no configuration, then a bad one", func(t *testing.T) {
		c := newCluster(t, 2, underlay4)
		d := c.daemon(1).start()
		d.awaitLog("etcd", c.Nodes[0].Addrs[0].String())
		store := c.daemon(0, c.storeArgs()...).start()
		store.awaitLog("configuration", "weftctl config set")
		c.etcdctl("put", "/coreos.com/network/config", `{"Network":"10.42.0.0/16","SubnetLen":31}`)
		d.awaitLog("SubnetLen")
		c.etcdctl("put", "/coreos.com/network/config", `{"Network":"10.42.0.0/16"}`)
		d.awaitReady(1)
	})
	t.Run("no such interface", func(t *testing.T) {
		c := newCluster(t, 1, underlay4)
		d := c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--iface=eth9")...)
		d.args = without(d.args, "--iface", "eth0")
		d.start()
		d.awaitLog("eth9", "eth0")
	})
	t.Run("foreign device of our name", func(t *testing.T) {
		c := newCluster(t, 1, underlay4)
		add := func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "flannel.1"
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		}
		if err := c.Nodes[0].Do(add); err != nil {
			t.Fatal(err)
		}
		d := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
		d.awaitLog("flannel.1", "ip link delete")
		if _, err := os.Stat(d.node.SubnetFile()); !os.IsNotExist(err) {
			t.Errorf("subnet.env is there though no pod can be served: %v", err)
		}
		if err := c.Nodes[0].Do(func() error { return deleteLink("flannel.1") }); err != nil {
			t.Fatal(err)
		}
		d.awaitReady(0)
	})
	t.Run("occupied port", func(t *testing.T) {
		c := newCluster(t, 1, underlay4)
		var conn net.PacketConn
		err := c.Nodes[0].Do(func() (err error) {
			conn, err = net.ListenPacket("udp4", "0.0.0.0:8472")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		d := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
		d.awaitLog("8472")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		d.awaitReady(0)
	})
	t.Run("subnet file can't be written, or is damaged", func(t *testing.T) {
		c := newCluster(t, 1, underlay4)
		dir := filepath.Join(c.Nodes[0].Dir, "run")
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file where a directory should be
			t.Fatal(err)
		}
		d := c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--subnet-file", filepath.Join(dir, "subnet.env"))...).start()
		d.awaitLog("subnet.env")
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		d.awaitReady(0)
		d.stop()
		if err := os.WriteFile(filepath.Join(dir, "subnet.env"), []byte("FLANNEL_SUBNET=what\x00ever\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		lease := d.start().awaitReady(0).Node.Lease
		d.awaitLog("subnet.env", "damaged")
		content, err := os.ReadFile(filepath.Join(dir, "subnet.env"))
		if err != nil || !strings.Contains(string(content), "FLANNEL_NETWORK=10.42.0.0/16\n") {
			t.Errorf("subnet.env of %s is not whole again: %v\n%s", lease, err, content)
		}
	})
	t.Run("exhausted network", func(t *testing.T) {
		c := newCluster(t, 5, underlay4)
		c.daemon(0, c.storeArgs("--network=10.42.0.0/24")...).start().awaitReady(0) // /26: three to give
		c.daemon(1).start().awaitReady(1)
		c.daemon(2).start().awaitReady(2)
		c.daemon(3).start().awaitLog("no free subnet", "10.42.0.0/24")
		c.daemon(4).start().awaitLog("no free subnet")
	})
}

func without(args []string, name, value string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == name && i+1 < len(args) && args[i+1] == value {
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// vxlans gives the VXLAN devices of a node and their MTU.
func vxlans(t *testing.T, n *topology.Node) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := n.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "vxlan" {
				out[l.Attrs().Name] = l.Attrs().MTU
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
