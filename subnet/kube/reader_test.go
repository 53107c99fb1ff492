package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
)

// reader makes a Reader with a door of its own.
func (c *cluster) reader(t *testing.T, change ...func(*kube.Options)) *kube.Reader {
	t.Helper()
	o := kube.Options{URL: c.Open(t).URL, ConfigFile: c.config}
	for _, f := range change {
		f(&o)
	}
	r, err := kube.NewReader(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// announced makes a Node with a lease.
func (c *cluster) announced(name, podCIDR, public string) {
	c.Create(name, podCIDR)
	c.Annotate(name, map[string]string{
		annotation + "kube-subnet-manager": "true", annotation + "backend-type": "vxlan", annotation + "public-ip": public,
		annotation + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`,
	})
}

const annotation = "flannel.alpha.coreos.com/"

// A Reader gives all Nodes of several pages, by requests that end.
func TestReaderReadsAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.configure(t, `{"Network":"10.9.0.0/16"}`)
	const nodes = 1203
	for i := range nodes {
		podCIDR, public := fmt.Sprintf("10.9.%d.%d/28", i/16, i%16*16), fmt.Sprintf("192.0.%d.%d", i/256, i%256)
		c.announced(fmt.Sprintf("node-%d", i), podCIDR, public)
	}
	c.Change("node-7", func(n *corev1.Node) { n.Status.NodeInfo.MachineID = "8d1ab2" })
	c.Create("no-weft", "10.9.200.0/24")
	c.Annotate("node-9", map[string]string{annotation + "public-ip": "nonsense"})
	c.Annotate("node-8", map[string]string{annotation + "kube-subnet-manager": ""})
	s, members, err := c.reader(t).Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Leases) != nodes-2 || len(members) != nodes+1 || s.Revision != c.Revision() || len(s.Config.Networks) != 1 {
		t.Errorf("%d leases, %d Nodes, revision %d, %+v", len(s.Leases), len(members), s.Revision, s.Config)
	}
	bad := []subnet.Skipped{{
		ID: "node-9", Node: "node-9", Field: annotation + "public-ip", Reason: `"nonsense" is not an address`,
	}}
	if d := cmp.Diff(bad, s.Malformed); d != "" {
		t.Errorf("malformed (-want +have):\n%s", d)
	}
	born := c.Node("node-7").CreationTimestamp.UTC()
	if d := cmp.Diff(kube.Member{Born: born, Machine: "8d1ab2"}, members["node-7"]); d != "" {
		t.Errorf("node-7 (-want +have):\n%s", d)
	}
	if d := cmp.Diff(map[string]int{"list nodes": 3}, c.Counts()); d != "" {
		t.Errorf("requests (-want +have):\n%s", d)
	}
}

func TestReaderOfAnotherPrefix(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.announced("node-1", "10.9.1.0/24", "192.0.2.1")
	r := c.reader(t, func(o *kube.Options) { o.Prefix = "weft.example.org/a" })
	s, members, err := r.Leases(t.Context())
	if err != nil || len(s.Leases) != 0 || len(members) != 1 || len(s.Config.Networks) != 0 || len(s.Malformed) != 0 {
		t.Errorf("have %+v, %+v, %v", s, members, err)
	}
}

func TestReaderFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.reader(t)
	c.Refuse("list nodes", http.StatusForbidden)
	_, _, err := r.Leases(t.Context())
	if err == nil || !strings.Contains(err.Error(), "forbidden") || !strings.Contains(err.Error(), "kubernetes.md") {
		t.Errorf("want the cause and the next step, have %v", err)
	}
	c.Refuse("list nodes", 0)
	c.configure(t, `{"Network":`)
	s, _, err := r.Leases(t.Context())
	if err != nil || len(s.Malformed) != 1 || s.Malformed[0].ID != c.config {
		t.Errorf("a damaged configuration: have %+v, %v", s, err)
	}
	if _, err := kube.NewReader(kube.Options{Prefix: "a/b/c", URL: "http://127.0.0.1:1"}); err == nil {
		t.Error("a prefix that is none was taken")
	}
	if _, err := kube.NewReader(kube.Options{Kubeconfig: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a kubeconfig that is not there was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Leases(ctx); err == nil {
		t.Error("a list outlived its context")
	}
}

// What is denied is told, and nothing else.
func TestDenied(t *testing.T) {
	t.Parallel()
	all := []string{"create events", "get nodes", "list nodes", "patch nodes/status", "watch nodes"}
	inPod := func(o *kube.Options) { o.PodName, o.PodSpace = "weft-abc", "kube-weft" }
	for name, c := range map[string]struct {
		refused, want []string
		change        func(*kube.Options)
	}{
		"nothing":                       {nil, nil, func(*kube.Options) {}},
		"one":                           {[]string{"patch nodes/status"}, []string{"patch nodes/status"}, func(*kube.Options) {}},
		"a pod's, which nobody needs":   {[]string{"get pods"}, nil, func(o *kube.Options) { o.Node = "node-1"; inPod(o) }},
		"a pod's, which tells our Node": {[]string{"get pods"}, []string{"get pods"}, inPod},
		"all":                           {all, all, func(*kube.Options) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t)
			for _, what := range c.refused {
				cluster.Refuse(what, http.StatusForbidden)
			}
			denied, err := cluster.reader(t, c.change).Denied(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			have := map[string]bool{}
			for _, p := range denied {
				have[p.Verb+" "+p.Resource] = p.Minor
			}
			if d := cmp.Diff(c.want, slices.Sorted(maps.Keys(have))); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
			for what, minor := range have {
				if minor != (what == "create events") {
					t.Errorf("%s is minor: %t", what, minor)
				}
			}
		})
	}
}

func TestReadersClock(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.reader(t)
	if _, _, told := r.Clock(); told {
		t.Error("a clock was told before anything was asked")
	}
	c.SetClock(-5 * time.Minute)
	if _, err := r.Denied(t.Context()); err != nil {
		t.Fatal(err)
	}
	skew, took, told := r.Clock()
	if !told || took <= 0 || skew < -6*time.Minute || skew > -4*time.Minute {
		t.Errorf("have %s, after %s, %t", skew, took, told)
	}
}
