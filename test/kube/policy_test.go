package kube_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/test/kube/apiserver"
)

// daemonOn makes a pod of the DaemonSet on a node, and gives the token that the
// kubelet would mount into it.
func (c *cluster) daemonOn(t testing.TB, node string) string {
	t.Helper()
	no, zero := false, int64(0)
	pods := c.admin.CoreV1().Pods(space)
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: account + "-"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: account, AutomountServiceAccountToken: &no,
			TerminationGracePeriodSeconds: &zero, Containers: []corev1.Container{{Name: "weftd", Image: "weft"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.tokenOf(t.Context(), space, account, &authv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// patcher is who patches the status of Nodes.
type patcher func(node string, content map[string]any) error

func (c *cluster) patcher(t testing.TB, token string) patcher {
	t.Helper()
	config := rest.AnonymousClientConfig(c.server.Admin())
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return func(node string, content map[string]any) error {
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, raw,
			metav1.PatchOptions{}, "status")
		return err
	}
}

type value = map[string]any

func annotations(pairs map[string]any) value {
	return value{"metadata": value{"annotations": pairs}}
}

func conditions(kind, status string) value {
	return value{"status": value{"conditions": []any{
		value{"type": kind, "status": status, "reason": "R", "message": "m"},
	}}}
}

// A daemon's own Node, and what it may write there; what it must not.
func TestThePolicy(t *testing.T) {
	c := shared.tie(t)
	for _, name := range []string{"node-1", "node-2"} {
		c.create(t, name, "10.9.1.0/24")
		c.furnish(t, name)
	}
	bound := c.patcher(t, c.daemonOn(t, "node-1"))
	loose := c.patcher(t, c.token) // has no claim
	ours := annotations(map[string]any{prefix + "backend-data": `{"VNI":1}`, prefix + "public-ip": "192.0.2.1"})
	eventually(t, "the policy to be in force", func() error {
		if err := bound("node-2", ours); !apierrors.IsForbidden(err) {
			return fmt.Errorf("another Node: %w", err)
		}
		return nil
	})
	const foreign, label, other = "no annotations of a Node but its own", "metadata but annotations", "no condition"
	for name, x := range map[string]struct {
		by   patcher
		node string
		what value
		want string // of the refusal; "" is allowed
	}{
		"our annotations":             {bound, "node-1", ours, ""},
		"one of ours goes":            {bound, "node-1", annotations(map[string]any{prefix + "public-ip": nil}), ""},
		"our condition":               {bound, "node-1", conditions("NetworkUnavailable", "False"), ""},
		"our condition, again":        {bound, "node-1", conditions("NetworkUnavailable", "True"), ""},
		"another Node":                {bound, "node-2", ours, "the daemon of node node-1 may not change node node-2"},
		"another Node's condition":    {bound, "node-2", conditions("NetworkUnavailable", "False"), "may not change node node-2"},
		"a foreign annotation":        {bound, "node-1", annotations(map[string]any{"example.com/a": "b"}), foreign},
		"a foreign one changes":       {bound, "node-1", annotations(map[string]any{"example.com/there": "b"}), foreign},
		"a foreign one goes":          {bound, "node-1", annotations(map[string]any{"example.com/there": nil}), foreign},
		"a user's overwrite":          {bound, "node-1", annotations(map[string]any{prefix + "public-ip-overwrite": "192.0.2.9"}), foreign},
		"a label":                     {bound, "node-1", value{"metadata": value{"labels": value{"a": "b"}}}, label},
		"a finalizer":                 {bound, "node-1", value{"metadata": value{"finalizers": []any{"example.com/f"}}}, label},
		"another condition":           {bound, "node-1", conditions("Ready", "False"), other},
		"a condition that is new":     {bound, "node-1", conditions("Mine", "True"), other},
		"its capacity":                {bound, "node-1", value{"status": value{"capacity": value{"cpu": "64"}}}, "status but conditions"},
		"its addresses":               {bound, "node-1", value{"status": value{"addresses": nil}}, "status but conditions"},
		"its kubelet's port":          {bound, "node-1", value{"status": value{"daemonEndpoints": value{"kubeletEndpoint": value{"Port": 1}}}}, "status but conditions"},
		"without a claim, any Node":   {loose, "node-2", ours, ""},
		"without a claim, no label":   {loose, "node-2", value{"metadata": value{"labels": value{"a": "b"}}}, label},
		"without a claim, no taint":   {loose, "node-2", annotations(map[string]any{"example.com/a": "b"}), foreign},
		"without a claim, not Ready":  {loose, "node-2", conditions("Ready", "False"), other},
		"without a claim, our health": {loose, "node-2", conditions("NetworkUnavailable", "False"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := x.by(x.node, x.what)
			switch {
			case x.want == "" && err != nil:
				t.Error(err)
			case x.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), x.want)):
				t.Errorf("want it forbidden with %q, have %v", x.want, err)
			}
		})
	}
	c.change(t, "node-2", func(n *corev1.Node) { n.Labels = map[string]string{"by": "others"} }) // it isn't about them
}

// furnish gives a Node what a kubelet, and others, write there.
func (c *cluster) furnish(t testing.TB, name string) {
	t.Helper()
	c.annotate(t, name, map[string]string{"example.com/there": "a"})
	status := []byte(`{"status":{"capacity":{"cpu":"2"},"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],` +
		`"images":[{"names":["a","b"],"sizeBytes":1}],"nodeInfo":{"kubeletVersion":"v1.34.4"},` +
		`"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}},` +
		`"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True"}]}}`)
	_, err := c.admin.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, status,
		metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
}

// The whole life of a store with the token of a pod: nothing of it is refused.
func TestTheStoreUnderThePolicy(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.furnish(t, "node-1")
	s := c.openAs(t, c.server.URL(), apiserver.Credentials{Token: c.daemonOn(t, "node-1")})
	l := acquire(t, s, network)
	ended := hold(t, s, l)
	follow(t, s)("the lease", has("node-1"))
	for _, ready := range []bool{true, false, true} {
		if err := s.SetNetworkAvailable(short(t), ready, "a reason"); err != nil {
			t.Error(err)
		}
	}
	next := l
	next.Shares = slices.Clone(l.Shares)
	next.Shares[0].Data = json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}`)
	if _, err := s.Publish(short(t), l, next); err != nil {
		t.Error(err)
	}
	if err := s.Warn(short(t), "WeftTest", "a message"); err != nil {
		t.Error(err)
	}
	eventually(t, "the Event", func() error {
		events, err := c.admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{
			FieldSelector: "reason=WeftTest,involvedObject.name=node-1",
		})
		if err == nil && len(events.Items) != 1 {
			err = fmt.Errorf("%d Events", len(events.Items))
		}
		return err
	})
	select {
	case err := <-ended:
		t.Errorf("Hold ended by %v", err)
	default:
	}
}
