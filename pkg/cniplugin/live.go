package cniplugin

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// liveAddrs gives every address that an interface of this machine has, in any
// network namespace: those of processes, and those that are kept by a mount, as
// runtimes do with a sandbox's.
func liveAddrs() (map[netip.Addr]bool, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	mounts, err := nsMounts()
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	live, seen := map[netip.Addr]bool{}, map[uint64]bool{}
	for _, path := range append(mounts, paths...) {
		if err := addAddrs(live, seen, path); err != nil {
			return nil, fmt.Errorf("look for addresses in %s: %w", path, err)
		}
	}
	return live, nil
}

// addAddrs adds the addresses of one namespace, unless it was seen before. One
// that is gone by now has none.
func addAddrs(live map[netip.Addr]bool, seen map[uint64]bool, path string) error {
	var stat unix.Stat_t
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil // no pod's: those can do less than their runtime, which started us
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Fstat(int(ns), &stat); err != nil || seen[stat.Ino] || !isNetNS(ns) {
		return err
	}
	seen[stat.Ino] = true
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			live[addr.Unmap()] = true
		}
	}
	return nil
}

// nsMounts lists the files that keep namespaces (proc_pid_mountinfo(5)).
func nsMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const root, point = 3, 4
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > point && strings.HasPrefix(fields[root], "net:[") {
			out = append(out, unescape(fields[point]))
		}
	}
	return out, lines.Err()
}

// unescape undoes the kernel's octal escapes of white space and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
