package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/tables"
)

func deviceChecks() []Check {
	return []Check{
		{
			"device", "the VXLAN device of each family", "the tunnel's device is missing or down",
			"systemctl restart weftd", deviceMissing,
		},
		{
			"port-taken", "UDP sockets on the tunnel's port",
			"a program has the tunnel's port, so the device can't be up", "end it, or change Backend.Port for all nodes",
			portTaken,
		},
		{
			"overlay-clash", "other VXLAN devices on the same port",
			"another overlay takes this one's packets: same port, and same VNI or all VNIs",
			"remove the other overlay's device, or change Backend.Port or VNI for all nodes", overlayClash,
		},
		{
			"mac-changed", "the device's MAC, and the one that peers were told",
			"something gave the device another MAC than the lease says (udev's MACAddressPolicy does): peers send to the " +
				"old one",
			"systemctl restart weftd, and keep udev off: a .link file with [Match] OriginalName=flannel* and " +
				"[Link] MACAddressPolicy=none", macChanged,
		},
		{
			"uplink", "the device's underlay interface and address, and the routes to peers",
			"the tunnel stands on the wrong interface", "name the right one with --iface or --public-ip, and restart weftd",
			wrongUplink,
		},
	}
}

// ours is the device of a family, by what the kernel knows it by.
func (f Facts) ours(ipv6 bool) (tables.Link, bool) {
	for _, l := range f.Tables.Links {
		v := l.VXLAN
		if v != nil && !v.External && v.VNI == f.Overlay.VNI && v.Port == f.Overlay.Port && v.Local.Is6() == ipv6 {
			return l, true
		}
	}
	return tables.Link{}, false
}

// families are those of our subnets: true is IPv6.
func (f Facts) families() (out []bool) {
	for _, s := range f.Overlay.Subnets {
		out = append(out, s.Addr().Is6())
	}
	return out
}

// tunnels tells whether there must be VXLAN devices.
func (f Facts) tunnels() bool { return f.Overlay.Backend == "vxlan" && f.Overlay.Port != 0 }

func (f Facts) deviceName(ipv6 bool) string {
	if ipv6 {
		return fmt.Sprintf("flannel-v6.%d", f.Overlay.VNI)
	}
	return fmt.Sprintf("flannel.%d", f.Overlay.VNI)
}

func deviceMissing(f Facts) (out []Finding) {
	if !f.tunnels() {
		return nil
	}
	for _, ipv6 := range f.families() {
		l, ok := f.ours(ipv6)
		switch {
		case !ok:
			out = append(out, Finding{Evidence: fmt.Sprintf("no VXLAN device with VNI %d and port %d (%s)", f.Overlay.VNI,
				f.Overlay.Port, f.deviceName(ipv6))})
		case !l.Up:
			out = append(out, Finding{Evidence: l.Name + " is down", Mend: "ip link set " + l.Name + " up, or start weftd"})
		}
	}
	return out
}

func portTaken(f Facts) []Finding {
	if !f.tunnels() || !slices.Contains(f.Host.Sockets, uint16(f.Overlay.Port)) {
		return nil
	}
	for _, l := range f.Tables.Links {
		if l.VXLAN != nil && l.Up && l.VXLAN.Port == f.Overlay.Port {
			return nil // it is the device's own, which looks like any other
		}
	}
	return []Finding{{
		Evidence: fmt.Sprintf("a program has bound UDP port %d", f.Overlay.Port),
		Mend: fmt.Sprintf("ss -ulpn 'sport = :%d' names it: end it, or change Backend.Port for all nodes",
			f.Overlay.Port),
	}}
}

func overlayClash(f Facts) (out []Finding) {
	for _, l := range f.Tables.Links {
		v := l.VXLAN
		if v == nil || !f.tunnels() || v.Port != f.Overlay.Port || strings.HasPrefix(l.Name, "flannel") {
			continue
		}
		switch mine, _ := f.ours(v.Local.Is6()); {
		case mine.Index == l.Index: // ours, renamed
		case v.External:
			out = append(out, Finding{Evidence: fmt.Sprintf("%s takes every VNI of port %d", l.Name, v.Port),
				Mend: "ip link del " + l.Name + ", if its overlay is gone; else another Backend.Port for all nodes"})
		case v.VNI == f.Overlay.VNI:
			out = append(out, Finding{Evidence: fmt.Sprintf("%s has VNI %d and port %d too", l.Name, v.VNI, v.Port),
				Mend: "ip link del " + l.Name + ", if its overlay is gone; else another VNI for all nodes"})
		}
	}
	return out
}

func macChanged(f Facts) (out []Finding) {
	for _, self := range f.Overlay.Self {
		l, ok := f.ours(self.Subnet.Addr().Is6())
		if !ok || self.MAC.IsZero() || l.MAC == self.MAC {
			continue
		}
		evidence := fmt.Sprintf("%s has %s, the lease says %s", l.Name, l.MAC, self.MAC)
		if len(f.Host.Policies) > 0 {
			evidence += "; MACAddressPolicy is set in " + strings.Join(f.Host.Policies, ", ")
		}
		out = append(out, Finding{Evidence: evidence})
	}
	return out
}

func wrongUplink(f Facts) (out []Finding) {
	for _, ipv6 := range f.families() {
		l, ok := f.ours(ipv6)
		if !ok {
			continue
		}
		if _, has := f.Tables.Owner(l.VXLAN.Local); l.VXLAN.Local.IsValid() && !has {
			out = append(out, Finding{Evidence: fmt.Sprintf("%s sends from %s, which is no address of this node", l.Name,
				l.VXLAN.Local)})
		}
		parent, ok := f.Tables.Link(l.VXLAN.Parent)
		if !ok {
			continue
		}
		if !parent.Up || !parent.Carrier {
			out = append(out, Finding{Cause: "the underlay's interface is down", Mend: "ip link show " + parent.Name,
				Evidence: parent.Name + " is down or has no carrier"})
			continue
		}
		if p, by := f.elsewhere(l); p.IsValid() {
			out = append(out, Finding{Evidence: fmt.Sprintf("%s stands on %s, but peer %s is reached by %s", l.Name, parent.Name,
				p, by)})
		}
	}
	return out
}

// beside are the tables without the routes into the cluster's networks, which
// may be many and lead to no node's own address.
func (f Facts) beside() tables.Space {
	s := f.Tables
	s.Routes = nil
	for _, r := range f.Tables.Routes {
		if _, inside := f.network(r.Prefix); !inside {
			s.Routes = append(s.Routes, r)
		}
	}
	return s
}

// elsewhere gives a peer that is not reached over the device's parent.
func (f Facts) elsewhere(l tables.Link) (netip.Addr, string) {
	beside := f.beside()
	for _, p := range f.Peers {
		if p.Public.Is6() != l.VXLAN.Local.Is6() {
			continue
		}
		found, ok := beside.Lookup(tables.Ask{Src: l.VXLAN.Local, Dst: p.Public})
		if ok && !found.Route.Refuses() && found.Route.Link != l.VXLAN.Parent {
			return p.Public, f.Tables.Text(found.Route)
		}
	}
	return netip.Addr{}, ""
}
