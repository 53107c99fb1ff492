package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/test/cluster/sandbox"
)

// What this program is started as, for a node.
const (
	booting = "weft-node-boot" // makes the machine and becomes
	running = "weft-node-init" // its first process, or
	joining = "weft-node-join" // a process of one that is there
)

// Main does the part of this program that it was started for, if it was
// started by this package, and tells whether it was.
func Main() (ours bool, err error) {
	switch os.Args[0] {
	case booting:
		var s Spec
		if err := json.Unmarshal([]byte(os.Args[1]), &s); err != nil {
			return true, err
		}
		return true, s.boot()
	case running:
		reap()
		return true, nil
	case joining:
		return true, join(os.Args[1], os.Args[2], os.Args[3:])
	default:
		return false, nil
	}
}

// group is the node's; the sandbox's is the one that this process came from.
func group(name string) (sandbox.Group, error) {
	box, err := sandbox.Own()
	return box.Below(name), err
}

// join becomes a command in all namespaces and the cgroup of a node.
func join(name, pid string, command []string) error {
	g, err := group(name)
	if err != nil {
		return err
	}
	if err := g.Join(); err != nil {
		return err
	}
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	args := append([]string{"nsenter", "-t", pid, "-m", "-p", "-u", "-i", "-n", "-C", "--"}, command...)
	return syscall.Exec(path, args, []string{"PATH=" + Bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"})
}

// Bin is in the PATH of a node before the host's directories.
const Bin = "/e2e/bin"

// boot runs as the first process of the new namespaces.
func (s Spec) boot() error {
	runtime.LockOSThread() // a cgroup namespace is a thread's, until exec
	g, err := group(s.Name)
	if err != nil {
		return err
	}
	if err := errors.Join(g.Make(), g.Join()); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// The names of network namespaces are a shared mount: what we unmount of
	// them would be unmounted for all.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	root, err := s.root()
	if err != nil {
		return err
	}
	if err := errors.Join(s.fill(root), mountGroups(root, g.Controllers()), shield(root)); err != nil {
		return err
	}
	if err := enter(root); err != nil {
		return err
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{running}, os.Environ())
}

// mount is one line of a node's fstab.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

func (s Spec) root() (string, error) {
	root, upper, work := filepath.Join(s.Upper, "root"), filepath.Join(s.Upper, "upper"), filepath.Join(s.Upper, "work")
	for _, dir := range []string{upper, work, s.Dir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	at := func(path string) string { return filepath.Join(root, path) }
	steps := []mount{
		{source: "overlay", target: root, kind: "overlay",
			data: fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)},
		{source: "proc", target: at("/proc"), kind: "proc"},
		{source: "sysfs", target: at("/sys"), kind: "sysfs"},
		{source: "/dev", target: at("/dev"), flags: unix.MS_BIND | unix.MS_REC},
		{source: "tmpfs", target: at("/run"), kind: "tmpfs"},
		{source: "tmpfs", target: at("/tmp"), kind: "tmpfs"},
		{source: s.Dir, target: at("/var"), flags: unix.MS_BIND},
	}
	for source, target := range s.Bind {
		steps = append(steps, mount{source: source, target: at(target), flags: unix.MS_BIND})
	}
	for _, m := range steps {
		if err := m.do(); err != nil {
			return "", err
		}
	}
	return root, nil
}

// fill gives the node files of its own, and takes away what the host may have
// of a cluster.
func (s Spec) fill(root string) error {
	for _, dir := range []string{"/etc/cni", "/opt/cni", "/etc/kubernetes", "/etc/containerd"} {
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{
		"/var/log", "/var/lib", "/var/tmp", "/run/netns", "/run/lock", "/opt/cni/bin", "/etc/cni/net.d",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(root, "/var/run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for path, content := range s.Files {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // a link of the host's, maybe
		}
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// mountGroups shows the node's group as the root of each hierarchy: a mount of
// cgroup v1 begins at the root of the cgroup namespace of who mounts.
func mountGroups(root string, controllers []string) error {
	dir := filepath.Join(root, "/sys/fs/cgroup")
	steps := []mount{{source: "tmpfs", target: dir, kind: "tmpfs"}}
	for _, c := range controllers {
		steps = append(steps, mount{source: "cgroup", target: filepath.Join(dir, c), kind: "cgroup", data: c})
	}
	for _, m := range steps {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// shield puts plain files over sysctls of the whole machine that a kubelet
// sets; those of the network are the node's own.
func shield(root string) error {
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	} {
		at := filepath.Join(root, "/proc/sys", name)
		raw, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		copied := filepath.Join(root, "/run/sysctl."+strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(copied, raw, 0o600); err != nil {
			return err
		}
		if err := unix.Mount(copied, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("shield %s: %w", name, err)
		}
	}
	return nil
}

// enter makes root the root, and shared, as on a machine with systemd: a
// kubelet's mounts have to reach containers.
func enter(root string) error {
	old := filepath.Join(root, "/run/old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/run/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}

// reap waits for orphans, as the first process of a machine has to.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
