package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

var (
	leaseKey = regexp.MustCompile(
		`^/coreos\.com/network/subnets/(10\.42\.\d+\.0-24|0\.0\.0\.0-0)(&fd00:42:[0-9a-f:]*::-64)?$`)
	leaseValue = regexp.MustCompile(`^\{"PublicIP":"[0-9.]+","PublicIPv6":(null|"[0-9a-f:]+"),"BackendType":"vxlan"` +
		`(,"BackendData":` + vtep + `)?(,"BackendV6Data":` + vtep + `)?\}$`)
)

const vtep = `\{"VNI":1,"VtepMAC":"([0-9a-f]{2}:){5}[0-9a-f]{2}"\}`

func vtepMAC(t *testing.T, n *topology.Node) string {
	t.Helper()
	var mac string
	err := n.Do(func() error {
		i, err := net.InterfaceByName("flannel.1")
		if err == nil {
			mac = i.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

func TestTwentyAtOnce(t *testing.T) {
	const nodes = 20
	c := newCluster(t, nodes, underlay4)
	var daemons []*daemon
	for i := range nodes {
		extra := []string{}
		if i == 0 {
			extra = c.storeArgs("--network=10.42.0.0/16")
		}
		daemons = append(daemons, c.daemon(i, extra...).start())
	}
	subnets := map[string]string{}
	for _, d := range daemons {
		s := d.awaitReady(nodes - 1)
		if other, taken := subnets[s.Node.Lease]; taken {
			t.Errorf("%s and %s both have %s", other, d.node.Name, s.Node.Lease)
		}
		subnets[s.Node.Lease] = d.node.Name
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	d := c.daemon(1).start()
	before := d.awaitReady(1)
	macBefore := vtepMAC(t, d.node)
	for _, end := range []struct {
		name string
		f    func()
	}{{"stop", d.stop}, {"kill -9", d.kill}} {
		end.f()
		d.start()
		after := d.awaitReady(1)
		if after.Node.Lease != before.Node.Lease {
			t.Errorf("after %s: lease %s, want %s", end.name, after.Node.Lease, before.Node.Lease)
		}
		if after.Ops != 0 && after.Ops != d.closing(after) {
			t.Errorf("after %s: %d writes to a kernel that was right", end.name, after.Ops)
		}
	}
	d.stop()
	if err := d.node.Do(func() error { return deleteLink("flannel.1") }); err != nil {
		t.Fatal(err)
	}
	d.start()
	if after := d.awaitReady(1); after.Node.Lease != before.Node.Lease {
		t.Errorf("after a reboot: lease %s, want %s", after.Node.Lease, before.Node.Lease)
	}
	if mac := vtepMAC(t, d.node); mac != macBefore {
		t.Errorf("after a reboot: MAC %s, want %s", mac, macBefore)
	}
}

// TestStoreAway starts a node with the store gone: it serves from its disk.
func TestStoreAway(t *testing.T) {
	c := newCluster(t, 3, underlay4)
	store := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	d1, d2 := c.daemon(1).start(), c.daemon(2).start()
	for _, d := range []*daemon{store, d1, d2} {
		d.awaitReady(2)
	}
	pods := c.pods()
	eventually(t, 15*time.Second, func() error {
		return savedLeases(filepath.Join(d1.node.Dir, "state", "snapshot.json"), 3)
	})
	store.kill()
	d1.kill()
	d1.start()
	if s := d1.awaitReady(2); s.Ops != 0 {
		t.Errorf("%d writes to a kernel that was right", s.Ops)
	}
	c.mesh(pods[2:], 1450)
	store.start()
	store.awaitReady(2)
	eventually(t, 30*time.Second, func() error {
		s, err := d1.status()
		if err == nil && s.Store.Heard.IsZero() {
			err = fmt.Errorf("the store was not heard yet")
		}
		return err
	})
	c.mesh(pods, 1450)
}

func TestMalformedKeyHarmsNoOne(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	c.newStore(`{"Network":"10.42.0.0/16","SubnetMax":"10.42.199.0","Backend":{"Type":"vxlan"}}`)
	c.daemon(0).start().awaitReady(0)
	for key, value := range map[string]string{
		"not-a-subnet":   "{}",
		"10.42.200.0-24": "{",
		"10.42.201.0-24": `{"PublicIP":"192.168.77.201","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"zz"}}`,
		"10.99.0.0-24":   `{"PublicIP":"192.168.77.202","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`,
		"10.42.203.0-24": `{"PublicIP":"127.0.0.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}`,
	} {
		c.etcdctl("put", "/coreos.com/network/subnets/"+key, value)
	}
	d := c.daemon(1).start()
	s := d.awaitReady(1)
	if len(s.Skipped) != 3 || len(s.Store.Malformed) != 2 {
		t.Errorf("left out %v, malformed %v; want 3 and 2", s.Skipped, s.Store.Malformed)
	}
	out, _ := output(t, &d.node.Namespace, filepath.Join(bin, "weftctl"),
		"leases", "--etcd-endpoints", c.etcdURL(), "-o", "json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 5 {
		t.Errorf("weftctl leases: %d rows, want 5 (%v)\n%s", len(rows), err, out)
	}
	if !strings.Contains(c.etcdctl("get", "/coreos.com/network/subnets/not-a-subnet"), "{}") {
		t.Error("a foreign key was touched")
	}
}

// TestConfigurationEditedWhileRunning changes what the store says under two
// daemons and their pods.
func TestConfigurationEditedWhileRunning(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	a := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	b := c.daemon(1).start()
	a.awaitReady(1)
	b.awaitReady(1)
	pods := c.pods()
	for _, edit := range []struct {
		config string
		device string
		mtu    int
	}{
		{`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}`, "flannel.1", 1350},
		{`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","Port":4789}}`, "flannel.1", 1450},
		{`{"Network":"10.42.0.0/15","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":7}}`, "flannel.7", 1450},
	} {
		c.etcdctl("put", "/coreos.com/network/config", edit.config)
		for _, d := range []*daemon{a, b} {
			eventually(t, 10*time.Second, func() error {
				s, err := d.status()
				if err == nil && (s.Node.MTU != edit.mtu || s.Peers != 1) {
					err = fmt.Errorf("MTU %d, %d peers", s.Node.MTU, s.Peers)
				}
				return err
			})
			d.awaitPlanEmpty()
			d.awaitReady(1)
			if links := vxlans(t, d.node); len(links) != 1 || links[edit.device] != edit.mtu {
				t.Errorf("after %s: devices %v, want %s alone with MTU %d", edit.config, links, edit.device, edit.mtu)
			}
		}
		c.mesh(pods, edit.mtu)
	}
	c.etcdctl("put", "/coreos.com/network/config", `{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}`)
	b.awaitLog("refused", "drain this node")
	c.mesh(pods, 1450)
}
