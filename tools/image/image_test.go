package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// built are options with binaries that only have their names in them.
func built(t *testing.T, age time.Duration) options {
	t.Helper()
	dir := t.TempDir()
	o := options{
		bin: filepath.Join(dir, "bin"), out: filepath.Join(dir, "image.tar"), name: "weftnet/weft:test", version: "v1",
		arches: []string{"amd64", "arm64"},
	}
	for _, arch := range o.arches {
		if err := os.MkdirAll(o.binaries(arch), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range programs() {
			file := filepath.Join(o.binaries(arch), name)
			if err := os.WriteFile(file, []byte(arch+" "+name), 0o700); err != nil {
				t.Fatal(err)
			}
			then := time.Now().Add(-age)
			if err := os.Chtimes(file, then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
	return o
}

// Two builds, at two times and places, give the same digest and archive.
func TestReproducible(t *testing.T) {
	var digests, archives []string
	for _, age := range []time.Duration{0, 1000 * time.Hour} {
		o := built(t, age)
		digest, err := o.assemble()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		digests, archives = append(digests, digest), append(archives, string(raw))
	}
	if digests[0] != digests[1] || archives[0] != archives[1] {
		t.Errorf("two builds, two digests: %v", digests)
	}
	o := built(t, 0)
	if err := os.WriteFile(filepath.Join(o.binaries("arm64"), "weft"), []byte("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if digest, err := o.assemble(); err != nil || digest == digests[0] {
		t.Errorf("another program, the same digest: %s, %v", digest, err)
	}
}

// The archive is what container runtimes import, and a whole image.
func TestArchive(t *testing.T) {
	o := built(t, 0)
	digest, err := o.assemble()
	if err != nil {
		t.Fatal(err)
	}
	dir := unpack(t, o.out)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	only := manifest.Manifests[0]
	want := map[string]string{
		// As containerd completes the name in a manifest.
		"io.containerd.image.name":          strings.Join([]string{"docker", "io/weftnet/weft:test"}, "."),
		"org.opencontainers.image.ref.name": "test",
	}
	if d := cmp.Diff(want, only.Annotations); d != "" || only.Digest.String() != digest {
		t.Errorf("%s: annotations (-want +have):\n%s", only.Digest, d)
	}
	inner, err := index.ImageIndex(only.Digest)
	if err != nil {
		t.Fatal(err)
	}
	all, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range all.Manifests {
		platforms = append(platforms, m.Platform.String())
		img, err := inner.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img, m.Platform.Architecture)
	}
	if d := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); d != "" {
		t.Errorf("platforms (-want +have):\n%s", d)
	}
}

func checkImage(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != arch || config.OS != "linux" || !config.Created.Equal(epoch()) {
		t.Errorf("config %+v", config)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	have := map[string]string{}
	each(t, content, func(h *tar.Header, raw []byte) {
		have[h.Name] = fmt.Sprintf("%o %d:%d %s", h.Mode, h.Uid, h.Gid, raw)
	})
	want := map[string]string{"usr/": "755 0:0 ", "usr/bin/": "755 0:0 "}
	for _, name := range programs() {
		want["usr/bin/"+name] = "755 0:0 " + arch + " " + name
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("files (-want +have):\n%s", d)
	}
}

func each(t *testing.T, from io.Reader, f func(*tar.Header, []byte)) {
	t.Helper()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		f(h, raw)
	}
}

func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	dir := t.TempDir()
	each(t, f, func(h *tar.Header, raw []byte) {
		to := filepath.Join(dir, filepath.FromSlash(path.Clean(h.Name)))
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if h.Typeflag == tar.TypeReg && err == nil {
			err = os.WriteFile(to, raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return dir
}

// A name that no container runtime takes is told before anything is written.
func TestBadNames(t *testing.T) {
	for _, name := range []string{"", "Weft:1", "weftnet/weft", "weft:a:b"} {
		o := built(t, 0)
		o.name = name
		if digest, err := o.assemble(); err == nil {
			t.Errorf("%q: %s", name, digest)
		}
	}
}

// The Dockerfiles make the same image.
func TestDockerfiles(t *testing.T) {
	o := built(t, 0)
	img, err := o.image("amd64")
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	entry, err := json.Marshal(config.Config.Entrypoint)
	if err != nil {
		t.Fatal(err)
	}
	var copied []string
	for _, name := range programs() {
		copied = append(copied, "linux_${TARGETARCH}/"+name)
	}
	for file, c := range map[string]struct{ base, path string }{
		"Dockerfile":          {"scratch", binDir},
		"Dockerfile.iptables": {"debian:trixie-slim", "/usr/sbin:" + binDir},
	} {
		raw, err := os.ReadFile(filepath.Join("../../dist/docker", file))
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^([A-Z]+) (.*)$`).FindAllStringSubmatch(string(raw), -1) {
			if m[1] != "RUN" {
				have[m[1]] += m[2]
			}
		}
		want := map[string]string{
			"FROM": c.base, "ARG": "TARGETARCH", "COPY": strings.Join(copied, " ") + " " + binDir + "/",
			"ENV": "PATH=" + c.path, "USER": config.Config.User, "WORKDIR": config.Config.WorkingDir, "ENTRYPOINT": string(entry),
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("%s (-image +have):\n%s", file, d)
		}
		if strings.Contains(string(raw), "apt-get install") != (file == "Dockerfile.iptables") {
			t.Errorf("%s: iptables in the wrong image", file)
		}
	}
	if !slices.Contains(config.Config.Env, "PATH="+binDir) {
		t.Errorf("environment %v", config.Config.Env)
	}
}

// The manifests name the image that is built, and what there is in it.
func TestManifestsNameTheImage(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`(?m)^IMAGE \?= (.*)$`).FindStringSubmatch(string(makefile))
	if name == nil {
		t.Fatal("no IMAGE in the Makefile")
	}
	for _, file := range []string{"weft.yml", "weft-from-flannel.yml"} {
		raw, err := os.ReadFile(filepath.Join("../../dist/kubernetes", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"image: " + name[1] + "\n", "command: [" + entrypoint + "]\n"} {
			if strings.Count(string(raw), line) != 1 {
				t.Errorf("%s: want one line %q", file, line)
			}
		}
	}
}
