package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/tables"
)

func hostChecks() []Check {
	return []Check{
		{
			"ip-forward", "ip_forward, and forwarding of IPv6", "this node forwards nothing",
			"sysctl -w net.ipv4.ip_forward=1, also in /etc/sysctl.d: something sets it back", forwardingOff,
		},
		{
			"rp-filter", "rp_filter where packets of peers come in, and the routes back",
			"the strict check of sources drops what peers send, for the way back leads elsewhere",
			"sysctl -w net.ipv4.conf.all.rp_filter=2", reversePath,
		},
		{
			"network-manager", "NetworkManager's list of interfaces to leave alone",
			"NetworkManager manages the tunnel or the bridge",
			"/etc/NetworkManager/conf.d/weft.conf: [keyfile] unmanaged-devices=interface-name:flannel*;interface-name:cni*;" +
				"interface-name:veth*, then systemctl reload NetworkManager", networkManager,
		},
		{
			"networkd", "systemd-networkd's .network files",
			"systemd-networkd manages the tunnel or the bridge, or removes their routes",
			"/etc/systemd/network/10-weft.network: [Match] Name=flannel* cni* veth*, [Link] Unmanaged=yes; " +
				"then networkctl reload", networkd,
		},
		{
			"cni-config", "the container runtime's CNI directory",
			"another CNI's configuration comes first, so pods get its network",
			"remove or rename the other file, and delete the pods that got its addresses", cniConfig,
		},
	}
}

func forwardingOff(f Facts) (out []Finding) {
	for _, ipv6 := range f.families() {
		name := "net/ipv4/ip_forward"
		if ipv6 {
			name = "net/ipv6/conf/all/forwarding"
		}
		if f.Tables.Sysctls[name] == "0" {
			out = append(out, Finding{Evidence: name + " is 0", Mend: "sysctl -w " + name + "=1, also in /etc/sysctl.d"})
		}
	}
	return out
}

// strict is what the kernel makes of two sysctls: the larger counts.
func (f Facts) strict(link string) bool {
	all, own := f.Tables.Sysctls["net/ipv4/conf/all/rp_filter"], f.Tables.Sysctls["net/ipv4/conf/"+link+"/rp_filter"]
	return max(all, own) == "1"
}

func reversePath(f Facts) []Finding {
	dev, ok := f.ours(false)
	if !ok {
		return nil
	}
	parent, hasParent := f.Tables.Link(dev.VXLAN.Parent)
	under, over := hasParent && f.strict(parent.Name), f.strict(dev.Name)
	beside, have := f.beside(), f.entries()
	for _, p := range f.Peers {
		if !p.Public.Is4() {
			continue
		}
		if under {
			back, ok := beside.Lookup(tables.Ask{Src: dev.VXLAN.Local, Dst: p.Public})
			if !ok || back.Route.Link != parent.Index {
				return []Finding{{Evidence: fmt.Sprintf("rp_filter is strict on %s, and the way to peer %s is %q", parent.Name,
					p.Public, f.Tables.Text(back.Route))}} // all peers would say the same
			}
		}
		back, ok := have.routes[p.Subnet]
		if over && ok && back.Link != dev.Index && (!hasParent || back.Link != parent.Index) {
			return []Finding{{Evidence: fmt.Sprintf("rp_filter is strict on %s, and the way to %s is %q", dev.Name, p.Subnet,
				f.Tables.Text(back))}}
		}
	}
	return nil
}

// devices are the names that others should keep their hands off.
func (f Facts) devices() (names []string) {
	for _, ipv6 := range f.families() {
		if l, ok := f.ours(ipv6); ok {
			names = append(names, l.Name)
		}
	}
	for _, s := range f.Overlay.Subnets {
		if b := f.bridge(s); !slices.Contains(names, b) {
			names = append(names, b)
		}
	}
	return names
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return err == nil && ok
	})
}

func networkManager(f Facts) []Finding {
	if !f.Host.Manager.Runs {
		return nil
	}
	managed := slices.DeleteFunc(f.devices(), func(n string) bool { return matches(f.Host.Manager.Unmanaged, n) })
	if len(managed) == 0 {
		return nil
	}
	return []Finding{{Evidence: "NetworkManager runs, and is not told to leave alone: " + strings.Join(managed, ", ")}}
}

func networkd(f Facts) (out []Finding) {
	if !f.Host.Networkd.Runs {
		return nil
	}
	for _, name := range f.devices() {
		i := slices.IndexFunc(f.Host.Networkd.Files, func(n NetworkdFile) bool { return matches(n.Names, name) })
		if i >= 0 && !f.Host.Networkd.Files[i].Unmanaged {
			out = append(out, Finding{Evidence: fmt.Sprintf("%s takes %s", f.Host.Networkd.Files[i].Path, name)})
		}
	}
	if len(out) == 0 && !f.Host.Networkd.KeepsForeign {
		out = append(out, Finding{
			Level: Warn, Evidence: "systemd-networkd removes others' routes and nexthops when it starts anew",
			Mend: "/etc/systemd/networkd.conf.d/weft.conf: [Network] ManageForeignRoutes=no, ManageForeignNextHops=no, " +
				"ManageForeignRoutingPolicyRules=no",
		})
	}
	return out
}

func cniConfig(f Facts) []Finding {
	if len(f.Host.CNI) == 0 {
		return nil
	}
	first := f.Host.CNI[0]
	if slices.Contains(first.Types, "weft") || slices.Contains(first.Types, "flannel") {
		return nil
	}
	return []Finding{{Evidence: fmt.Sprintf("%s comes first, with plugins of types %s", first.File,
		strings.Join(first.Types, ", "))}}
}
