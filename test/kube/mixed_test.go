package kube_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
)

// Nodes as flannel v0.28.9 leaves them, in a real server's store.
const fixtures = "../../subnet/kube/testdata"

func (c *cluster) createFixture(t testing.TB, name string) *corev1.Node {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(fixtures, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var n corev1.Node
	if err := json.Unmarshal(raw, &n); err != nil {
		t.Fatal(err)
	}
	n.ResourceVersion, n.UID = "", ""
	have, err := c.admin.CoreV1().Nodes().Create(t.Context(), &n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// What flannel announces is read; a weft that takes the Node over and
// announces the same writes nothing, and the kubelet's part of the Node stays.
func TestTakingANodeOver(t *testing.T) {
	const (
		four   = `"Network":"10.244.0.0/16"`
		six    = `"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48"`
		vxlan  = `,"Backend":{"Type":"vxlan"}}`
		hostGW = `,"Backend":{"Type":"host-gw"}}`
	)
	for name, config := range map[string]string{
		"vxlan":                "{" + four + vxlan,
		"dual":                 "{" + four + "," + six + vxlan,
		"dual-with-overwrites": "{" + four + "," + six + vxlan,
		"six":                  `{"EnableIPv4":false,` + six + vxlan,
		"one-family-of-two":    "{" + four + vxlan,
		"host-gw":              "{" + four + hostGW,
		"host-gw-dual":         "{" + four + "," + six + hostGW,
		"alloc":                "{" + four + `,"Backend":{"Type":"alloc"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := shared.tie(t)
			before := c.createFixture(t, name)
			s := c.open(t, c.server.URL())
			peers := follow(t, s)("the lease", has("node-1")).Leases
			claim := claimOf(t, config)
			for i := range claim.Shares {
				claim.Shares[i].Public = peers[0].Shares[i].Public
				claim.Shares[i].Data = peers[0].Shares[i].Data
				if before.Annotations[prefix+"public-ip-overwrite"] != "" { // ours is another then
					claim.Shares[i].Public = peers[0].Shares[i].Public.Next()
				}
			}
			l, err := s.Acquire(short(t), claim)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(before, c.node(t, "node-1")); diff != "" {
				t.Errorf("the Node (-flannel's +ours):\n%s", diff)
			}
			if l.ID != peers[0].ID || l.Created != peers[0].Created || len(l.Shares) != len(claim.Shares) {
				t.Errorf("want the lease %+v, have %+v", peers[0], l)
			}
		})
	}
}

// Nodes of every kind beside ours are leases, whatever backend they are of:
// which of them is a peer of ours is judged by what ours is.
func TestAMixedCluster(t *testing.T) {
	c := shared.tie(t)
	c.createFixture(t, "appliance") // its podCIDR has host bits, its data no VNI
	c.create(t, "node-9", "10.244.9.0/24")
	s := c.open(t, c.server.URL(), ownNode("node-9"))
	claim := claimOf(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	own, err := s.Acquire(short(t), claim)
	if err != nil {
		t.Fatal(err)
	}
	all := follow(t, s)("both", has("node-1", "node-9"))
	peers, skipped := subnet.Admit(claim.Config, own, all.Leases)
	if len(peers) != 1 || peers[0].ID != "node-1:10.244.1.0/24" || len(skipped)+len(all.Malformed) != 0 {
		t.Errorf("want node-1 as a peer, have %+v; left out: %v %v", peers, skipped, all.Malformed)
	}
}
