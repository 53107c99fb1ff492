package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

// machine is a node with a Debian tree of its own and systemd as its first
// process, in namespaces of its own and a cgroup of its own.
type machine struct {
	*daemon // the weftd that its systemd runs; not started here
	tree    string
	host    *topology.Process // unshare, who ends when systemd does
	init    string            // systemd's process id, as we see it
}

// unpack gives a fresh Debian tree; WEFT_DEBIAN is one, packed.
func unpack(t *testing.T, dir string) string {
	t.Helper()
	packed := os.Getenv("WEFT_DEBIAN")
	if packed == "" {
		t.Skip("no Debian tree: make packages-test makes one, and runs this")
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil { //nolint:gosec // a root directory
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", tree, "-xpf", packed).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", packed, err, out)
	}
	// What acts on the kernel that we share with it, and what wants a terminal.
	for _, unit := range []string{
		"systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service", "sys-kernel-debug.mount",
		"sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "proc-sys-fs-binfmt_misc.automount",
		"kmod-static-nodes.service", "console-getty.service", "getty-static.service", "getty.target",
		"timers.target", "e2scrub_reap.service",
	} {
		if err := os.Symlink("/dev/null", filepath.Join(tree, "etc/systemd/system", unit)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// boot: $1 is the tree, $2 the name of the cgroup. The mount of /run is one
// already, so that systemd leaves it, and we see it from outside.
const (
	enclose = `mount --make-rprivate / && mount -t cgroup2 none "$1/mnt" && mkdir "$1/mnt/$2" &&
		echo $$ >"$1/mnt/$2/cgroup.procs" && umount "$1/mnt" &&
		exec unshare --pid --fork --kill-child --cgroup --ipc --uts --mount sh -ec "$3" sh "$1"`
	boot = `mount --bind "$1" "$1"; cd "$1"
		mount -t proc none proc; mount -t sysfs none sys; mount -t cgroup2 none sys/fs/cgroup
		mount --bind run run; mount -t tmpfs -o mode=755 none dev
		for d in null zero full random urandom tty; do : >dev/$d; mount --bind /dev/$d dev/$d; done
		ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
		pivot_root . mnt; umount -l /mnt
		exec env -i container=weft PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd`
	removeCgroup = `mount --make-rprivate / && mount -t cgroup2 none "$1" && find "$1/$2" -depth -type d -exec rmdir {} +`
)

// boot starts systemd on a node, and waits until it has nothing left to start.
func (c *cluster) boot(t *testing.T, i int) *machine {
	t.Helper()
	n := c.Nodes[i]
	m := &machine{daemon: &daemon{t: t, node: n}, tree: unpack(t, n.Dir)}
	for at, in := range map[string]string{
		n.SubnetFile(): "run/flannel/subnet.env", n.Attachments(): "var/lib/cni/weft",
		filepath.Join(n.Dir, "weftd.sock"): "run/weft/weftd.sock",
	} {
		if err := os.Symlink(filepath.Join(m.tree, in), at); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(n.Dir, "systemd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	said := func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", enclose, "sh", m.tree, n.Name, boot) //nolint:gosec // ours
	cmd.Stdout, cmd.Stderr = log, log
	if m.host, err = n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %s\n%s", n.Name, said(), m.try("journalctl", "--no-pager", "-n", "80"))
		}
		_ = m.host.Signal(syscall.SIGKILL)
		<-m.host.Done()
		m.leaveCgroup()
	})
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", m.host.Pid())
	eventually(t, time.Minute, func() error {
		list, err := os.ReadFile(children)
		m.init = strings.TrimSpace(string(list))
		if err != nil {
			return fmt.Errorf("%w: %s", err, said())
		}
		if m.init == "" {
			return fmt.Errorf("systemd of %s is not there: %s", n.Name, said())
		}
		if state := strings.TrimSpace(m.try("systemctl", "is-system-running")); state != "running" {
			return fmt.Errorf("%s is %q: %s", n.Name, state, m.try("systemctl", "--failed", "--no-pager"))
		}
		return nil
	})
	return m
}

// leaveCgroup removes the cgroup when the kernel has ended all that was in it.
func (m *machine) leaveCgroup() {
	dir := m.t.TempDir()
	eventually(m.t, 20*time.Second, func() error {
		out, err := exec.Command("unshare", "--mount", "sh", "-c", removeCgroup, "sh", dir, m.node.Name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("remove the cgroup %s: %w\n%s", m.node.Name, err, out)
		}
		return nil
	})
}

// inside prepares a command that runs in the machine, in its namespaces.
func (m *machine) inside(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", m.init, "--mount", "--pid", "--root", "--wd", "--cgroup",
		"--net", "--ipc", "--uts", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	return cmd
}

// try runs a command in the machine and gives what it says.
func (m *machine) try(args ...string) string {
	out, err := m.inside(args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	return string(out)
}

// run runs a command in the machine, which must succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.inside(args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %s: %v\n%s", m.node.Name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
