package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/tlstest"
	"github.com/weftnet/weft/pkg/topology"
)

// second is a second weftd on a node, for another network: it shares nothing
// with the first but the host.
func (c *cluster) second(i int, extra ...string) *daemon {
	c.t.Helper()
	node := &topology.Node{Namespace: c.Nodes[i].Namespace, Dir: filepath.Join(c.Nodes[i].Dir, "2"), Bridge: "cni2"}
	if err := os.MkdirAll(node.Dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	args := append([]string{
		"--subnet-file", node.SubnetFile(), "--state-dir", filepath.Join(node.Dir, "state"),
		"--attachments-dir", node.Attachments(),
		"--socket", filepath.Join(node.Dir, "weftd.sock"), "--healthz-port", "10249",
	}, extra...)
	d := c.daemon(i, args...)
	d.node = node
	return d
}

func (c *cluster) pod(n *topology.Node, name string) *topology.Pod {
	c.t.Helper()
	pod, err := n.AddPod(c.t.Context(), filepath.Join(bin, "weft"), name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.serve(&pod.Namespace)
	return pod
}

// TestTwoNetworksOnOneHost: on each of two nodes run two daemons.
func TestTwoNetworksOnOneHost(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	networks := []struct {
		prefix, config string
		daemon         func(int, ...string) *daemon
	}{
		{"/blue", `{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}`, c.daemon},
		{"green/", `{"Network":"10.43.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan","VNI":2}}`, c.second},
	}
	var daemons []*daemon
	for n, network := range networks {
		for i := range c.Nodes {
			args := []string{"--etcd-prefix", network.prefix}
			if n == 0 && i == 0 {
				args = append(args, c.storeArgs()...)
			}
			daemons = append(daemons, network.daemon(i, args...).start())
		}
		daemons[0].awaitLog("configuration")
		c.etcdctl("put", strings.TrimSuffix(network.prefix, "/")+"/config", network.config)
	}
	var pods [2][]*topology.Pod
	for i, d := range daemons {
		d.awaitReady(1)
		pods[i/2] = append(pods[i/2], c.pod(d.node, string("ab"[i/2])))
	}
	for _, of := range pods {
		c.mesh(of, 1450)
	}
	out := c.etcdctl("get", "--prefix", "", "--keys-only")
	for _, want := range []string{"/blue/subnets/10.42.", "\ngreen/subnets/10.43."} {
		if strings.Count(out, want) != 2 {
			t.Errorf("want two keys of %q, have\n%s", want, out)
		}
	}
	// What the second network does leaves the first alone, and the other way
	// round: none finds anything to write.
	ops := func(d *daemon) int {
		s, err := d.status()
		if err != nil {
			t.Fatal(err)
		}
		return s.Ops
	}
	for _, pair := range [][2]*daemon{{daemons[0], daemons[2]}, {daemons[2], daemons[0]}} {
		still, busy := pair[0], pair[1]
		still.awaitPlanEmpty()
		before := ops(still)
		if busy != daemons[0] { // the store stays
			busy.kill()
			if err := busy.node.Do(func() error { return deleteLink("flannel.2") }); err != nil {
				t.Fatal(err)
			}
			busy.start().awaitReady(1)
		}
		busy.awaitPlanEmpty()
		still.awaitPlanEmpty()
		if after := ops(still); after != before {
			t.Errorf("%s %s wrote %d entries because of the other network", still.node.Name, still.log(), after-before)
		}
	}
	for _, of := range pods {
		c.mesh(of, 1450)
	}
}

// secure is a cluster of which three nodes keep the store, with TLS.
type secure struct {
	*cluster
	ca        *tlstest.CA
	peers     []string
	endpoints []string
}

func newSecure(t *testing.T, nodes int) *secure {
	t.Helper()
	c := newCluster(t, nodes, underlay4)
	s := &secure{cluster: c, ca: tlstest.New(t, c.Nodes[0].Dir, "ca")}
	for i, n := range c.Nodes {
		s.ca.Issue(filepath.Join(n.Dir, "cert.pem"), filepath.Join(n.Dir, "key.pem"),
			tlstest.Cert{Name: n.Name, Addrs: n.Addrs})
		if i < 3 {
			s.peers = append(s.peers, fmt.Sprintf("n%d=https://%s", i, netip.AddrPortFrom(n.Addrs[0], 2380)))
			s.endpoints = append(s.endpoints, "https://"+netip.AddrPortFrom(n.Addrs[0], 2379).String())
		}
	}
	return s
}

// member prepares one of the three.
func (s *secure) member(i int) *daemon {
	dir := s.Nodes[i].Dir
	return s.daemon(i, "--embedded-etcd", "--embedded-etcd-data", filepath.Join(dir, "etcd"),
		"--embedded-etcd-listen", s.endpoints[i], "--embedded-etcd-name", fmt.Sprint("n", i),
		"--embedded-etcd-peers", strings.Join(s.peers, ","), "--embedded-etcd-cafile", s.ca.File,
		"--embedded-etcd-certfile", filepath.Join(dir, "cert.pem"), "--embedded-etcd-keyfile", filepath.Join(dir, "key.pem"),
		"--network=10.42.0.0/16")
}

// client prepares a node that is none of them.
func (s *secure) client(i int, extra ...string) *daemon {
	dir := s.Nodes[i].Dir
	return s.daemon(i, append([]string{
		"--etcd-endpoints", strings.Join(s.endpoints, ","), "--etcd-cafile", s.ca.File,
		"--etcd-certfile", filepath.Join(dir, "cert.pem"), "--etcd-keyfile", filepath.Join(dir, "key.pem"),
	}, extra...)...)
}

// etcdctl runs on a node that is none of the three.
func (s *secure) etcdctl(args ...string) string {
	s.t.Helper()
	n := s.Nodes[3]
	out, err := output(s.t, &n.Namespace, filepath.Join(bin, "etcdctl"), append([]string{
		"--endpoints", strings.Join(s.endpoints, ","), "--cacert", s.ca.File,
		"--cert", filepath.Join(n.Dir, "cert.pem"), "--key", filepath.Join(n.Dir, "key.pem"),
	}, args...)...)
	if err != nil {
		s.t.Fatalf("etcdctl %v: %v\n%s", args, err, out)
	}
	return out
}

// leader is the number of the member that leads.
func (s *secure) leader() int {
	s.t.Helper()
	var all []struct {
		Endpoint string
		Status   struct {
			Header struct {
				MemberID uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		}
	}
	if err := json.Unmarshal([]byte(s.etcdctl("endpoint", "status", "-w", "json")), &all); err != nil {
		s.t.Fatal(err)
	}
	for _, m := range all {
		if m.Status.Leader == m.Status.Header.MemberID {
			return slices.Index(s.endpoints, m.Endpoint)
		}
	}
	s.t.Fatalf("nobody leads: %+v", all)
	return -1
}

// TestThreeNodesKeepTheStore: three members, of which the leader is killed; the
// others go on, and a node that comes then gets its lease and its peers.
func TestThreeNodesKeepTheStore(t *testing.T) {
	s := newSecure(t, 5)
	var daemons []*daemon
	for i := range 3 {
		daemons = append(daemons, s.member(i).start())
	}
	daemons = append(daemons, s.client(3).start())
	var pods []*topology.Pod
	for _, d := range daemons {
		d.awaitReady(3)
		pods = append(pods, s.pod(d.node, "a"))
	}
	s.mesh(pods, 1450)

	leader := s.leader()
	begun := time.Now()
	daemons[leader].kill()
	fifth := s.client(4).start()
	fifth.awaitReady(4)
	for i, d := range daemons {
		if i != leader {
			d.awaitReady(4)
		}
	}
	t.Logf("a node joined, and all knew it, %s after kill -9 of the leader", time.Since(begun).Round(time.Millisecond))
	s.mesh(pods, 1450) // the killed daemon's pods, too: its kernel goes on, with the peers that it knows
	survivors := slices.Delete(slices.Clone(pods), leader, leader+1)
	pods = append(pods, s.pod(fifth.node, "a"))
	s.mesh(append(survivors, pods[4]), 1450)
	if n := strings.Count(s.etcdctl("get", "--prefix", "/coreos.com/network/subnets/", "--keys-only"), "10.42."); n != 5 {
		t.Errorf("%d leases, want 5", n)
	}
	before := pods[leader].Addrs[0]
	back := daemons[leader].start().awaitReady(4)
	if !strings.HasPrefix(back.Node.Lease, strings.TrimSuffix(before.String(), fmt.Sprint(before.As4()[3]))) {
		t.Errorf("the member that is back has lease %s; its pod has %s", back.Node.Lease, before)
	}
	for _, d := range append(daemons, fifth) {
		d.awaitPlanEmpty()
	}
	s.mesh(pods, 1450)
}

// TestPasswordsStayInside: neither right nor wrong passwords get into a log.
func TestPasswordsStayInside(t *testing.T) {
	c := newCluster(t, 3, underlay4)
	auth := []string{"--etcd-username=root", "--etcd-password=sesame-right", "--log-level=debug"}
	store := c.daemon(0, append(c.storeArgs("--network=10.42.0.0/16"), auth...)...).start()
	store.awaitReady(0) // a login without authentication being enabled is none
	c.etcdctl("user", "add", "root", "--new-user-password=sesame-right")
	c.etcdctl("user", "grant-role", "root", "root")
	c.etcdctl("auth", "enable")
	right := c.daemon(1, auth...).start()
	right.awaitReady(1)
	wrong := c.daemon(2, "--etcd-username=root", "--etcd-password=sesame-wrong", "--log-level=debug").start()
	wrong.awaitLog("authentication failed")
	store.stop()
	store.start().awaitReady(1)
	for _, d := range []*daemon{store, right, wrong} {
		text, err := os.ReadFile(d.log())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "sesame") {
			t.Errorf("the password is in the log of %s", d.node.Name)
		}
	}
}
