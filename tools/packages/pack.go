package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

// epoch is the time of everything in a package: no clock is in its bytes.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// entry is a file of a package.
type entry struct {
	from, to string
	mode     os.FileMode
	kind     string // as nfpm has it; "" for a plain file
}

const (
	program = 0o755
	data    = 0o644
)

// entries are the files of a package but for pages and documentation.
func (o options) entries(arch string) []entry {
	bin, dist := o.binaries(arch)+"/", filepath.Join(o.root, "dist")+"/"
	return []entry{
		{bin + "weftd", "/usr/bin/weftd", program, ""},
		{bin + "weftctl", "/usr/bin/weftctl", program, ""},
		{bin + "weft", "/opt/cni/bin/weft", program, ""},
		{dist + "cni/10-weft.conflist", "/etc/cni/net.d/10-weft.conflist", data, files.TypeConfigNoReplace},
		{dist + "systemd/weftd.env", "/etc/weft/weftd.env", 0o600, files.TypeConfigNoReplace},
		{dist + "systemd/weftd.service", "/usr/lib/systemd/system/weftd.service", data, ""},
		{dist + "systemd/weft-docker.service", "/usr/lib/systemd/system/weft-docker.service", data, ""},
		{dist + "sysusers.d/weft.conf", "/usr/lib/sysusers.d/weft.conf", data, ""},
		{dist + "tmpfiles.d/weft.conf", "/usr/lib/tmpfiles.d/weft.conf", data, ""},
		{dist + "networkd/weft.conf", "/usr/lib/systemd/networkd.conf.d/50-weft.conf", data, ""},
		{dist + "networkd/05-weft.network", "/usr/lib/systemd/network/05-weft.network", data, ""},
		{dist + "networkd/05-weft.link", "/usr/lib/systemd/network/05-weft.link", data, ""},
		{dist + "networkmanager/50-weft.conf", "/usr/lib/NetworkManager/conf.d/50-weft.conf", data, ""},
		{dist + "mk-docker-opts.sh", "/usr/share/weft/mk-docker-opts.sh", program, ""},
		{filepath.Join(o.root, "LICENSE"), "/usr/share/doc/weft/copyright", data, ""},
		{filepath.Join(o.root, "CHANGELOG.md"), "/usr/share/doc/weft/CHANGELOG.md", data, ""},
	}
}

// trees are directories whose files go along, below another one.
func (o options) trees() map[string]string {
	return map[string]string{
		o.pages():                              "/usr/share/",
		filepath.Join(o.root, "Documentation"): "/usr/share/doc/weft/",
	}
}

func (o options) contents(arch string) (files.Contents, error) {
	all := o.entries(arch)
	for from, to := range o.trees() {
		err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(from, path)
			all = append(all, entry{path, to + filepath.ToSlash(name), data, ""})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var out files.Contents
	for _, e := range all {
		out = append(out, &files.Content{
			Source: e.from, Destination: e.to, Type: e.kind,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: e.mode, MTime: epoch()},
		})
	}
	return out, nil
}

// packageVersion is the version as dpkg and rpm order it: digits first, and what
// git adds behind the tag as a later one.
func packageVersion(described string) string {
	v := strings.TrimPrefix(described, "v")
	if !regexp.MustCompile(`^[0-9]+(\.[0-9]+)*([-~+.]|$)`).MatchString(v) {
		v = "0.0.0+git." + v // no tag is known
	}
	// What comes before a release sorts before it; what git adds comes after.
	v = regexp.MustCompile(`^([0-9.]+)-(rc|alpha|beta)`).ReplaceAllString(v, "$1~$2")
	return strings.NewReplacer("-", "+", "_", "+").Replace(v)
}

// pack writes one package.
func (o options) pack(format, arch string) (string, error) {
	contents, err := o.contents(arch)
	if err != nil {
		return "", err
	}
	scripts := filepath.Join(o.root, "dist", "packages") + "/"
	info := &nfpm.Info{
		Name: "weft", Arch: arch, Platform: "linux", Version: packageVersion(o.version), VersionSchema: "none", Release: "1",
		Section: "net", Priority: "optional", Maintainer: "The weft authors <weft@weftnet.invalid>", Vendor: "weft",
		Homepage: "https://github.com/weftnet/weft", License: "Apache-2.0", MTime: epoch(),
		Description: "VXLAN overlay network for pods\n" +
			"A daemon that joins this machine to an overlay in which pods on all nodes reach each other by their own " +
			"addresses, its command line and its CNI plugin. It keeps flannel's contract.",
		Overridables: nfpm.Overridables{
			Contents: contents,
			Scripts: nfpm.Scripts{
				PostInstall: scripts + "postinstall.sh", PreRemove: scripts + "preremove.sh", PostRemove: scripts + "postremove.sh",
			},
			RPM: nfpm.RPM{BuildHost: "weft", Summary: "VXLAN overlay network for pods"},
		},
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return "", fmt.Errorf("prepare the %s for %s: %w", format, arch, err)
	}
	var packager nfpm.Packager = deb.Default
	if format == "rpm" {
		packager = rpm.DefaultRPM
	}
	path := filepath.Join(o.out, packager.ConventionalFileName(info))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if err := packager.Package(info, f); err != nil {
		_ = f.Close()
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, f.Close()
}
