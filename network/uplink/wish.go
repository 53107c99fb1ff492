package uplink

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/weftnet/weft/backend"
)

// match is an interface that a part of the wish leads to.
type match struct {
	name string
	addr netip.Addr // the address by which it was found, if any
	text string     // how a sentence about it begins
}

// byWish takes the first that can carry the tunnel.
func (c chooser) byWish() (backend.Uplink, error) {
	type part struct {
		matches      []match
		none, prefix string // what to say if there is no match, and in front of why those that are don't do
	}
	var parts []part
	for _, w := range c.wish.Ifaces {
		parts = append(parts, part{c.named(w), w + " is not on this host", ""})
	}
	for _, w := range c.wish.Regex {
		word := fmt.Sprintf("--iface-regex %s matches ", w)
		parts = append(parts, part{c.matching(w), word + "nothing", word})
	}
	if to := c.wish.CanReach; to.IsValid() {
		parts = append(parts, part{
			c.reaching(to), fmt.Sprintf("there is no path to %s", to), fmt.Sprintf("the path to %s is by ", to),
		})
	}
	var reasons []string
	for _, p := range parts {
		var lacks []string
		for _, m := range p.matches {
			up, lack := c.uplink(m.name, m.addr)
			if lack == "" {
				return up, nil
			}
			lacks = append(lacks, m.text+" "+lack)
		}
		if len(lacks) == 0 {
			reasons = append(reasons, p.none)
			continue
		}
		reasons = append(reasons, p.prefix+strings.Join(lacks, " and "))
	}
	return backend.Uplink{}, fmt.Errorf("no interface to use: %s; there is %s", strings.Join(reasons, ", "), c.list())
}

// named finds an interface by its name or one of its addresses.
func (c chooser) named(word string) []match {
	if addr, err := netip.ParseAddr(word); err == nil {
		if name := c.holder(addr); name != "" {
			return []match{{name, addr, word}}
		}
		return nil
	}
	if _, ok := c.facts.Ifaces[word]; ok {
		return []match{{name: word, text: word}}
	}
	return nil
}

// matching finds interfaces by a pattern: those with a matching address of a
// family that the cluster has, then those whose name matches.
func (c chooser) matching(pattern *regexp.Regexp) (out []match) {
	seen := map[string]bool{}
	add := func(name string, addr netip.Addr) {
		if !seen[name] {
			seen[name] = true
			out = append(out, match{name, addr, name + ", which"})
		}
	}
	for _, name := range c.names() {
		for _, p := range c.facts.Ifaces[name].Addrs {
			if c.has(p.Addr()) && pattern.MatchString(p.Addr().String()) {
				add(name, p.Addr())
			}
		}
	}
	for _, name := range c.names() {
		if pattern.MatchString(name) {
			add(name, netip.Addr{})
		}
	}
	return out
}

// reaching finds the interface of the path to an address.
func (c chooser) reaching(to netip.Addr) []match {
	path := c.facts.Paths[to]
	if _, ok := c.facts.Ifaces[path.Link]; !ok {
		return nil
	}
	return []match{{path.Link, path.Src, path.Link + ", which"}}
}
