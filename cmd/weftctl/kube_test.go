package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/subnet/kube/kubetest"
)

// TestLeasesOfNodes: there is no daemon, and all is told that is wrong.
func TestLeasesOfNodes(t *testing.T) {
	api := kubetest.New()
	announce := func(name, podCIDR, public, data string) {
		const prefix = "weft.example.org/"
		api.Create(name, podCIDR)
		api.Annotate(name, map[string]string{
			prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan", prefix + "public-ip": public,
			prefix + "backend-data": data,
		})
	}
	announce("a", "10.42.1.0/24", "192.0.2.1", `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)
	announce("b", "10.42.2.0/24", "192.0.2.2", "null")
	announce("late", "10.42.2.128/25", "192.0.2.3", "null")
	announce("outside", "10.99.1.0/24", "192.0.2.4", "null")
	announce("broken", "10.42.5.0/24", "no address", "null")
	api.Create("no-weft", "10.42.6.0/24")
	config := filepath.Join(t.TempDir(), "net-conf.json")
	if err := os.WriteFile(config, []byte(`{"Network":"10.42.0.0/16"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	url := api.Open(t).URL
	args := []string{
		"leases", "--kube-subnet-mgr", "--kube-api-url", url, "--kube-annotation-prefix", "weft.example.org",
		"--net-config-path", config,
	}
	out, err := weftctl(args...)
	if err != nil {
		t.Fatal(err)
	}
	out = regexp.MustCompile(`\d+d +never`).ReplaceAllString(out, "12d  never") // since the Nodes' first day
	golden.Check(t, "leases-nodes", regexp.MustCompile(`AGE +`).ReplaceAllString(out, "AGE  "))
	out, err = weftctl(append(args, "-o", "json")...)
	var rows []leaseRow
	if err == nil {
		err = json.Unmarshal([]byte(out), &rows)
	}
	if err != nil || len(rows) != 4 || rows[0].Node != "a" || rows[0].Born.IsZero() || !rows[0].Expires.IsZero() {
		t.Errorf("have %+v, %v", rows, err)
	}
	api.Refuse("list nodes", http.StatusForbidden)
	if _, err = weftctl(args...); err == nil || !strings.Contains(err.Error(), "kubernetes.md") {
		t.Errorf("a list that is forbidden: %v", err)
	}
}

// The place of the API server is taken from weftd's environment, and one that
// doesn't answer is named.
func TestLeasesOfNobody(t *testing.T) {
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-silent:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(silent) })
	url := server.URL
	t.Setenv("WEFTD_KUBE_SUBNET_MGR", "true")
	t.Setenv("WEFTD_KUBE_API_URL", url)
	_, err := weftctl("leases", "--timeout", "200ms")
	if err == nil || !strings.Contains(err.Error(), "--kube-api-url") || !strings.Contains(err.Error(), url) {
		t.Errorf("have %v", err)
	}
}
