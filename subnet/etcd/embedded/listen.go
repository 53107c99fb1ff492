package embedded

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// listenAddrs reads the list of addresses, with loopback among them.
func listenAddrs(list string, allowPlaintext bool) ([]netip.AddrPort, error) {
	if list == "" {
		list = defaultListen
	}
	var out []netip.AddrPort
	for _, text := range strings.Split(list, ",") {
		text = strings.TrimPrefix(strings.TrimSpace(text), "http://")
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fmt.Errorf("embedded etcd can't listen on %q: want ADDRESS:PORT, such as %s or [::1]:2379",
				text, defaultListen)
		}
		if !a.Addr().IsLoopback() && !allowPlaintext {
			return nil, fmt.Errorf("embedded etcd would listen on %s without encryption and without a password; "+
				"if only the nodes of this cluster can reach that address, allow it by --embedded-etcd-insecure", a)
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if !slices.ContainsFunc(out, coversLoopback) {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), out[0].Port()))
	}
	return out, nil
}

func coversLoopback(a netip.AddrPort) bool { return a.Addr().IsLoopback() || a.Addr().IsUnspecified() }

// reachable is where this host finds what listens on a.
func reachable(a netip.AddrPort) netip.AddrPort {
	switch a.Addr().WithZone("") {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// loopbackEndpoint is the URL of the first listener that loopback reaches.
func loopbackEndpoint(all []net.Listener) string {
	for _, l := range all {
		a, err := netip.ParseAddrPort(l.Addr().String())
		if err == nil && coversLoopback(a) {
			return "http://" + reachable(a).String()
		}
	}
	return ""
}
