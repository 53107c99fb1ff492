package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// pure are the packages that decide: values in, values out. They import the
// standard library and each other only, and of the standard library nothing
// that reads, writes, rolls dice or asks for the time.
func pure() []string {
	return []string{
		"pkg/dataplane", "pkg/dataplane/layers", "pkg/dataplane/ruleset", "subnet", "backend", "backend/...",
		"network/...", "pkg/commands", "pkg/mac", "pkg/offload", "pkg/ipmath", "pkg/subnetenv",
		"pkg/tables", "pkg/tables/...", "pkg/trace", "pkg/doctor",
	}
}

// allowed are the exceptions, package by package.
func allowed(path string) []string {
	return map[string][]string{
		"pkg/mac":       {"net"}, // net.ParseMAC, net.HardwareAddr: the library's form of a MAC
		"pkg/subnetenv": {"os"},  // the atomic write; encoding and parsing are pure
	}[path]
}

// purity checks the imports of pure packages.
func purity(p Package) []string {
	if !isPure(p.Path) {
		return nil
	}
	impure := []string{
		"os", "net", "io/fs", "log", "math/rand", "crypto/rand", "syscall", "unsafe", "plugin", "testing",
	}
	var wrong []string
	for _, path := range p.Imports {
		other, ours := local(path)
		switch {
		case slices.Contains(allowed(p.Path), path) || path == "net/netip":
		case ours && !isPure(other):
			wrong = append(wrong, fmt.Sprintf("%s is pure and imports %s, which is not", p.Path, other))
		case !ours && strings.Contains(path, "."):
			wrong = append(wrong, fmt.Sprintf("%s is pure and imports %s: it gets values, not libraries", p.Path, path))
		case hasPrefix(impure, path):
			wrong = append(wrong, fmt.Sprintf("%s is pure and imports %s: let the caller pass the value in", p.Path, path))
		}
	}
	return wrong
}

func isPure(path string) bool { return matchesAny(pure(), path) && !matchesAny(kits(), path) }

// clocksIn gives the places of a file's source where it asks for the time or
// waits. Pure code gets the time as an argument.
func clocksIn(name string, src any) ([]string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	asks := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	var wrong []string
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(asks, sel.Sel.Name) {
			wrong = append(wrong, fmt.Sprintf("%s: time.%s in a pure package: let the caller pass the time in",
				fset.Position(n.Pos()), sel.Sel.Name))
		}
		return true
	})
	return wrong, nil
}
