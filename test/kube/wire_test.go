package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
)

// Annotations as the server gives them back, byte for byte.
func TestAnnotations(t *testing.T) {
	managed := map[string]string{prefix + "kube-subnet-manager": "true", "example.com/other": `{"stays": 1}`}
	vxlan := map[string]string{prefix + "backend-type": "vxlan"}
	four := map[string]string{prefix + "public-ip": "192.0.2.1", prefix + "backend-data": vtep}
	six := map[string]string{prefix + "public-ipv6": "2001:db8::1", prefix + "backend-v6-data": vtep}
	for name, tt := range map[string]struct {
		podCIDRs []string
		config   string
		user     map[string]string
		want     []map[string]string
	}{
		"vxlan": {[]string{"10.9.1.0/24"}, network, nil, []map[string]string{vxlan, four}},
		"vxlan of both families": {
			[]string{"10.9.1.0/24", "fd09:0:0:1::/64"},
			`{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`,
			nil, []map[string]string{vxlan, four, six},
		},
		"vxlan of IPv6": {
			[]string{"fd09:0:0:1::/64"},
			`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`,
			nil, []map[string]string{vxlan, six},
		},
		"host-gw": {
			[]string{"10.9.1.0/24"}, `{"Network":"10.9.0.0/16","Backend":{"Type":"host-gw"}}`, nil,
			[]map[string]string{{
				prefix + "backend-type": "host-gw", prefix + "backend-data": "null", prefix + "public-ip": "192.0.2.1",
			}},
		},
		"an address of the user's": {
			[]string{"10.9.1.0/24"}, network,
			map[string]string{prefix + "public-ip-overwrite": "203.0.113.7", prefix + "node-public-ip": "192.0.2.1"},
			[]map[string]string{vxlan, four, {prefix + "public-ip": "203.0.113.7"}},
		},
		"in place of what stood there": {
			[]string{"10.9.1.0/24"}, network, map[string]string{prefix + "public-ipv6": "fd77::9"},
			[]map[string]string{vxlan, four, {prefix + "public-ipv6": ""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := shared.tie(t)
			c.create(t, "node-1", tt.podCIDRs...)
			c.annotate(t, "node-1", map[string]string{"example.com/other": `{"stays": 1}`})
			c.annotate(t, "node-1", tt.user)
			s := c.open(t, c.server.URL())
			claim := claimOf(t, tt.config)
			if claim.Backend == "host-gw" {
				claim.Shares[0].Data = nil
			}
			first, err := s.Acquire(short(t), claim)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, part := range slices.Concat([]map[string]string{managed, tt.user}, tt.want) {
				for key, value := range part {
					want[key] = value
					if value == "" {
						delete(want, key)
					}
				}
			}
			n := c.node(t, "node-1")
			if diff := gocmp.Diff(want, n.Annotations); diff != "" {
				t.Errorf("annotations (-want +have):\n%s", diff)
			}
			again, err := s.Acquire(short(t), claim)
			if err != nil || again.ID != first.ID || c.node(t, "node-1").ResourceVersion != n.ResourceVersion {
				t.Errorf("the same again wrote something: %+v, %v", again, err)
			}
		})
	}
}

// The watch begins with all Nodes, in protobuf, and is the only one.
func TestStreamedList(t *testing.T) {
	c := shared.tie(t)
	c.join(t, "node-2", "10.9.2.0/24", "192.0.2.2")
	c.create(t, "node-1", "10.9.1.0/24")
	door := c.openDoor(t)
	s := c.open(t, door.URL)
	next := follow(t, s)
	next("node-2", has("node-2"))
	hold(t, s, acquire(t, s, network))
	next("ours", has("node-1", "node-2"))
	want := []string{
		"STREAM 200 OK application/vnd.kubernetes.protobuf;stream=watch",
		"GET 200 OK application/vnd.kubernetes.protobuf",
		"PATCH 200 OK application/vnd.kubernetes.protobuf",
	}
	if diff := gocmp.Diff(want, door.passed()); diff != "" {
		t.Errorf("requests (-want +have):\n%s", diff)
	}
}

// Servers before 1.32 have the streamed list off.
func TestWithoutStreamedLists(t *testing.T) {
	t.Parallel()
	c := own(t, "--feature-gates=WatchList=false").tie(t)
	c.join(t, "node-2", "10.9.2.0/24", "192.0.2.2")
	door := c.openDoor(t)
	next := follow(t, c.open(t, door.URL))
	next("node-2", has("node-2"))
	c.join(t, "node-3", "10.9.3.0/24", "192.0.2.3")
	next("node-3", has("node-2", "node-3"))
	want := []string{
		"STREAM 422 Unprocessable Entity application/vnd.kubernetes.protobuf",
		"LIST 200 OK application/vnd.kubernetes.protobuf",
		"WATCH 200 OK application/vnd.kubernetes.protobuf;stream=watch",
	}
	if diff := gocmp.Diff(want, door.passed()); diff != "" {
		t.Errorf("requests (-want +have):\n%s", diff)
	}
}

// A kubelet that writes between our reading and our writing is a conflict, and
// decided upon anew.
func TestConflict(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	door := c.openDoor(t)
	var beats atomic.Int32
	door.Before(func(r *http.Request) {
		if r.Method == http.MethodPatch && beats.Add(1) <= 3 {
			if err := c.tryBeat(r.Context(), "node-1"); err != nil {
				t.Error(err)
			}
		}
	})
	s := c.open(t, door.URL)
	ended := hold(t, s, acquire(t, s, network))
	if err := s.SetNetworkAvailable(short(t), true, ""); err != nil {
		t.Error(err)
	}
	conflicts := 0
	for _, what := range door.passed() {
		if strings.HasPrefix(what, "PATCH 409") {
			conflicts++
		}
	}
	if conflicts != 3 {
		t.Errorf("want 3 conflicts, have %v", door.passed())
	}
	n := c.node(t, "node-1")
	if n.Annotations[prefix+"backend-data"] != vtep || len(n.Status.Conditions) != 2 {
		t.Errorf("something was lost: %v, %v", n.Annotations, n.Status.Conditions)
	}
	select {
	case err := <-ended:
		t.Errorf("Hold ended by %v", err)
	default:
	}
}

// beat is a kubelet's heartbeat.
func (c *cluster) beat(t testing.TB, name string) {
	t.Helper()
	retry(t, "beat "+name, func() error { return c.tryBeat(t.Context(), name) })
}

func (c *cluster) tryBeat(ctx context.Context, name string) error {
	n, err := c.admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	at := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if at < 0 {
		at = len(n.Status.Conditions)
		n.Status.Conditions = append(n.Status.Conditions,
			corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"})
	}
	ready := &n.Status.Conditions[at]
	ready.LastHeartbeatTime = metav1.NewTime(ready.LastHeartbeatTime.Add(10 * time.Second))
	_, err = c.admin.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return err
}

// The condition is one among the kubelet's, and is written when it changes.
func TestCondition(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.beat(t, "node-1")
	s := c.open(t, c.server.URL())
	before := c.node(t, "node-1").Status.Conditions
	for _, tt := range []struct {
		ready  bool
		reason string
		want   corev1.NodeCondition
	}{
		{true, "", corev1.NodeCondition{
			Type: "NetworkUnavailable", Status: "False", Reason: "FlannelIsUp", Message: "Flannel is running on this node",
		}},
		{false, "uplink: eth0 is gone", corev1.NodeCondition{
			Type: "NetworkUnavailable", Status: "True", Reason: "WeftIsNotReady", Message: "uplink: eth0 is gone",
		}},
	} {
		var revision string
		for range 2 {
			if err := s.SetNetworkAvailable(short(t), tt.ready, tt.reason); err != nil {
				t.Fatal(err)
			}
			n := c.node(t, "node-1")
			times := cmpopts.IgnoreTypes(metav1.Time{})
			// A merge puts what is new before what was there.
			if diff := gocmp.Diff(append([]corev1.NodeCondition{tt.want}, before...), n.Status.Conditions, times); diff != "" {
				t.Errorf("conditions (-want +have):\n%s", diff)
			}
			if revision != "" && n.ResourceVersion != revision {
				t.Error("the same again wrote something")
			}
			revision = n.ResourceVersion
		}
	}
}

// A server that gives the list in pages is read to the end, and from the
// beginning again if the history ends in between: no page is ever taken for
// the whole.
func TestAListInPages(t *testing.T) {
	t.Parallel()
	c := own(t, "--feature-gates=WatchList=false,ListFromCacheSnapshot=false").tie(t)
	var names []string
	for i := 2; i < 7; i++ {
		names = append(names, fmt.Sprintf("node-%d", i))
		c.join(t, names[i-2], fmt.Sprintf("10.9.%d.0/24", i), fmt.Sprintf("192.0.2.%d", i))
	}
	door := c.openDoor(t)
	var pages atomic.Int32
	second, compacted := make(chan struct{}), make(chan struct{})
	door.Before(func(r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/api/v1/nodes" || q.Get("watch") != "" {
			return
		}
		q.Set("limit", "2")
		q.Del("resourceVersion") // or the cache answers, which knows no pages
		r.URL.RawQuery = q.Encode()
		if pages.Add(1) == 2 {
			close(second)
			<-compacted
		}
	})
	next := follow(t, c.open(t, door.URL))
	<-second
	c.join(t, "node-7", "10.9.7.0/24", "192.0.2.7")
	c.compact(t)
	close(compacted)
	next("all", func(s subnet.Snapshot) bool {
		if len(s.Leases) < len(names) {
			t.Errorf("a page was taken for the whole: %+v", s.Leases)
		}
		return has(append(names, "node-7")...)(s)
	})
	const protobuf = " application/vnd.kubernetes.protobuf"
	want := []string{
		"STREAM 422 Unprocessable Entity" + protobuf, "LIST 200 OK" + protobuf, "LIST 410 Gone" + protobuf,
		"LIST 200 OK" + protobuf, "LIST 200 OK" + protobuf, "LIST 200 OK" + protobuf, "WATCH 200 OK" + protobuf + ";stream=watch",
	}
	eventually(t, "the requests", func() error {
		if diff := gocmp.Diff(want, door.passed()); diff != "" {
			return fmt.Errorf("-want +have:\n%s", diff)
		}
		return nil
	})
}
