package gather

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/doctor"
)

// host reads files and counters.
func (o Options) host(f doctor.Facts) doctor.Host {
	h := doctor.Host{
		CNI: o.cni(), Zones: o.zones(), Manager: o.manager(), Networkd: o.networkd(), Policies: o.macPolicies(),
		Conntrack: doctor.Fill{
			Have: o.sysctl("net/netfilter/nf_conntrack_count"), Max: o.sysctl("net/netfilter/nf_conntrack_max"),
		},
		Neighbours: doctor.Fill{
			Max: o.sysctl("net/ipv4/neigh/default/gc_thresh3"), Dropped: tableFulls("/proc/net/stat/arp_cache"),
		},
	}
	for _, n := range f.Tables.Neighs {
		if n.State != "permanent" && n.State != "noarp" && n.IP.Is4() { // those are not counted (neigh_alloc)
			h.Neighbours.Have++
		}
	}
	for _, file := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		h.Sockets = append(h.Sockets, boundPorts(file)...)
	}
	h.Kernel, h.Lacks = linux.Release(), linux.Lacks()
	for _, dir := range []string{o.StateDir, filepath.Dir(o.SubnetFile), o.Attachments} {
		if d, ok := linux.Room(dir); dir != "" && ok {
			h.Disks = append(h.Disks, doctor.Disk{
				Path: dir, Free: d.Free, Size: d.Size, FreeNodes: d.FreeNodes, Inodes: d.Nodes,
			})
		}
	}
	return h
}

func (o Options) sysctl(name string) int {
	b, err := os.ReadFile(filepath.Join(cmp.Or(o.SysctlDir, "/proc/sys"), name))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// tableFulls sums the column of that name of /proc/net/stat/*, one line per CPU.
func tableFulls(file string) (sum int) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	column := slices.Index(strings.Fields(lines[0]), "table_fulls")
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		if column < 0 || column >= len(words) {
			return 0
		}
		n, _ := strconv.ParseInt(words[column], 16, 64)
		sum += int(n)
	}
	return sum
}

// boundPorts lists the ports of all UDP sockets, a VXLAN device's too.
func boundPorts(file string) (out []uint16) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(b), "\n")[1:] {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		_, port, _ := strings.Cut(words[1], ":")
		raw, err := hex.DecodeString(port)
		if err == nil && len(raw) == 2 {
			out = append(out, binary.BigEndian.Uint16(raw))
		}
	}
	return out
}

// cni lists the configurations as container runtimes do: by name (libcni).
func (o Options) cni() (out []doctor.CNI) {
	const dir = "etc/cni/net.d"
	entries, err := os.ReadDir(o.path(dir))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".conflist" && ext != ".conf" && ext != ".json" {
			continue
		}
		var conf struct {
			Type    string
			Plugins []struct{ Type string }
		}
		if json.Unmarshal([]byte(o.content(filepath.Join(dir, e.Name()))), &conf) != nil {
			continue // runtimes pass over it as well
		}
		c := doctor.CNI{File: filepath.Join("/", dir, e.Name())}
		if conf.Type != "" {
			c.Types = append(c.Types, conf.Type)
		}
		for _, p := range conf.Plugins {
			c.Types = append(c.Types, p.Type)
		}
		out = append(out, c)
	}
	return out
}

// zones are the interfaces in firewalld's own zone files.
func (o Options) zones() (out []string) {
	name := regexp.MustCompile(`<interface\s+name="([^"]+)"`)
	for _, file := range o.glob("etc/firewalld/zones/*.xml") {
		for _, m := range name.FindAllStringSubmatch(o.content(file), -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// glob gives paths below the root, in order of their base names: so do systemd
// and NetworkManager read what lies in several directories.
func (o Options) glob(patterns ...string) (out []string) {
	for _, p := range patterns {
		found, _ := filepath.Glob(o.path(p)) // only a bad pattern is an error
		for _, f := range found {
			rel, err := filepath.Rel(o.path(""), f)
			if err == nil {
				out = append(out, rel)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
	return out
}

// settings visits "key=value" lines of an INI file with their section.
func settings(content string, visit func(section, key, value string)) {
	section := ""
	for _, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			if key, value, ok := strings.Cut(line, "="); ok {
				visit(section, strings.TrimSpace(key), strings.TrimSpace(value))
			}
		}
	}
}

func (o Options) manager() doctor.NetworkManager {
	m := doctor.NetworkManager{Runs: o.exists("run/NetworkManager")}
	files := append([]string{"etc/NetworkManager/NetworkManager.conf"}, o.glob(
		"usr/lib/NetworkManager/conf.d/*.conf", "run/NetworkManager/conf.d/*.conf", "etc/NetworkManager/conf.d/*.conf")...)
	for _, file := range files {
		settings(o.content(file), func(_, key, value string) {
			if strings.TrimSuffix(key, "+") != "unmanaged-devices" {
				return
			}
			for _, word := range strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == ',' }) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(word), "interface-name:"); ok {
					m.Unmanaged = append(m.Unmanaged, strings.TrimPrefix(name, "="))
				}
			}
		})
	}
	return m
}

func (o Options) networkd() doctor.Networkd {
	n := doctor.Networkd{Runs: o.exists("run/systemd/netif/state")}
	for _, file := range o.networkFiles(".network") {
		f := doctor.NetworkdFile{Path: filepath.Join("/", file)}
		settings(o.content(file), func(section, key, value string) {
			switch {
			case section == "Match" && key == "Name":
				f.Names = append(f.Names, strings.Fields(value)...)
			case section == "Link" && key == "Unmanaged":
				f.Unmanaged = isYes(value)
			}
		})
		if len(f.Names) > 0 {
			n.Files = append(n.Files, f)
		}
	}
	foreign := map[string]bool{}
	for _, file := range append([]string{"etc/systemd/networkd.conf"},
		o.glob("usr/lib/systemd/networkd.conf.d/*.conf", "run/systemd/networkd.conf.d/*.conf",
			"etc/systemd/networkd.conf.d/*.conf")...) {
		settings(o.content(file), func(_, key, value string) { foreign[key] = isYes(value) })
	}
	routes, saysRoutes := foreign["ManageForeignRoutes"]
	hops, saysHops := foreign["ManageForeignNextHops"]
	n.KeepsForeign = saysRoutes && !routes && saysHops && !hops
	return n
}

// networkFiles are systemd's of one kind, in the order in which they are tried.
func (o Options) networkFiles(ext string) []string {
	return o.glob("usr/lib/systemd/network/*"+ext, "run/systemd/network/*"+ext, "etc/systemd/network/*"+ext)
}

func isYes(s string) bool {
	return slices.Contains([]string{"yes", "true", "1", "on"}, strings.ToLower(s))
}

// macPolicies are udev's files that give links MACs of their own. The one that
// systemd ships does so for all links without a MAC that was set.
func (o Options) macPolicies() (out []string) {
	for _, file := range o.networkFiles(".link") {
		settings(o.content(file), func(_, key, value string) {
			if key == "MACAddressPolicy" && value != "none" {
				out = append(out, filepath.Join("/", file))
			}
		})
	}
	return out
}
