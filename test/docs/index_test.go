package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// suite is what a package tests: its functions, and the texts in its test
// files and in the conformance suites that these run, which name the cases.
type suite struct {
	funcs, texts map[string]bool
}

// index knows the tests of the packages that it was asked for.
type index struct {
	t        *testing.T
	packages map[string]*suite
}

// has tells whether a package has a test such as TestParse or
// TestParse/arguments/one dash, whose cases are named by texts.
func (x index) has(pkg, test string) bool {
	s, ok := x.packages[pkg]
	if !ok {
		s = x.load(pkg)
		x.packages[pkg] = s
	}
	name, sub, nested := strings.Cut(test, "/")
	return s.funcs[name] && (!nested || s.named(sub))
}

// named tells whether a path of cases is made of texts; one may hold a slash.
func (s *suite) named(path string) bool {
	if s.texts[path] {
		return true
	}
	for i := range len(path) {
		if path[i] == '/' && s.texts[path[:i]] && s.named(path[i+1:]) {
			return true
		}
	}
	return false
}

func (x index) load(pkg string) *suite {
	x.t.Helper()
	s := &suite{funcs: map[string]bool{}, texts: map[string]bool{}}
	for kit := range x.read(s, pkg, "*_test.go") {
		x.read(s, kit, "*.go")
	}
	return s
}

// read adds the files of a package, and gives the conformance suites that they
// import.
func (x index) read(s *suite, pkg, pattern string) map[string]bool {
	x.t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, pattern))
	if err != nil {
		x.t.Fatal(err)
	}
	kits := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			x.t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && strings.HasPrefix(n.Name.Name, "Test") {
					s.funcs[n.Name.Name] = true
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					s.texts[text] = true
				}
			}
			return true
		})
		for _, i := range file.Imports {
			kit, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), "github.com/weftnet/weft/")
			if ours && strings.HasSuffix(kit, "test") {
				kits[kit] = true
			}
		}
	}
	return kits
}

func TestTestsAreFoundByTheirNames(t *testing.T) {
	x := index{t: t, packages: map[string]*suite{}}
	for test, want := range map[[2]string]bool{
		{"test/docs", "TestTestsAreFoundByTheirNames"}:                                        true,
		{"test/docs", "TestTestsAreFoundByTheirNames/not there, said"}:                        true,
		{"test/docs", "TestTestsAreFoundByTheirNames/no such " + "case"}:                      true, // in the other table
		{"test/docs", "TestTestsAreFoundByTheirNames/nothing " + "of the kind"}:               false,
		{"test/docs", "TestNo" + "where"}:                                                     false,
		{"test/docs", "has"}:                                                                  false, // a method
		{"test/nowhere", "TestMain"}:                                                          false,
		{"pkg/dataplane/linux", "TestContract/own/flannel's leftovers are adopted"}:           true, // of a suite
		{"pkg/dataplane/linux", "TestContract/own/flannel's leftovers are " + "not adopted"}:  false,
		{"pkg/dataplane/linux", "TestContract/no" + "where/flannel's leftovers are adopted"}:  false,
		{"subnet/etcd", "TestPrefixes//coreos.com/network"}:                                   true, // slashes in it
		{"subnet/etcd", "TestStore/a lease is taken over by address and subnet.env"}:          true,
		{"subnet/memory", "TestStore/a lease is taken over by address and subnet.env/" + "x"}: false,
	} {
		if have := x.has(test[0], test[1]); have != want {
			t.Errorf("%s: %s: %v", test[0], test[1], have)
		}
	}
}
