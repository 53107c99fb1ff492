package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is in the image; the Dockerfiles are held to the same. weftd finds the
// plugin beside itself.
const (
	binDir     = "/usr/bin"
	entrypoint = binDir + "/weftd"
	user       = "0:0" // without root there is no NET_ADMIN
)

func programs() []string { return []string{"weft", "weftctl", "weftd"} }

// epoch is the time of everything: builds at two times are one image.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// index is the image of all architectures.
func (o options) index() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range o.arches {
		img, err := o.image(arch)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index, nil
}

func (o options) image(arch string) (v1.Image, error) {
	raw, err := files(o.binaries(arch))
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: epoch()}, CreatedBy: "tools/image", Comment: o.version},
	})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch()}
	config.Config = v1.Config{
		Entrypoint: []string{entrypoint}, Env: []string{"PATH=" + binDir}, User: user, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "weft",
			"org.opencontainers.image.version":  o.version,
			"org.opencontainers.image.source":   "https://github.com/weftnet/weft",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(img, config)
}

// files is the one layer.
func files(from string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{path.Dir(binDir), binDir} {
		if err := w.WriteHeader(directory(dir[1:])); err != nil {
			return nil, err
		}
	}
	for _, name := range programs() {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(regular(path.Join(binDir, name)[1:], len(content), 0o755)); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func directory(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: epoch()}
}

func regular(name string, size int, mode int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: mode, ModTime: epoch()}
}

// write makes an OCI layout with the image in it, under the name by which
// kubelets ask for it: container runtimes complete names in this same way.
func write(dir string, index v1.ImageIndex, name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("%q: %w", name, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return "", errors.New(name + " has no tag; it is of the form NAME:TAG")
	}
	to, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	err = to.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          named.String(),
		"org.opencontainers.image.ref.name": tagged.Tag(),
	}))
	if err != nil {
		return "", err
	}
	digest, err := index.Digest()
	return digest.String(), err
}
