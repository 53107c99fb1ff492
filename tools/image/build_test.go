package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestProgramsAreReproducible builds the same source in two directories, in one
// by `make build` and in the other for the image: all programs are the same to
// the byte, and name neither directory.
func TestProgramsAreReproducible(t *testing.T) {
	here, elsewhere := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "else/where")
	copyTree(t, here)
	copyTree(t, elsewhere)
	cmd := exec.CommandContext(t.Context(), "make", "-C", here, "build", "VERSION=v1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	o := options{root: elsewhere, bin: t.TempDir(), version: "v1"}
	if err := build(t.Context(), o, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	made, image := contents(t, filepath.Join(here, "bin")), contents(t, o.binaries(runtime.GOARCH))
	for _, name := range programs() {
		if made[name] != image[name] {
			t.Errorf("%s: two builds, two programs", name)
		}
		for _, dir := range []string{here, elsewhere} {
			if strings.Contains(made[name]+image[name], dir) {
				t.Errorf("%s is in %s", dir, name)
			}
		}
	}
}

// copyTree copies the source of the programs.
func copyTree(t *testing.T, to string) {
	t.Helper()
	const root = "../.."
	all, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // as a checkout has it
		t.Fatal(err)
	}
	for _, e := range all {
		from := filepath.Join(root, e.Name())
		switch name := e.Name(); {
		case name == ".git" || name == "bin" || name == "tools" || name == "test":
		case e.IsDir():
			err = os.CopyFS(filepath.Join(to, name), os.DirFS(from))
		default:
			var text []byte
			if text, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(filepath.Join(to, name), text, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// contents reads the programs in a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range programs() {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(raw)
	}
	return out
}
