// Package image makes container images out of programs, without a container
// engine or a registry.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
)

// Image is one layer of files, and what to run.
type Image struct {
	Tags       []string          // what manifests call it
	Files      map[string]string // path in the image → file here
	Links      map[string]string // path in the image → where the link leads
	Entrypoint []string
	Cmd        []string
	Env        []string
}

// Write leaves the image in an archive that `ctr images import` takes: in the
// format of `docker save`, a manifest that names a configuration and a layer
// (Docker Image Specification v1.2, "Combined Image JSON + Filesystem
// Changeset Format").
func (i Image) Write(archive string) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		return err
	}
	configName, layerName := sum(config)+".json", sum(layer)+".tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": i.Tags, "Layers": []string{layerName},
	}})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		raw  []byte
	}{{"manifest.json", manifest}, {configName, config}, {layerName, layer}} {
		if err := put(w, &tar.Header{Name: f.name, Mode: 0o644}, f.raw); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(archive, out.Bytes(), 0o600)
}

func sum(raw []byte) string {
	s := sha256.Sum256(raw)
	return hex.EncodeToString(s[:])
}

func put(w *tar.Writer, h *tar.Header, raw []byte) error {
	h.Typeflag, h.Size = tar.TypeReg, int64(len(raw))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(raw)
	return err
}

// layer is a tar of all the files, with the directories that they are in.
func (i Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	for _, dir := range []string{"/tmp", "/etc", "/var"} {
		if err := mkdir(w, made, dir); err != nil {
			return nil, err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(i.Files)) {
		if err := mkdir(w, made, path.Dir(p)); err != nil {
			return nil, err
		}
		if err := add(w, p, i.Files[p]); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(i.Links)) {
		if err := mkdir(w, made, path.Dir(p)); err != nil {
			return nil, err
		}
		h := &tar.Header{Name: p[1:], Typeflag: tar.TypeSymlink, Linkname: i.Links[p], Mode: 0o777}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func mkdir(w *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := mkdir(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	mode := int64(0o755)
	if dir == "/tmp" {
		mode = 0o1777
	}
	return w.WriteHeader(&tar.Header{Name: dir[1:] + "/", Typeflag: tar.TypeDir, Mode: mode})
}

func add(w *tar.Writer, to, from string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return put(w, &tar.Header{Name: to[1:], Mode: int64(info.Mode().Perm())}, raw)
}
