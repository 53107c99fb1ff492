package arch

import (
	"fmt"
	"slices"
	"strings"
)

// library is a module or package that only some of our packages may import.
type library struct {
	Prefixes []string
	Users    []string // patterns of our packages
	Why      string
}

// libraries is who may import what from outside.
func libraries() []library {
	return []library{
		{
			Prefixes: []string{
				"github.com/vishvananda/netlink", "github.com/vishvananda/netns", "github.com/mdlayher/netlink",
				"github.com/google/nftables", "github.com/coreos/go-iptables", "golang.org/x/sys/unix",
			},
			Users: []string{
				"pkg/dataplane/linux", "pkg/dataplane/linux/...", "pkg/cniplugin", "pkg/netnstest",
				"pkg/attachment/guard", "pkg/attachment/hostports", "pkg/attachment/nft", // the plugin's and weftd's
				"pkg/exchange", // theirs and the plugin's
				"pkg/topology", // builds the demo's and the tests' networks
				"pkg/demo",     // runs in them
			},
			Why: "the kernel is touched in pkg/dataplane/linux and where networks are made, nowhere else",
		},
		{[]string{"go.etcd.io/"}, []string{"subnet/etcd", "subnet/etcd/..."}, "etcd is behind subnet.Store"},
		{
			[]string{"k8s.io/", "sigs.k8s.io/"},
			[]string{"subnet/kube", "subnet/kube/..."},
			"Kubernetes is behind subnet.Store",
		},
		{
			[]string{"github.com/sirupsen/logrus"},
			[]string{"cmd/...", "network", "subnet/etcd", "subnet/etcd/...", "subnet/kube", "subnet/kube/...", "pkg/logging"},
			"logs are written at the rim: return a fact, and let network log it",
		},
		{
			[]string{"github.com/containernetworking/"}, []string{"cmd/weft", "pkg/cniplugin", "pkg/demo", "pkg/topology"},
			"CNI is the plugin's business",
		},
		{[]string{"github.com/spf13/"}, []string{"cmd/..."}, "flags are parsed in cmd"},
		{[]string{"github.com/prometheus/"}, []string{"pkg/metrics"}, "metrics are made in pkg/metrics of plain numbers"},
		{[]string{"github.com/coreos/go-systemd/"}, []string{"network", "cmd/..."}, "only the daemon talks to systemd"},
		{
			[]string{"testing", "github.com/google/go-cmp/"},
			append(kits(), "pkg/netnstest", "pkg/tlstest", "pkg/golden"), "test code doesn't ship",
		},
	}
}

// restricted checks who imports which library. Tests of a package may use what
// the package itself may, and what tests are made of; test/... may use all.
func restricted(p Package) []string {
	if matches("test/...", p.Path) {
		return nil
	}
	var wrong []string
	for _, lib := range libraries() {
		if matchesAny(lib.Users, p.Path) {
			continue
		}
		imports := p.Imports
		if !slices.Contains(lib.Prefixes, "testing") {
			imports = slices.Concat(p.Imports, p.TestImports)
		}
		for _, path := range imports {
			if hasPrefix(lib.Prefixes, path) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", p.Path, path, lib.Why))
			}
		}
	}
	return wrong
}

// plugin checks that the CNI plugin stays small and quick to start: it is
// executed for every pod, and what it imports is initialised every time.
func plugin(p Package) []string {
	if p.Path != "cmd/weft" {
		return nil
	}
	heavy := []string{
		"github.com/sirupsen/logrus", "go.etcd.io/", "k8s.io/", "sigs.k8s.io/", "google.golang.org/", "net/http",
		"crypto/tls",
	}
	var wrong []string
	for _, path := range p.Deps {
		if hasPrefix(heavy, path) {
			wrong = append(wrong, fmt.Sprintf("%s has %s in it (find it: go mod why, go list -deps): "+
				"it costs every pod's start", p.Path, path))
		}
	}
	return wrong
}

// requirements checks the module's own file: linters and generators weigh on a
// module of their own, tools/.
func requirements(gomod string) []string {
	var wrong []string
	for line := range strings.Lines(gomod) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "tool ") || strings.Contains(line, "golangci") {
			wrong = append(wrong, fmt.Sprintf("go.mod says %q: tools belong into tools/go.mod", line))
		}
		if strings.HasPrefix(line, "replace ") {
			wrong = append(wrong, fmt.Sprintf("go.mod says %q: go install would refuse the module", line))
		}
	}
	return wrong
}

// hasPrefix tells whether the path is one of the prefixes or lies below it.
func hasPrefix(prefixes []string, path string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
	})
}
