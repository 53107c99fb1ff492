package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/topology"
)

// debs are two of our packages: one of before, and the newer one.
func debs(t *testing.T) (before, now string) {
	t.Helper()
	return packages(t, "DEB")
}

func packages(t *testing.T, format string) (before, now string) {
	t.Helper()
	before, now = os.Getenv("WEFT_"+format+"_BEFORE"), os.Getenv("WEFT_"+format)
	if before == "" || now == "" {
		t.Skip("no packages: make packages-test builds them, and runs this")
	}
	return before, now
}

// image is a Debian tree in which nothing runs, as when an image is built.
type image struct {
	t    *testing.T
	tree string
}

// systemdsOwn is a directory that systemd's package has by another name.
const systemdsOwn = "dpkg: warning: while removing weft, directory '/usr/lib/systemd/network' not empty so not removed"

// run runs a command in the tree, which must succeed, and without a warning.
func (i image) run(args ...string) string {
	i.t.Helper()
	const enter = `mount -t proc none "$0/proc" && exec chroot "$0" "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "sh", "-c", enter, i.tree}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	said := strings.ReplaceAll(string(out), systemdsOwn, "")
	if err != nil || regexp.MustCompile(`(?i)\b(error|failed|warning|no such file)\b`).MatchString(said) {
		i.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (i image) put(path, text string) {
	i.t.Helper()
	if err := os.WriteFile(filepath.Join(i.tree, path), []byte(text), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

// place copies a package into the tree.
func (i image) place(deb, as string) {
	i.t.Helper()
	content, err := os.ReadFile(deb)
	if err != nil {
		i.t.Fatal(err)
	}
	i.put(as, string(content))
}

// owned gives the mode and owner of each file, but for what dpkg and the
// accounts' programs keep for themselves.
func (i image) owned() map[string]string {
	i.t.Helper()
	const accounts = `etc/(passwd|group|shadow|gshadow)-?$|etc/\.pwd\.lock$`
	books := regexp.MustCompile(`^(var/(lib/dpkg|log|cache)|proc|dev|` + accounts + `)`)
	out := map[string]string{}
	err := filepath.WalkDir(i.tree, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(i.tree, path)
		if err != nil || books.MatchString(name) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		out[name] = fmt.Sprintf("%s %d:%d", info.Mode(), stat.Uid, stat.Gid)
		return nil
	})
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// TestDebInATree installs, upgrades, removes and purges the package where no
// systemd runs, and looks at every file that comes and goes.
func TestDebInATree(t *testing.T) {
	before, now := debs(t)
	i := image{t, unpack(t, t.TempDir())}
	i.place(before, "srv/before.deb")
	i.place(now, "srv/now.deb")
	bare := i.owned()
	i.run("dpkg", "-i", "/srv/before.deb")
	i.holds()

	const settings = "WEFTD_ETCD_ENDPOINTS=http://192.0.2.1:2379\n"
	i.put("etc/weft/weftd.env", settings)
	i.run("dpkg", "-i", "/srv/now.deb")
	kept, err := os.ReadFile(filepath.Join(i.tree, "etc/weft/weftd.env"))
	if err != nil || string(kept) != settings {
		t.Errorf("after the upgrade the settings are %q (%v)", kept, err)
	}
	if out := i.run("weftd", "--version"); strings.Contains(out, "v0.0.0 ") {
		t.Errorf("after the upgrade weftd is %s", out)
	}
	i.run("dpkg", "--remove", "weft")
	if _, err := os.Stat(filepath.Join(i.tree, "etc/weft/weftd.env")); err != nil {
		t.Errorf("after the removal: %v", err)
	}
	i.run("dpkg", "-i", "/srv/now.deb") // settings of before, found again
	i.run("dpkg", "--purge", "weft")
	i.purged(bare)
}

// TestRpmInATree does the same with rpm, which is no program of this tree's
// distribution: dependencies are not looked at.
func TestRpmInATree(t *testing.T) {
	before, now := packages(t, "RPM")
	i := image{t, unpack(t, t.TempDir())}
	i.place(before, "srv/before.rpm")
	i.place(now, "srv/now.rpm")
	i.run("rpm", "--nodeps", "-i", "/srv/before.rpm")
	i.holds()
	const settings = "WEFTD_ETCD_ENDPOINTS=http://192.0.2.1:2379\n"
	i.put("etc/weft/weftd.env", settings)
	for _, step := range []struct {
		args []string
		old  bool
	}{
		{[]string{"-U", "/srv/now.rpm"}, false},
		{[]string{"-U", "--oldpackage", "/srv/before.rpm"}, true},
	} {
		i.run(append([]string{"rpm", "--nodeps"}, step.args...)...)
		if v := i.run("weftd", "--version"); strings.HasPrefix(v, "v0.0.0 ") != step.old {
			t.Errorf("after rpm %v weftd is %s", step.args, v)
		}
		kept, err := os.ReadFile(filepath.Join(i.tree, "etc/weft/weftd.env"))
		if err != nil || string(kept) != settings {
			t.Errorf("after rpm %v the settings are %q (%v)", step.args, kept, err)
		}
	}
	i.run("sh", "-c", "rpm -e weft 2>/srv/said") // that it saves the settings
	kept, err := os.ReadFile(filepath.Join(i.tree, "etc/weft/weftd.env.rpmsave"))
	if err != nil || string(kept) != settings {
		t.Errorf("after rpm -e the settings are %q (%v)", kept, err)
	}
	have := i.owned()
	for _, path := range []string{
		"usr/bin/weftd", "opt/cni/bin/weft", "usr/lib/systemd/system/weftd.service", "usr/share/doc/weft/copyright",
	} {
		if have[path] != "" {
			t.Errorf("rpm -e leaves %s", path)
		}
	}
}

// holds looks at what an installation has made.
func (i image) holds() {
	t := i.t
	t.Helper()
	id := strings.Fields(i.run("sh", "-c", "id -u weft; id -g weft; getent passwd weft | cut -d: -f6,7"))
	if len(id) != 3 || id[2] != "/var/lib/weft:/usr/sbin/nologin" {
		t.Errorf("user weft is %q", id)
	}
	have := i.owned()
	for path, want := range map[string]string{
		"usr/bin/weftd": "-rwxr-xr-x 0:0", "usr/bin/weftctl": "-rwxr-xr-x 0:0", "opt/cni/bin/weft": "-rwxr-xr-x 0:0",
		"etc/weft/weftd.env": "-rw------- 0:0", "etc/cni/net.d/10-weft.conflist": "-rw-r--r-- 0:0",
		"etc/weft": "drwxr-xr-x 0:0", "usr/lib/systemd/system/weftd.service": "-rw-r--r-- 0:0",
		"run/xtables.lock": "-rw-rw---- 0:" + id[1], "var/lib/cni/weft": "drwx------ 0:0",
	} {
		if have[path] != want {
			t.Errorf("%s: %q, want %q", path, have[path], want)
		}
	}
	out := i.run("sh", "-c", "weftd --version; weftctl version; systemctl is-enabled weftd || true")
	if !regexp.MustCompile(`(?s)v0\.0\.0 .*v0\.0\.0 .*\ndisabled\n`).MatchString(out) {
		t.Errorf("versions, and whether it starts at boot: %s", out)
	}
}

// purged wants the tree as bare as it was.
func (i image) purged(bare map[string]string) {
	t := i.t
	t.Helper()
	left := i.owned()
	var more []string
	for path := range left {
		if _, ok := bare[path]; !ok {
			more = append(more, path)
		}
	}
	slices.Sort(more)
	if d := cmp.Diff([]string{"run/xtables.lock"}, more); d != "" { // iptables' own
		t.Errorf("left by the purge: %s", d)
	}
	for path, mode := range bare {
		if left[path] != mode {
			t.Errorf("%s was %s, is %q", path, mode, left[path])
		}
	}
}

// installed boots a machine with a package in it, and has weftd started at each
// of its boots.
func (c *cluster) installed(t *testing.T, i int, deb string, settings ...string) *machine {
	t.Helper()
	c.Nodes[i].PTP = true // as the package's CNI configuration
	m := c.boot(t, i)
	m.image().place(deb, "srv/before.deb")
	m.run("dpkg", "-i", "/srv/before.deb")
	if state := m.try("systemctl", "is-active", "weftd"); state != "inactive\n" {
		t.Errorf("weftd after the package is installed: %s", state)
	}
	m.run("sh", "-c", "cat >>/etc/weft/weftd.env <<EOF\n"+strings.Join(settings, "\n")+"\nEOF")
	m.run("systemctl", "enable", "--now", "weftd")
	return m
}

func (m *machine) image() image { return image{m.t.(*testing.T), m.tree} }

// runs waits until a version of weftd runs that found the kernel as it should
// be, and looks whether it runs as the unit says.
func (m *machine) runs(version string) {
	m.t.Helper()
	eventually(m.t, 30*time.Second, func() error {
		s, err := m.status()
		if err == nil && s.Version != version {
			err = fmt.Errorf("%s runs %q, want %q", m.node.Name, s.Version, version)
		}
		return err
	})
	m.unchanged(true)
	who := m.run("sh", "-c", `cat /proc/$(systemctl show -P MainPID weftd)/status; echo weft $(id -u weft)`)
	fields := map[string]string{}
	for line := range strings.Lines(who) {
		if f := strings.Fields(line); len(f) > 1 {
			fields[f[0]] = f[1]
		}
	}
	const three = "0000000000003004" // DAC_READ_SEARCH, NET_ADMIN, NET_RAW
	if fields["Uid:"] != fields["weft"] || fields["CapEff:"] != three || fields["CapBnd:"] != three ||
		fields["NoNewPrivs:"] != "1" || fields["Seccomp:"] != "2" {
		m.t.Errorf("%s: weftd runs as %s", m.node.Name, who)
	}
}

// TestDebUnderTraffic: two machines with systemd, on which the package is
// installed, upgraded, rolled back and removed while pods talk.
func TestDebUnderTraffic(t *testing.T) {
	before, now := debs(t)
	c := newCluster(t, 2, underlay4, underlay6)
	store := c.installed(t, 0, before, "WEFTD_EMBEDDED_ETCD=true", "WEFTD_EMBEDDED_ETCD_LISTEN="+c.etcdURL(),
		"WEFTD_EMBEDDED_ETCD_INSECURE=true", "WEFTD_NETWORK=10.42.0.0/16", "WEFTD_IPV6_NETWORK=fd00:42::/48")
	other := c.installed(t, 1, before, "WEFTD_ETCD_ENDPOINTS="+c.etcdURL())
	var pods []*topology.Pod
	for i, m := range []*machine{store, other} {
		m.awaitReady(1)
		pod, err := c.Nodes[i].AddPod(t.Context(), filepath.Join(m.tree, "opt/cni/bin/weft"), "a")
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, pod)
		m.image().place(now, "srv/now.deb")
	}
	var streams []*stream
	for i, pod := range pods {
		to := pods[1-i]
		for _, addr := range to.Addrs {
			streams = append(streams, startStream(t, &pod.Namespace, &to.Namespace, addr))
		}
	}
	store.run("dpkg-deb", "-x", "/srv/now.deb", "/srv/now")
	newer := strings.Fields(store.run("/srv/now/usr/bin/weftd", "--version"))[0]
	for _, m := range []*machine{store, other} { // upgraded, and rolled back
		for _, deb := range [][2]string{{"now", newer}, {"before", "v0.0.0"}} {
			m.open = true
			m.run("dpkg", "-i", "/srv/"+deb[0]+".deb")
			m.runs(deb[1])
		}
	}
	other.killed()
	other.runs("v0.0.0")
	other.run("dpkg", "--remove", "weft")
	watch(t, 200, streams...) // the kernel does it
	other.run("dpkg", "-i", "/srv/now.deb")
	other.run("systemctl", "enable", "--now", "weftd")
	other.awaitReady(1)
	for _, s := range streams {
		s.flawless()
	}
	other.leaves("--lease", "--etcd-endpoints", c.etcdURL())
	store.awaitReady(0) // peers
	store.leaves()
}

// killed wants systemd to start weftd again after kill -9.
func (m *machine) killed() {
	m.t.Helper()
	m.run("systemctl", "kill", "--signal=KILL", "weftd")
	eventually(m.t, 20*time.Second, func() error {
		if n := m.run("systemctl", "show", "-P", "NRestarts", "weftd"); n != "1\n" {
			return fmt.Errorf("%s after kill -9: %s restarts", m.node.Name, n)
		}
		return nil
	})
	m.open = false
}

// leaves takes weft off the machine, as Documentation/packages.md has it.
func (m *machine) leaves(how ...string) {
	m.t.Helper()
	m.run("systemctl", "disable", "--now", "weftd")
	m.run(append([]string{"weftctl", "cleanup"}, how...)...)
	m.run("dpkg", "--purge", "weft")
	for _, gone := range []string{
		"ip link show flannel.1", "test -e /var/lib/weft", "test -e /run/weft", "test -e /run/flannel/subnet.env", "test -e /etc/weft",
		"test -e /etc/systemd/system/multi-user.target.wants/weftd.service",
	} {
		if _, err := m.inside("sh", "-c", gone).CombinedOutput(); err == nil {
			m.t.Errorf("%s after the purge: %s", m.node.Name, gone)
		}
	}
}
