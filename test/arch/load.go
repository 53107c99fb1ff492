// Package arch holds the rules of the house that a compiler can't check: which
// package may import which, what pure packages must not do, and how many names
// a package may export. The rules are functions over plain values; the tests
// run them over what `go list` and the parser say about this module, and over
// made-up packages to prove that each rule can fail.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is the path that all packages of ours begin with.
const Module = "github.com/weftnet/weft"

// Package is what the rules look at.
type Package struct {
	Path        string   // below the module: "pkg/mac"
	Imports     []string // full paths, of the code that ships
	TestImports []string // of its tests
	Deps        []string // all that ends up in a binary with it
	Files       []string // absolute names of the code that ships
	TestFiles   []string
}

// listed is the part of `go list -json` that we read.
type listed struct {
	ImportPath, Dir                    string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// Load lists the module's packages; dir is any directory inside of it. A package
// that doesn't build is listed too: to say so is the compiler's business.
func Load(dir string) ([]Package, error) {
	cmd := exec.Command("go", "list", "-e", "-json", Module+"/...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return decode(bytes.NewReader(out))
}

func decode(r io.Reader) ([]Package, error) {
	var pkgs []Package
	for d := json.NewDecoder(r); ; {
		var l listed
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF):
			return pkgs, nil
		case err != nil:
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		pkgs = append(pkgs, l.pkg())
	}
}

func (l listed) pkg() Package {
	return Package{
		Path:        strings.TrimPrefix(l.ImportPath, Module+"/"),
		Imports:     l.Imports,
		TestImports: append(l.TestImports, l.XTestImports...),
		Deps:        l.Deps,
		Files:       l.absolute(l.GoFiles),
		TestFiles:   l.absolute(append(l.TestGoFiles, l.XTestGoFiles...)),
	}
}

func (l listed) absolute(names []string) []string {
	files := make([]string, len(names))
	for i, name := range names {
		files[i] = filepath.Join(l.Dir, name)
	}
	return files
}

// local gives the path below the module of an import of ours.
func local(path string) (string, bool) { return strings.CutPrefix(path, Module+"/") }

// matches tells whether a path is what the pattern names: itself, or, for a
// pattern that ends in "/...", anything below it (not the parent).
func matches(pattern, path string) bool {
	if parent, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(path, parent)
	}
	return pattern == path
}

func matchesAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if matches(p, path) {
			return true
		}
	}
	return false
}
