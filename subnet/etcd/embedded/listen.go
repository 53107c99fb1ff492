package embedded

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// listenAddrs reads the list of addresses. Without TLS loopback is among them;
// with it, the certificate would have to be for loopback, too.
func listenAddrs(list string, secure, allowPlaintext bool) ([]netip.AddrPort, error) {
	if list == "" {
		list = defaultListen
	}
	var out []netip.AddrPort
	for _, text := range strings.Split(list, ",") {
		a, err := listenAddr(strings.TrimSpace(text), secure)
		if err != nil {
			return nil, err
		}
		if elsewhere(a) && !secure && !allowPlaintext {
			return nil, fmt.Errorf("embedded etcd would listen on %s without encryption and without a password; "+
				"give it a certificate by --embedded-etcd-certfile, or, if only the nodes of this cluster can reach "+
				"that address, allow it by --embedded-etcd-insecure", a)
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if !secure && !slices.ContainsFunc(out, coversLoopback) {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), out[0].Port()))
	}
	return out, nil
}

// listenAddr reads ADDRESS:PORT, or a URL of it with the right scheme.
func listenAddr(text string, secure bool) (netip.AddrPort, error) {
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case !found:
		rest = text
	case scheme == "https" && !secure:
		return netip.AddrPort{}, fmt.Errorf("embedded etcd can't listen on %q without a certificate: "+
			"give --embedded-etcd-certfile and --embedded-etcd-keyfile", text)
	case scheme == "http" && secure:
		return netip.AddrPort{}, fmt.Errorf("embedded etcd has a certificate, but %q is without encryption: "+
			"write https://%s", text, rest)
	}
	a, err := netip.ParseAddrPort(rest)
	if err != nil || found && scheme != "http" && scheme != "https" {
		return netip.AddrPort{}, fmt.Errorf("embedded etcd can't listen on %q: want ADDRESS:PORT, such as %s or [::1]:2379",
			text, defaultListen)
	}
	return a, nil
}

// elsewhere reports whether other hosts can reach what listens on a.
func elsewhere(a netip.AddrPort) bool { return !a.Addr().IsLoopback() }

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

// endpointOf is a URL at which this host reaches one of the listeners: by
// loopback, if one can be reached so.
func endpointOf(all []net.Listener, secure bool) string {
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	out := ""
	for _, l := range all {
		a, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			continue
		}
		if out == "" || coversLoopback(a) {
			out = scheme + reachable(a).String()
		}
	}
	return out
}
