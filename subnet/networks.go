package subnet

import (
	"fmt"
	"net/netip"
)

// family is what differs between the two in the configuration: the names of
// its keys, as flannel has them, and its bounds.
type family struct {
	name                      string
	enable                    string
	on                        bool // if enable is absent
	network, length, min, max string
	width                     int // bits of an address
	longest                   int // SubnetLen that still has room for hosts
	usual                     int // SubnetLen if nothing is said and the network has room for it
	example                   string
}

// families gives both, IPv4 first.
func families() [2]family {
	return [2]family{
		{
			name: "IPv4", enable: "EnableIPv4", on: true,
			network: "Network", length: "SubnetLen", min: "SubnetMin", max: "SubnetMax",
			width: 32, longest: 30, usual: 24, example: "10.42.0.0/16",
		},
		{
			name: "IPv6", enable: "EnableIPv6", on: false,
			network: "IPv6Network", length: "IPv6SubnetLen", min: "IPv6SubnetMin", max: "IPv6SubnetMax",
			width: 128, longest: 126, usual: 64, example: "fd42::/48",
		},
	}
}

// networks gives one Network per enabled family.
func (p *configParser) networks() []Network {
	var out []Network
	enabled := false
	for _, f := range families() {
		if !p.flag(f.enable, f.on) {
			p.unused(f)
			continue
		}
		enabled = true
		if n, ok := p.network(f); ok {
			out = append(out, n)
		}
	}
	if !enabled {
		p.failf("EnableIPv4, EnableIPv6: both are false, so there is no network; set at least one to true")
	}
	return out
}

// unused warns of what a family that is off has been told: most often its
// switch was forgotten. Wrong types are still errors, as they are in flannel.
func (p *configParser) unused(f family) {
	network, found := lookup[string](p, f.network, quoted(f.example))
	if found {
		p.warnf("%s: %s has no effect, as %s is not true", f.network, clip(network), f.enable)
	}
	lookup[uint8](p, f.length, lengthWanted(f))
	p.address(f, f.min)
	p.address(f, f.max)
}

// network reads and checks one family's four keys.
func (p *configParser) network(f family) (Network, bool) {
	failed := len(p.errs)
	prefix, ok := p.prefix(f)
	length, lengthOK := p.subnetLen(f, prefix)
	// Min and Max are decoded in any case, so that all that is of the wrong
	// type is told at once.
	first, hasMin := p.address(f, f.min)
	last, hasMax := p.address(f, f.max)
	if !ok || !lengthOK || len(p.errs) > failed {
		return Network{}, false
	}
	n := Network{Prefix: prefix, SubnetLen: length}
	base, size := number(prefix.Addr()), u128{lo: 1}.shl(f.width-length)
	// The first subnet is left out unless asked for: in flannel its network
	// address is that of the tunnel device of the whole network.
	n.Min = base.add(size).addr(f.width)
	n.Max = lastOf(prefix).sub(size).add(u128{lo: 1}).addr(f.width)
	if hasMin {
		n.Min = first
		p.bound(f.min, f.network, n, first)
	}
	if hasMax {
		n.Max = last
		p.bound(f.max, f.network, n, last)
	}
	if len(p.errs) == failed && n.Max.Less(n.Min) {
		p.failf("%s %s: is above %s %s, so no subnet is left; swap or widen them", f.min, n.Min, f.max, n.Max)
	}
	return n, len(p.errs) == failed
}

// prefix reads the network itself.
func (p *configParser) prefix(f family) (netip.Prefix, bool) {
	failed := len(p.errs)
	text, found := lookup[string](p, f.network, quoted(f.example))
	if !found {
		if len(p.errs) == failed {
			p.failf("%s: is absent though %s is on; write one such as %q", f.network, f.name, f.example)
		}
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().BitLen() != f.width || prefix.Addr().Is4In6() {
		p.failf("%s %q: is not an %s network; write one such as %q", f.network, clip(text), f.name, f.example)
		return netip.Prefix{}, false
	}
	if masked := prefix.Masked(); masked != prefix {
		p.warnf("%s %s: has bits set behind the prefix length; %s is used", f.network, prefix, masked)
		prefix = masked
	}
	if a := prefix.Addr(); prefix.Bits() == 0 || a.IsLoopback() || a.IsMulticast() {
		p.failf("%s %q: can't be given to pods; write one such as %q", f.network, prefix.String(), f.example)
		return netip.Prefix{}, false
	}
	return prefix, true
}

// subnetLen reads the length of a node's subnet, or chooses one. 0 is flannel's
// "not given". Without a valid network only the type is checked.
func (p *configParser) subnetLen(f family, network netip.Prefix) (int, bool) {
	failed := len(p.errs)
	length, _ := lookup[uint8](p, f.length, lengthWanted(f))
	if len(p.errs) > failed || !network.IsValid() {
		return 0, false
	}
	// flannel wants at least four subnets.
	shortest := network.Bits() + 2
	switch {
	case shortest > f.longest:
		p.failf("%s %s: is too small for four subnets; use /%d or larger", f.network, network, f.longest-2)
	case length == 0:
		return max(f.usual, shortest), true
	case int(length) > f.longest:
		p.failf("%s %d: leaves no host addresses; use %d or less", f.length, length, f.longest)
	case int(length) < shortest:
		p.failf("%s %d: gives fewer than four subnets in %s %s; use %d to %d",
			f.length, length, f.network, network, shortest, f.longest)
	default:
		return int(length), true
	}
	return 0, false
}

// address reads SubnetMin or SubnetMax. flannel takes the unspecified address
// for "not given".
func (p *configParser) address(f family, key string) (netip.Addr, bool) {
	text, found := lookup[string](p, key, "the network address of a subnet in quotes")
	if !found {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.BitLen() != f.width || a.Zone() != "" {
		p.failf("%s %q: is not an %s address; write the network address of a subnet", key, clip(text), f.name)
		return netip.Addr{}, false
	}
	return a, !a.IsUnspecified()
}

// bound checks SubnetMin or SubnetMax.
func (p *configParser) bound(key, network string, n Network, a netip.Addr) {
	if !n.Prefix.Contains(a) {
		p.failf("%s %s: lies outside of %s %s; use the network address of a subnet in it",
			key, a, network, n.Prefix)
		return
	}
	subnet := netip.PrefixFrom(a, n.SubnetLen).Masked()
	if subnet.Addr() != a {
		p.failf("%s %s: is not the network address of a /%d; use %s", key, a, n.SubnetLen, subnet.Addr())
	}
}

func lengthWanted(f family) string {
	return fmt.Sprintf("a whole number from 2 to %d without quotes", f.longest)
}

func quoted(s string) string { return fmt.Sprintf("%q in quotes", s) }
