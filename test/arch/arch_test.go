package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The house as it is.
func TestTheModuleKeepsTheRules(t *testing.T) {
	pkgs, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]func(Package) []string{
		"imports point down":                    down,
		"only cmd runs nodes, kits don't ship":  onlyCmd,
		"each library has its place":            restricted,
		"the CNI plugin is small":               plugin,
		"pure packages import only pure things": purity,
		"pure packages don't ask for the time":  clocks(t),
		"exported names":                        exported(t),
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range pkgs {
				for _, wrong := range rule(p) {
					t.Error(wrong)
				}
			}
		})
	}
	t.Run("go.mod", func(t *testing.T) {
		gomod, err := os.ReadFile("../../go.mod")
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range requirements(string(gomod)) {
			t.Error(wrong)
		}
	})
}

func clocks(t *testing.T) func(Package) []string {
	return func(p Package) (wrong []string) {
		if !isPure(p.Path) {
			return nil
		}
		for _, file := range p.Files {
			asked, err := clocksIn(file, nil)
			if err != nil {
				t.Error(err)
			}
			wrong = append(wrong, asked...)
		}
		return wrong
	}
}

func exported(t *testing.T) func(Package) []string {
	return func(p Package) []string {
		files, _, err := Parse(p.Files)
		if err != nil {
			t.Error(err)
		}
		return exportedNames(p, files)
	}
}

// A rule that can't fail is no rule.
func TestRulesCanFail(t *testing.T) {
	ours := func(paths ...string) []string {
		for i := range paths {
			paths[i] = Module + "/" + paths[i]
		}
		return paths
	}
	for name, c := range map[string]struct {
		rule func(Package) []string
		p    Package
		want string // part of the message; "" is none
	}{
		"down is fine":              {down, Package{Path: "network", Imports: ours("subnet", "network/masq", "pkg/mac")}, ""},
		"up is not":                 {down, Package{Path: "subnet", Imports: ours("subnet/etcd")}, "stands above it (subnet and layers, parts)"},
		"nor a leaf to its user":    {down, Package{Path: "pkg/mac", Imports: ours("pkg/dataplane")}, "stands above it"},
		"siblings":                  {down, Package{Path: "backend/vxlan", Imports: ours("backend/hostgw")}, "its sibling (parts)"},
		"parts of two trees":        {down, Package{Path: "subnet/etcd", Imports: ours("pkg/dataplane/linux")}, "its sibling"},
		"leaves are siblings":       {down, Package{Path: "pkg/health", Imports: ours("pkg/logging")}, "its sibling (leaves)"},
		"a child of one's own":      {down, Package{Path: "subnet/etcd", Imports: ours("subnet/etcd/embedded")}, ""},
		"a name that only begins":   {down, Package{Path: "subnet/etcd", Imports: ours("subnet/etcd2")}, "its sibling"},
		"a top level that is new":   {down, Package{Path: "util"}, "no place in the house"},
		"a new leaf needs no place": {down, Package{Path: "pkg/brandnew"}, ""},
		"layers stand on dataplane": {down, Package{Path: "pkg/dataplane/layers", Imports: ours("pkg/dataplane")}, ""},
		"dataplane not on layers":   {down, Package{Path: "pkg/dataplane", Imports: ours("pkg/dataplane/layers")}, "stands above"},

		"cmd runs nodes":             {onlyCmd, Package{Path: "cmd/weftd", Imports: ours("network")}, ""},
		"the demo does not":          {onlyCmd, Package{Path: "pkg/demo", Imports: ours("network")}, "only cmd runs nodes"},
		"nor a test of a part":       {onlyCmd, Package{Path: "subnet/etcd", TestImports: ours("network")}, "only cmd runs nodes"},
		"a fake that ships":          {onlyCmd, Package{Path: "network", Imports: ours("pkg/dataplane/fake")}, "for tests only"},
		"a fake in a test":           {onlyCmd, Package{Path: "network", TestImports: ours("pkg/dataplane/fake")}, ""},
		"a kit on a fake":            {onlyCmd, Package{Path: "backend/backendtest", Imports: ours("pkg/dataplane/fake")}, ""},
		"netlink in its place":       {restricted, Package{Path: "pkg/dataplane/linux", Imports: []string{"github.com/vishvananda/netlink/nl"}}, ""},
		"netlink elsewhere":          {restricted, Package{Path: "network", Imports: []string{"github.com/vishvananda/netlink"}}, "the kernel is touched"},
		"netlink in a test":          {restricted, Package{Path: "network", TestImports: []string{"golang.org/x/sys/unix"}}, "the kernel is touched"},
		"etcd elsewhere":             {restricted, Package{Path: "cmd/weftctl", Imports: []string{"go.etcd.io/etcd/client/v3"}}, "behind subnet.Store"},
		"client-go elsewhere":        {restricted, Package{Path: "network", Imports: []string{"k8s.io/client-go/rest"}}, "Kubernetes"},
		"a pure package that logs":   {restricted, Package{Path: "subnet", Imports: []string{"github.com/sirupsen/logrus"}}, "at the rim"},
		"testing in what ships":      {restricted, Package{Path: "network", Imports: []string{"testing"}}, "test code"},
		"testing in a test":          {restricted, Package{Path: "network", TestImports: []string{"testing"}}, ""},
		"end-to-end tests use all":   {restricted, Package{Path: "test/e2e", TestImports: []string{"go.etcd.io/etcd/client/v3"}}, ""},
		"a plugin that is heavy":     {plugin, Package{Path: "cmd/weft", Deps: []string{"net/http"}}, "costs every pod's start"},
		"a daemon may be":            {plugin, Package{Path: "cmd/weftd", Deps: []string{"net/http"}}, ""},
		"a plugin that is light":     {plugin, Package{Path: "cmd/weft", Deps: []string{"net", "net/netip"}}, ""},
		"values":                     {purity, Package{Path: "subnet", Imports: []string{"net/netip", "time", Module + "/pkg/mac"}}, ""},
		"a pure package with files":  {purity, Package{Path: "backend/vxlan", Imports: []string{"os"}}, "imports os"},
		"with the network":           {purity, Package{Path: "subnet", Imports: []string{"net"}}, "imports net"},
		"with dice":                  {purity, Package{Path: "subnet", Imports: []string{"math/rand/v2"}}, "imports math/rand/v2"},
		"with a library":             {purity, Package{Path: "network/masq", Imports: []string{"golang.org/x/sync/errgroup"}}, "not libraries"},
		"on one that is not":         {purity, Package{Path: "subnet", Imports: ours("pkg/health")}, "is pure and imports pkg/health"},
		"a named exception":          {purity, Package{Path: "pkg/mac", Imports: []string{"net"}}, ""},
		"which is not the others'":   {purity, Package{Path: "pkg/mac", Imports: []string{"os"}}, "imports os"},
		"a kit may do what it needs": {purity, Package{Path: "backend/backendtest", Imports: []string{"testing"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			have := strings.Join(c.rule(c.p), "\n")
			if c.want == "" && have != "" || !strings.Contains(have, c.want) {
				t.Errorf("want %q in it, have %q", c.want, have)
			}
		})
	}
}

func TestRequirements(t *testing.T) {
	for line, bad := range map[string]bool{
		"require github.com/sirupsen/logrus v1.10.2":                  false,
		"\tgithub.com/golangci/golangci-lint/v2 v2.15.0 // indirect":  true,
		"tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint": true,
		"replace example.org/a => ../a":                               true,
	} {
		if have := len(requirements("module m\n"+line+"\n")) > 0; have != bad {
			t.Errorf("%q: refused: want %v, have %v", line, bad, have)
		}
	}
}

func TestClocks(t *testing.T) {
	const src = `package p
import "time"
type c struct{ Now func() }
func f(c c, d time.Duration) { c.Now(); _ = time.Now(); time.AfterFunc(d, nil) }`
	have, err := clocksIn("p.go", src)
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 2 || !strings.Contains(have[0], "p.go:4:") || !strings.Contains(have[0], "time.Now") {
		t.Errorf("want time.Now and time.AfterFunc of line 4, have %v", have)
	}
}

const names = `package p
type Kind int
const (
	A Kind = iota
	B
)
const (
	Limit = 7
	Again
	hidden
)
const Grace time.Duration = 1
var ErrGone, ErrLost = errors.New(""), errors.New("")
func New() {}
func (Kind) String() string { return "" }
func local() {}
`

func TestNames(t *testing.T) {
	files := []*ast.File{parse(t, names)}
	want := []string{"Again", "ErrGone", "ErrLost", "Grace", "Kind", "Limit", "New"}
	if d := cmp.Diff(want, Names(files)); d != "" {
		t.Errorf("names (-want +have):\n%s", d)
	}
	if wrong := exportedNames(Package{Path: "p"}, files); wrong != nil {
		t.Errorf("7 names are within the budget, have %q", wrong)
	}
	var src strings.Builder
	src.WriteString("package q\n")
	for c := 'A'; c < 'A'+maxNames+1; c++ {
		src.WriteString("func " + string(c) + "() {}\n")
	}
	if wrong := exportedNames(Package{Path: "q"}, []*ast.File{parse(t, src.String())}); len(wrong) != 1 {
		t.Errorf("21 names are too many, have %q", wrong)
	}
}

func parse(t *testing.T, src string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDecode(t *testing.T) {
	have, err := decode(strings.NewReader(`{"ImportPath": "github.com/weftnet/weft/pkg/mac", "Dir": "/m/pkg/mac",
		"GoFiles": ["mac.go"], "XTestGoFiles": ["mac_test.go"], "Imports": ["net"], "XTestImports": ["testing"], "Deps": ["net"]}
		{"ImportPath": "github.com/weftnet/weft/subnet"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{
			Path: "pkg/mac", Imports: []string{"net"}, TestImports: []string{"testing"}, Deps: []string{"net"},
			Files: []string{"/m/pkg/mac/mac.go"}, TestFiles: []string{"/m/pkg/mac/mac_test.go"},
		},
		{Path: "subnet", Files: []string{}, TestFiles: []string{}},
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("packages (-want +have):\n%s", d)
	}
	if _, err := decode(strings.NewReader("{")); err == nil {
		t.Error("half a package is read without an error")
	}
}
