package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheArchiveHoldsTheProgram(t *testing.T) {
	dir := t.TempDir()
	program, archive := filepath.Join(dir, "program"), filepath.Join(dir, "archive.tar")
	if err := os.WriteFile(program, []byte("code"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := Image{
		Tags: []string{"example.org/a:1"}, Files: map[string]string{"/usr/bin/a": program},
		Links: map[string]string{"/bin/b": "/usr/bin/a"}, Entrypoint: []string{"/usr/bin/a"},
	}.Write(archive)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, raw)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifest); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"example.org/a:1"}, manifest[0].RepoTags); d != "" {
		t.Error(d)
	}
	var config struct {
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal([]byte(files[manifest[0].Config]), &config); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	if d := cmp.Diff([]string{"sha256:" + sum([]byte(layer))}, config.Rootfs.DiffIDs); d != "" {
		t.Error(d)
	}
	want := map[string]string{
		"tmp/": "", "etc/": "", "var/": "", "usr/": "", "usr/bin/": "", "usr/bin/a": "code", "bin/": "", "bin/b": "→ /usr/bin/a",
	}
	if d := cmp.Diff(want, untar(t, []byte(layer))); d != "" {
		t.Error(d)
	}
}

func untar(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Linkname != "" {
			content = []byte("→ " + h.Linkname)
		}
		files[h.Name] = string(content)
	}
}
