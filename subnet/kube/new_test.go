package kube_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/subnet/kube"
	"github.com/weftnet/weft/subnet/kube/kubetest"
)

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	server := kubetest.New()
	server.Create("node-1", "10.9.1.0/24")
	file := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": "` + server.Open(t).URL + `"}}],
		"users": [{"name": "u", "user": {"token": "t"}}]}`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := kube.New(kube.Options{Kubeconfig: file, Node: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := s.Acquire(short(t), claimOf(t, network)); err != nil || l.ID != "node-1:10.9.1.0/24" {
		t.Errorf("have %q, %v", l.ID, err)
	}
	_, err = kube.New(kube.Options{Kubeconfig: file + "x", Node: "node-1"})
	if err == nil || !strings.Contains(err.Error(), file+"x") {
		t.Errorf("a file that is not there: have %v", err)
	}
}

// In no pod there is no service account.
func TestNoCredentials(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	_, err := kube.New(kube.Options{Node: "node-1"})
	if err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_HOST") ||
		!strings.Contains(err.Error(), "--kubeconfig-file") {
		t.Errorf("want the cause and the next step, have %v", err)
	}
}
