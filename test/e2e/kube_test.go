package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/subnet/kube/kubetest"
)

const annotation = "flannel.alpha.coreos.com/"

// kubernetes is a cluster whose leases are in Nodes: the part of an API server
// that weft talks to stands outside of it.
type kubernetes struct {
	*cluster
	api    *kubetest.Server
	door   *kubetest.Door
	config string
}

func newKubernetes(t *testing.T, nodes int) *kubernetes {
	t.Helper()
	k := &kubernetes{cluster: newCluster(t, nodes, underlay4, underlay6), api: kubetest.New()}
	l, err := k.Outside.Listen(netip.AddrPortFrom(k.Outside.Addrs[0], 6443))
	if err != nil {
		t.Fatal(err)
	}
	k.door = k.api.OpenOn(t, l)
	k.config = filepath.Join(k.Nodes[0].Dir, "net-conf.json")
	raw := `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
	if err := os.WriteFile(k.config, []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// node makes a Node with the pod subnets of a number, the first of a network
// among them, and a daemon for it.
func (k *kubernetes) node(i int) *daemon {
	name := fmt.Sprintf("node-%d", i)
	k.api.Create(name, fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:10:244:%x::/64", i))
	d := k.daemon(i, "--kube-subnet-mgr", "--kube-api-url", k.door.URL, "--net-config-path", k.config)
	d.env = []string{"NODE_NAME=" + name}
	return d
}

// network is the status of the condition NetworkUnavailable of a Node.
func (k *kubernetes) network(i int) corev1.NodeCondition {
	n := k.api.Node(fmt.Sprintf("node-%d", i))
	if n == nil {
		return corev1.NodeCondition{}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func TestKubernetesNodes(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, 3)
	var daemons []*daemon
	for i := range k.Nodes {
		daemons = append(daemons, k.node(i).start())
	}
	for _, d := range daemons {
		d.awaitReady(2)
	}
	mtu := 1430 // of IPv6 in VXLAN, the smaller one
	pods := k.pods()
	k.mesh(pods, mtu)
	eventually(t, 10*time.Second, func() error {
		for i := range k.Nodes {
			if c := k.network(i); c.Status != corev1.ConditionFalse || c.Reason != "FlannelIsUp" {
				return fmt.Errorf("node %d: %+v", i, c)
			}
		}
		return nil
	})
	before := k.api.Node("node-1").Annotations
	for _, key := range []string{"backend-data", "backend-v6-data"} {
		if !strings.HasPrefix(before[annotation+key], `{"VNI":1,"VtepMAC":"`) {
			t.Errorf("%s is %q", key, before[annotation+key])
		}
	}

	t.Run("the API server is away, and a node restarts", func(_ *testing.T) {
		k.door.Shut()
		daemons[1].awaitLog("the Nodes can't be followed")
		daemons[1].stop()
		daemons[1].start().awaitReady(2)
		k.mesh(pods, mtu)
		k.door.Reopen()
		daemons[1].awaitLog("the Nodes are followed again")
	})
	t.Run("a node of flannel's comes", func(t *testing.T) {
		k.api.Create("flannel", "10.244.9.0/24", "fd00:10:244:9::/64")
		k.api.Annotate("flannel", map[string]string{
			annotation + "kube-subnet-manager": "true", annotation + "backend-type": "vxlan",
			annotation + "public-ip": "192.168.77.99", annotation + "public-ipv6": "fd77::99",
			annotation + "backend-data":    `{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`,
			annotation + "backend-v6-data": `{"VNI":1,"VtepMAC":"9e:04:53:d1:2a:77"}`,
		})
		for _, d := range daemons {
			d.awaitReady(3)
		}
		if d := cmp.Diff(before, k.api.Node("node-1").Annotations); d != "" {
			t.Errorf("what node-1 announces has changed (-before +now):\n%s", d)
		}
		k.api.Delete("flannel")
		for _, d := range daemons {
			d.awaitReady(2)
		}
	})
	t.Run("a node is installed anew, without its state", func(t *testing.T) {
		daemons[2].stop()
		if err := os.RemoveAll(filepath.Join(k.Nodes[2].Dir, "state")); err != nil {
			t.Fatal(err)
		}
		for _, device := range []string{"flannel.1", "flannel-v6.1"} {
			if err := k.Nodes[2].Do(func() error { return deleteLink(device) }); err != nil {
				t.Fatal(err)
			}
		}
		was := k.api.Node("node-2").Annotations
		daemons[2].start().awaitReady(2)
		if d := cmp.Diff(was, k.api.Node("node-2").Annotations); d != "" {
			t.Errorf("its MAC has changed (-before +now):\n%s", d)
		}
		k.mesh(pods, mtu)
	})
	t.Run("an idle cluster writes nothing", func(t *testing.T) {
		writes := k.api.Counts()["patch nodes/status"]
		k.mesh(pods, mtu)
		if now := k.api.Counts()["patch nodes/status"]; now != writes {
			t.Errorf("%d writes", now-writes)
		}
	})
	t.Run("the Node is deleted and comes again", func(_ *testing.T) {
		k.api.Delete("node-0")
		daemons[1].awaitReady(1)
		k.api.Create("node-0", "10.244.0.0/24", "fd00:10:244::/64")
		for _, d := range daemons {
			d.awaitReady(2)
		}
		k.mesh(pods, mtu)
	})
}
