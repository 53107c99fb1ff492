package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/pkg/doctor"
)

// In Kubernetes doctor asks the API server: a healthy node has nothing to hear,
// and what is done to its Node or its account is named rightly.
func TestDoctorInKubernetes(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, 2)
	daemons := []*daemon{k.node(0).start(), k.node(1).start()}
	for _, d := range daemons {
		d.awaitReady(1)
	}
	machine := func(name, id string) {
		k.api.Change(name, func(n *corev1.Node) { n.Status.NodeInfo.MachineID = id })
	}
	machine("node-0", "8d1ab2")
	machine("node-1", "7c2bf0")
	args := []string{
		"--kube-subnet-mgr", "--kube-api-url", k.door.URL, "--net-config-path", k.config, "--peers", "0", "--timeout", "3s",
	}
	for i := range k.Nodes {
		if results := k.examine(t, i, args[:5]...); len(sick(results)) > 0 {
			t.Fatalf("false alarms on node %d:\n%s", i, text(results))
		}
	}
	for _, c := range []struct {
		check, seen, mends string
		level              doctor.Level
		hurt, heal         func()
	}{
		{
			"cloned-machine", "Node node-1 has our machine id 8d1ab2", "machine-id", doctor.Warn,
			func() { machine("node-1", "8d1ab2") }, func() { machine("node-1", "7c2bf0") },
		},
		{
			"clock-skew", "5m", "timedatectl", doctor.Fail,
			func() { k.api.SetClock(-5 * time.Minute) }, func() { k.api.SetClock(0) },
		},
		{
			"rbac", "patch nodes/status", "kubectl", doctor.Fail,
			func() { k.api.Refuse("patch nodes/status", http.StatusForbidden) },
			func() { k.api.Refuse("patch nodes/status", 0) },
		},
		{
			"rbac", "create events", "kubectl", doctor.Warn,
			func() { k.api.Refuse("create events", http.StatusForbidden) }, func() { k.api.Refuse("create events", 0) },
		},
	} {
		t.Run(c.check, func(t *testing.T) {
			c.hurt()
			t.Cleanup(c.heal)
			results := k.examine(t, 0, args...)
			if d := cmp.Diff([]string{c.check}, sick(results)); d != "" {
				t.Errorf("(-want +have):\n%s%s", d, text(results))
			}
			i := slices.IndexFunc(results, func(r doctor.Result) bool { return r.Check == c.check })
			if r := results[i]; r.Level != c.level || len(r.Findings) != 1 ||
				!strings.Contains(r.Findings[0].Evidence, c.seen) || !strings.Contains(r.Findings[0].Mend, c.mends) {
				t.Errorf("have %+v", r)
			}
		})
	}
	t.Run("store", func(t *testing.T) {
		away := append(slices.Clone(args), "--kube-api-url", "http://127.0.0.1:1")
		if d := cmp.Diff([]string{"store"}, sick(k.examine(t, 0, away...))); d != "" {
			t.Errorf("(-want +have):\n%s", d)
		}
	})
}
