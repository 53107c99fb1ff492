package kube_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
	"github.com/weftnet/weft/subnet/storetest"
	"github.com/weftnet/weft/test/kube/apiserver"
)

const (
	prefix  = "flannel.alpha.coreos.com/"
	network = `{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}`
	vtep    = `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`
)

// cords are the ways of one test to a cluster.
type cords struct {
	*cluster
	config string // the network configuration's file
}

// tie gives a test the cluster, without any Node.
func (c *cluster) tie(t testing.TB) *cords {
	t.Helper()
	c.clear(t)
	return &cords{c, filepath.Join(t.TempDir(), "net-conf.json")}
}

// configure replaces the file as the kubelet would: at once.
func (c *cords) configure(t testing.TB, raw string) {
	t.Helper()
	next := c.config + ".next"
	if err := os.WriteFile(next, []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, c.config); err != nil {
		t.Fatal(err)
	}
}

// open makes a store of node-1, as the service account.
func (c *cords) open(t testing.TB, url string, change ...func(*kube.Options)) *kube.Store {
	t.Helper()
	return c.openAs(t, url, apiserver.Credentials{Token: c.token}, change...)
}

func (c *cords) openAs(t testing.TB, url string, as apiserver.Credentials, change ...func(*kube.Options)) *kube.Store {
	t.Helper()
	o := kube.Options{
		Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), Node: "node-1", ConfigFile: c.config, KeepCondition: true,
	}
	if err := c.server.Kubeconfig(o.Kubeconfig, url, as); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&o)
	}
	s, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// create registers a Node as the kubelet and the controller manager do.
func (c *cluster) create(t testing.TB, name string, podCIDRs ...string) {
	t.Helper()
	n := nodeOf(name, podCIDRs...)
	if _, err := c.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func nodeOf(name string, podCIDRs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	return n
}

func (c *cluster) node(t testing.TB, name string) *corev1.Node {
	t.Helper()
	n, err := c.admin.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (c *cluster) remove(t testing.TB, name string) {
	t.Helper()
	if err := c.admin.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// change changes a Node, by its spec and metadata or by its status.
func (c *cluster) change(t testing.TB, name string, f func(*corev1.Node)) {
	t.Helper()
	retry(t, "change "+name, func() error {
		n := c.node(t, name)
		f(n)
		_, err := c.admin.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{})
		return err
	})
}

// assign gives a Node its pod subnet, as the controller manager does, once.
func (c *cluster) assign(t testing.TB, name, podCIDR string) {
	t.Helper()
	c.change(t, name, func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = podCIDR, []string{podCIDR} })
}

func (c *cluster) annotate(t testing.TB, name string, values map[string]string) {
	t.Helper()
	c.change(t, name, func(n *corev1.Node) {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		for key, value := range values {
			n.Annotations[key] = value
			if value == "" {
				delete(n.Annotations, key)
			}
		}
	})
}

// announces are the annotations of a Node with flannel or weft on it.
func announces(ip string) map[string]string {
	return map[string]string{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
		prefix + "backend-data": vtep, prefix + "public-ip": ip,
	}
}

// join adds a Node that announces something.
func (c *cluster) join(t testing.TB, name, podCIDR, ip string) {
	t.Helper()
	n := nodeOf(name, podCIDR)
	n.Annotations = announces(ip)
	if _, err := c.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// give makes the claim's Node with the n-th pod subnets of the networks, n
// being the number in its name. As podCIDRs can't be changed, a Node that has
// others is made anew.
func (c *cords) give(t *testing.T, claim subnet.Claim) {
	var n int
	if _, err := fmt.Sscanf(claim.Node, "node-%d", &n); err != nil {
		t.Fatal(err)
	}
	var podCIDRs []string
	for _, network := range claim.Config.Networks {
		podCIDRs = append(podCIDRs, nth(netip.PrefixFrom(network.Prefix.Addr(), network.SubnetLen), n).String())
	}
	have := c.node(t, claim.Node)
	if have != nil && slices.Equal(have.Spec.PodCIDRs, podCIDRs) {
		return
	}
	if have != nil {
		c.remove(t, claim.Node)
	}
	c.nextSecond(t)
	c.create(t, claim.Node, podCIDRs...)
}

// nextSecond waits until no Node was made in this second: two of one second
// have an order, but not that in which they were made.
func (c *cluster) nextSecond(t testing.TB) {
	t.Helper()
	all, err := c.admin.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next second", func() error {
		for _, n := range all.Items {
			if now := time.Now().Unix(); n.CreationTimestamp.Unix() >= now {
				return fmt.Errorf("node %s was made in second %d", n.Name, now)
			}
		}
		return nil
	})
}

// nth is the subnet n behind a first one.
func nth(first netip.Prefix, n int) netip.Prefix {
	b := first.Addr().AsSlice()
	for bit := first.Bits() - 1; n > 0 && bit >= 0; bit-- {
		mask := byte(1) << (7 - bit%8)
		if n&1 == 1 {
			b[bit/8] |= mask
		}
		n >>= 1
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, first.Bits())
}

// rewrite makes a Node say what a lease says, as another daemon would.
func (c *cords) rewrite(t *testing.T, l subnet.Lease) {
	values := map[string]string{prefix + "backend-type": l.Backend}
	for _, s := range l.Shares {
		ip, data := "public-ip", "backend-data"
		if s.Public.Is6() {
			ip, data = "public-ipv6", "backend-v6-data"
		}
		values[prefix+ip] = s.Public.String()
		values[prefix+data] = cmp.Or(string(s.Data), "null")
	}
	c.annotate(t, l.Node, values)
}

func TestStore(t *testing.T) {
	t.Parallel()
	whole := own(t)
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		c := whole.tie(t)
		door := c.openDoor(t)
		return storetest.Harness{
			Store:     c.open(t, door.URL),
			Client:    func(t *testing.T) subnet.Store { return c.open(t, c.server.URL()) },
			SetConfig: func(t *testing.T, raw string) { c.configure(t, raw) },
			Delete:    func(t *testing.T, l subnet.Lease) { c.remove(t, l.Node) },
			Rewrite:   c.rewrite,
			Give:      c.give,
			PutMalformed: func(t *testing.T) string {
				c.create(t, "hostile", "10.9.200.0/24")
				bad := announces("192.0.2.200")
				bad[prefix+"backend-data"] = strings.Repeat("[", 200<<10) // of 256 KiB, the most that a Node may have
				c.annotate(t, "hostile", bad)
				return "hostile"
			},
			Cut:  func(*testing.T) { door.Shut() },
			Heal: func(*testing.T) { door.Reopen() },
		}
	})
}

func short(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func claimOf(t testing.TB, raw string) subnet.Claim {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := subnet.Claim{Config: cfg, Backend: cfg.Backend}
	for _, n := range cfg.Networks {
		public := netip.MustParseAddr("192.0.2.1")
		if n.Prefix.Addr().Is6() {
			public = netip.MustParseAddr("2001:db8::1")
		}
		c.Shares = append(c.Shares, subnet.Share{Public: public, Data: []byte(vtep)})
	}
	return c
}

func acquire(t testing.TB, s *kube.Store, raw string) subnet.Lease {
	t.Helper()
	l, err := s.Acquire(short(t), claimOf(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// hold runs Hold until the test ends.
func hold(t testing.TB, s *kube.Store, l subnet.Lease) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- s.Hold(ctx, l) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return ended
}

// follow runs Watch until the test ends, and gives its snapshots until one is
// as it should be.
func follow(t testing.TB, s *kube.Store) func(what string, wanted func(subnet.Snapshot) bool) subnet.Snapshot {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	to, ended := make(chan subnet.Snapshot), make(chan error, 1)
	go func() { ended <- s.Watch(ctx, to) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended by %v", err)
		}
	})
	return func(what string, wanted func(subnet.Snapshot) bool) subnet.Snapshot {
		t.Helper()
		deadline := time.NewTimer(patience)
		defer deadline.Stop()
		for {
			select {
			case got := <-to:
				if wanted(got) {
					return got
				}
			case <-deadline.C:
				t.Fatalf("waited %s for %s", patience, what)
			}
		}
	}
}

// has tells whether exactly these Nodes have leases.
func has(names ...string) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool {
		var have []string
		for _, l := range s.Leases {
			have = append(have, l.Node)
		}
		slices.Sort(have)
		return slices.Equal(names, have)
	}
}

func receive(t testing.TB, from <-chan error) error {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-from:
		return err
	case <-timer.C:
		t.Fatalf("waited %s", patience)
		return nil
	}
}

func ownNode(name string) func(*kube.Options) {
	return func(o *kube.Options) { o.Node = name }
}

func logTo(log logrus.FieldLogger) func(*kube.Options) {
	return func(o *kube.Options) { o.Log = log }
}
