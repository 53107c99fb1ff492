package kube_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
	"github.com/weftnet/weft/subnet/kube/kubetest"
	"github.com/weftnet/weft/subnet/storetest"
)

// cluster is an API server and a configuration's file.
type cluster struct {
	*kubetest.Server
	config string
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	return &cluster{Server: kubetest.New(), config: filepath.Join(t.TempDir(), "net-conf.json")}
}

// configure replaces the file as the kubelet would: at once.
func (c *cluster) configure(t testing.TB, raw string) {
	t.Helper()
	next := c.config + ".next"
	if err := os.WriteFile(next, []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, c.config); err != nil {
		t.Fatal(err)
	}
}

// open makes a store of one node, with a door of its own.
func (c *cluster) open(t testing.TB, change ...func(*kube.Options)) (*kube.Store, *kubetest.Door) {
	t.Helper()
	door := c.Open(t)
	o := kube.Options{URL: door.URL, Node: "node-1", ConfigFile: c.config, KeepCondition: true}
	for _, f := range change {
		f(&o)
	}
	s, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, door
}

// give makes the claim's Node with the n-th pod subnets of the networks, n
// being the number in its name. As podCIDRs can't be changed, a Node that has
// others is made anew.
func (c *cluster) give(t *testing.T, claim subnet.Claim) {
	var n int
	if _, err := fmt.Sscanf(claim.Node, "node-%d", &n); err != nil {
		t.Fatal(err)
	}
	var podCIDRs []string
	for _, network := range claim.Config.Networks {
		p := netip.PrefixFrom(network.Min, network.SubnetLen)
		for range n {
			p = next(p)
		}
		podCIDRs = append(podCIDRs, p.String())
	}
	have := c.Node(claim.Node)
	if have != nil && !slices.Equal(have.Spec.PodCIDRs, podCIDRs) {
		c.Delete(claim.Node)
		have = nil
	}
	if have == nil {
		c.Create(claim.Node, podCIDRs...)
	}
}

// next is the subnet behind one.
func next(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	for i, carry := (p.Bits()-1)/8, 1<<(7-(p.Bits()-1)%8); i >= 0 && carry > 0; i-- {
		carry += int(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

const prefix = "flannel.alpha.coreos.com/"

// rewrite makes a Node say what a lease says, as another daemon would.
func (c *cluster) rewrite(l subnet.Lease) {
	values := map[string]string{prefix + "backend-type": l.Backend}
	for _, s := range l.Shares {
		ip, data := "public-ip", "backend-data"
		if s.Public.Is6() {
			ip, data = "public-ipv6", "backend-v6-data"
		}
		values[prefix+ip] = s.Public.String()
		values[prefix+data] = cmp.Or(string(s.Data), "null")
	}
	c.Annotate(l.Node, values)
}

func TestStore(t *testing.T) {
	for name, mode := range map[string]struct{ stream, protobuf bool }{
		"streamed list, protobuf": {true, true},
		"list and watch, JSON":    {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				c := newCluster(t)
				c.Modes(mode.stream, mode.protobuf)
				s, door := c.open(t)
				return storetest.Harness{
					Store: s,
					Client: func(t *testing.T) subnet.Store {
						other, _ := c.open(t)
						return other
					},
					SetConfig: func(t *testing.T, raw string) { c.configure(t, raw) },
					Delete:    func(_ *testing.T, l subnet.Lease) { c.Delete(l.Node) },
					Rewrite:   func(_ *testing.T, l subnet.Lease) { c.rewrite(l) },
					Give:      c.give,
					PutMalformed: func(*testing.T) string {
						c.Create("hostile", "10.9.200.0/24")
						c.Annotate("hostile", map[string]string{
							prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
							prefix + "public-ip": "192.0.2.200", prefix + "backend-data": strings.Repeat("[", 1<<20),
						})
						return "hostile"
					},
					Cut:  func(*testing.T) { door.Shut() },
					Heal: func(*testing.T) { door.Reopen() },
				}
			})
		})
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
