// Package subnetenv is the file that tells a node's pods where they live:
// flannel's subnet.env, by default /run/flannel/subnet.env.
//
// It owns the text form. Encode is byte for byte what flannel writes, because
// scripts and other vendors' tools source the file as shell; Parse takes what
// flannel's own readers take. What a file can't say for certain is an error
// that names the key, never a guess: a wrong subnet gives pods addresses of
// another node.
package subnetenv

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Env is what the daemon promises to the pods of this node.
type Env struct {
	Networks []netip.Prefix // the cluster's networks, masked, IPv4 first
	Subnets  []netip.Prefix // ours: one per family, masked, IPv4 first
	MTU      int            // bytes, of a pod's interface
	IPMasq   bool           // the daemon masquerades what leaves the cluster
}

// family binds an address family to its two keys.
type family struct {
	name, network, subnet string
	has                   func(netip.Prefix) bool
}

const (
	keyMTU    = "FLANNEL_MTU"
	keyIPMasq = "FLANNEL_IPMASQ"

	// Bounds of an MTU: RFC 791 asks every link for 68, and the kernel's
	// virtual links end at 65535.
	minMTU, maxMTU = 68, 65535
)

// families gives the keys in the order in which flannel writes them.
func families() [2]family {
	return [2]family{
		{
			"IPv4", "FLANNEL_NETWORK", "FLANNEL_SUBNET",
			func(p netip.Prefix) bool { return p.Addr().Is4() },
		},
		{
			"IPv6", "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET",
			func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().Is4In6() },
		},
	}
}

// FirstHost is the first address after a subnet's network address: the address
// of the bridge, and what FLANNEL_SUBNET shows. A subnet of one address has
// none, and gives that address.
func FirstHost(subnet netip.Prefix) netip.Addr {
	first := subnet.Masked().Addr()
	if subnet.IsSingleIP() {
		return first
	}
	return first.Next()
}

// Encode gives the file's content. Several networks of one family become a
// comma list; of several subnets of one family only the first is said, since no
// reader takes two.
func Encode(e Env) []byte {
	var b bytes.Buffer
	for _, f := range families() {
		var networks []string
		for _, n := range e.Networks {
			if f.has(n) {
				networks = append(networks, n.Masked().String())
			}
		}
		if len(networks) > 0 {
			fmt.Fprintf(&b, "%s=%s\n", f.network, strings.Join(networks, ","))
		}
		for _, s := range e.Subnets {
			if f.has(s) {
				fmt.Fprintf(&b, "%s=%s\n", f.subnet, netip.PrefixFrom(FirstHost(s), s.Bits()))
				break
			}
		}
	}
	fmt.Fprintf(&b, "%s=%d\n%s=%t\n", keyMTU, e.MTU, keyIPMasq, e.IPMasq)
	return b.Bytes()
}

// Parse reads what Encode or flannel wrote, or an operator by hand: blank
// lines, comments, quotes and "export" are taken, unknown keys are passed over,
// of a key that stands twice the last counts (as in the shell). A family must
// be whole, network and subnet, so that a file cut short is noticed.
func Parse(b []byte) (Env, error) {
	values, err := assignments(b)
	if err != nil {
		return Env{}, err
	}
	var e Env
	for _, f := range families() {
		networks, subnet, err := f.parse(values)
		if err != nil {
			return Env{}, err
		}
		e.Networks = append(e.Networks, networks...)
		if subnet.IsValid() {
			e.Subnets = append(e.Subnets, subnet)
		}
	}
	if len(e.Subnets) == 0 {
		return Env{}, missing(families()[0].subnet)
	}
	mtu, ok := values[keyMTU]
	if !ok {
		return Env{}, missing(keyMTU)
	}
	e.MTU, err = strconv.Atoi(mtu)
	if err != nil || e.MTU < minMTU || e.MTU > maxMTU {
		return Env{}, bad(keyMTU, mtu, fmt.Sprintf("an MTU is a number from %d to %d", minMTU, maxMTU))
	}
	masq, ok := values[keyIPMasq]
	if !ok {
		return Env{}, missing(keyIPMasq)
	}
	if e.IPMasq, err = strconv.ParseBool(masq); err != nil {
		return Env{}, bad(keyIPMasq, masq, "it is true or false")
	}
	return e, nil
}

// parse reads one family's pair of keys; both absent is no family, no error.
func (f family) parse(values map[string]string) ([]netip.Prefix, netip.Prefix, error) {
	list, hasNetwork := values[f.network]
	text, hasSubnet := values[f.subnet]
	switch {
	case !hasNetwork && !hasSubnet:
		return nil, netip.Prefix{}, nil
	case !hasNetwork:
		return nil, netip.Prefix{}, missing(f.network)
	case !hasSubnet:
		return nil, netip.Prefix{}, missing(f.subnet)
	}
	var networks []netip.Prefix
	for item := range strings.SplitSeq(list, ",") {
		p, err := f.prefix(f.network, item)
		if err != nil {
			return nil, netip.Prefix{}, err
		}
		networks = append(networks, p)
	}
	subnet, err := f.prefix(f.subnet, text)
	return networks, subnet, err
}

func (f family) prefix(key, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil || !f.has(p) {
		return netip.Prefix{}, bad(key, text, "it must be an "+f.name+" prefix such as "+f.example())
	}
	return p.Masked(), nil
}

func (f family) example() string {
	if f.name == "IPv4" {
		return "10.42.1.1/24"
	}
	return "2001:db8:42:1::1/64"
}

// assignments splits the text into KEY=value pairs.
func assignments(b []byte) (map[string]string, error) {
	values := map[string]string{}
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: %.40q is not KEY=value: %s", number, line, nextStep)
		}
		values[strings.TrimSpace(key)] = unquote(strings.TrimSpace(value))
	}
	return values, nil
}

// unquote takes the value out of quotes, or cuts a comment off behind it.
func unquote(s string) string {
	if s == "" {
		return s
	}
	if q := s[0]; q == '"' || q == '\'' {
		if end := strings.IndexByte(s[1:], q); end >= 0 {
			return s[1 : 1+end]
		}
		return s
	}
	if i := strings.Index(s, " #"); i >= 0 {
		return strings.TrimSpace(s[:i])
	}
	return s
}

const nextStep = "the file is damaged or of another program; restart weftd to have it written anew"

func missing(key string) error { return fmt.Errorf("%s is missing: %s", key, nextStep) }

func bad(key, value, rule string) error {
	return fmt.Errorf("%s=%.60q: %s: %s", key, value, rule, nextStep)
}
