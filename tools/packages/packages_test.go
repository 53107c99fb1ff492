package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// build packs stand-ins for the programs in a directory of its own.
func build(t *testing.T, format string) (path string, content []byte) {
	t.Helper()
	o := options{root: "../..", out: t.TempDir(), version: "v1.2.3-4-gabcdef0", arches: []string{"arm64"}}
	for _, name := range []string{"weft", "weftctl", "weftd"} {
		if err := write(filepath.Join(o.binaries("arm64"), name), "stands for "+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.page("weftd", "8", "joins", "weftd joins\n\n  --flag x\n        of 'this'\n"); err != nil {
		t.Fatal(err)
	}
	path, err := o.pack(format, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestTwoBuildsAreAlike(t *testing.T) {
	for format, name := range map[string]string{
		"deb": "weft_1.2.3+4+gabcdef0-1_arm64.deb", "rpm": "weft-1.2.3+4+gabcdef0-1.aarch64.rpm",
	} {
		path, one := build(t, format)
		_, two := build(t, format)
		if filepath.Base(path) != name {
			t.Errorf("%s, want %s", filepath.Base(path), name)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("two builds of the %s differ", format)
		}
	}
}

func TestContents(t *testing.T) {
	path, _ := build(t, "deb")
	ask := func(args ...string) string {
		out, err := exec.CommandContext(context.Background(), "dpkg-deb", append(args, path)...).CombinedOutput()
		if err != nil {
			t.Skipf("dpkg-deb reads packages, and is not here: %v: %s", err, out)
		}
		return string(out)
	}
	list := ask("--contents")
	for path, want := range map[string]string{
		"/usr/bin/weftd": "-rwxr-xr-x root/root", "/usr/bin/weftctl": "-rwxr-xr-x root/root", "/opt/cni/bin/weft": "-rwxr-xr-x root/root",
		"/etc/weft/weftd.env": "-rw------- root/root", "/etc/cni/net.d/10-weft.conflist": "-rw-r--r-- root/root",
		"/usr/lib/systemd/system/weftd.service": "-rw-r--r-- root/root", "/usr/lib/sysusers.d/weft.conf": "-rw-r--r-- root/root",
		"/usr/share/man/man8/weftd.8": "-rw-r--r-- root/root", "/usr/share/doc/weft/copyright": "-rw-r--r-- root/root",
	} {
		line := regexp.MustCompile(`(?m)^(\S+ \S+) .* \.` + regexp.QuoteMeta(path) + `$`).FindStringSubmatch(list)
		if line == nil || line[1] != want {
			t.Errorf("%s: %q, want %q", path, line, want)
		}
	}
	control := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--control", path, control).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	conf, err := os.ReadFile(filepath.Join(control, "conffiles"))
	files := strings.Fields(string(conf))
	slices.Sort(files)
	want := []string{"/etc/cni/net.d/10-weft.conflist", "/etc/weft/weftd.env"}
	if err != nil || !slices.Equal(files, want) {
		t.Errorf("conffiles %q %v, want %q", files, err, want)
	}
}

func TestVersions(t *testing.T) {
	for described, want := range map[string]string{
		"v1.2.3": "1.2.3", "v1.2.3-4-gabc-dirty": "1.2.3+4+gabc+dirty", "1be4c865": "0.0.0+git.1be4c865",
		"be4c865": "0.0.0+git.be4c865", "unknown": "0.0.0+git.unknown", "v1.0.0-rc.1": "1.0.0~rc.1",
	} {
		if have := packageVersion(described); have != want {
			t.Errorf("%s: %s, want %s", described, have, want)
		}
	}
}

func TestRoff(t *testing.T) {
	for line, want := range map[string]string{
		`  --flag "a\b"`: `  \-\-flag "a\eb"`, ".env": `\&.env`, "'x'": `\&'x'`, "plain": "plain",
	} {
		if have := roff(line); have != want {
			t.Errorf("%s: %s, want %s", line, have, want)
		}
	}
}
