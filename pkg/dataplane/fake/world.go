package fake

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/offload"
)

// Put is somebody else with iproute2: it makes what is not there and changes
// what is (kerneltest.Admin has the details). Nothing of it bears weft's mark.
// A link with VNI 0 is an ordinary one, such as an uplink.
func (k *Kernel) Put(s dataplane.State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("put %s: %w", what, err))
		}
	}
	for _, name := range parentsFirst(s.Links) {
		if i := k.ifaces[name]; i != nil {
			note(name, k.setLink(i, withLocal(s.Links[name], i)))
		} else {
			note(name, k.addLink(name, s.Links[name]))
		}
	}
	for key := range s.Addrs {
		if err := k.putAddr(k.ifaces[key.Link], key.Prefix); !errors.Is(err, syscall.EEXIST) {
			note(key.String(), err)
		}
	}
	maps.Copy(k.elems, s.Elems)
	k.tellElems(s.Elems)
	for key, dst := range s.FDB {
		note(key.String(), k.putFDB(k.ifaces[key.Link], key.MAC, forward{dst: dst}))
	}
	for key, m := range s.Neighs {
		note(key.String(), k.putNeigh(k.ifaces[key.Link], key.IP, m))
	}
	for key, r := range s.Routes {
		r.Unmarked = false
		note(key.String(), k.putRoute(key, route{Route: r}, true))
	}
	for key, value := range s.Sysctls {
		note(key, k.setSysctl(key, value))
	}
	return errors.Join(errs...)
}

// parentsFirst has ordinary interfaces before VXLAN devices.
func parentsFirst(links map[string]dataplane.Link) []string {
	return slices.SortedFunc(maps.Keys(links), func(a, b string) int {
		if x, y := links[a].VNI == 0, links[b].VNI == 0; x != y {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return strings.Compare(a, b)
	})
}

func withLocal(l dataplane.Link, i *iface) dataplane.Link {
	if i.vxlan != nil && !l.Local.IsValid() {
		l.Local = i.vxlan.Local
	}
	return l
}

// Delete is somebody else with iproute2; values don't matter.
func (k *Kernel) Delete(s dataplane.State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", what, err))
		}
	}
	for key := range s.Routes {
		note(key.String(), k.deleteRoute(key))
	}
	for key := range s.Neighs {
		note(key.String(), k.deleteNeigh(k.ifaces[key.Link], key.IP))
	}
	for key := range s.FDB {
		note(key.String(), k.deleteFDB(k.ifaces[key.Link], key.MAC))
	}
	for el := range s.Elems {
		if _, there := k.elems[el]; !there {
			note(el.String(), syscall.ENOENT)
		}
		delete(k.elems, el)
	}
	k.tellElems(s.Elems)
	for key := range s.Addrs {
		note(key.String(), k.deleteAddr(k.ifaces[key.Link], key.Prefix))
	}
	for name := range s.Links {
		if i := k.ifaces[name]; i != nil {
			k.deleteLink(i)
		} else {
			note(name, syscall.ENODEV)
		}
	}
	return errors.Join(errs...)
}

// Rename gives a link another name; all on it stays.
func (k *Kernel) Rename(from, to string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.ifaces[from]
	if i == nil {
		return fmt.Errorf("rename %s: %w", from, syscall.ENODEV)
	}
	return k.renameLink(i, to)
}

// Learn adds what a device with Learning learns from a received packet.
func (k *Kernel) Learn(link string, m mac.Addr, dst netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.putFDB(k.ifaces[link], m, forward{dst: dst, learned: true})
}

// Dump is everything but `lo`, sysctls and link-local addresses, as sorted lines.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for name, i := range k.ifaces {
		if name == loopback {
			continue
		}
		add("link %s %+v", name, i.link())
		for _, p := range i.sortedAddrs() {
			if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				continue
			}
			add("address %s dev %s", p, name)
		}
		for m, f := range i.fdb {
			if !f.learned {
				add("fdb %s dev %s dst %s", m, name, f.dst)
			}
		}
		for ip, m := range i.neighs {
			add("neigh %s dev %s lladdr %s", ip, name, m)
		}
	}
	for key, r := range k.routes {
		add("route %s %+v", key, r)
	}
	for el := range k.elems {
		add("element %s", el)
	}
	for key, c := range k.chains {
		if key.Engine != ruleset.NFTables {
			c.Hook, c.Jump = "", "" // they stand in the built-in chain
		}
		add("chain %s %s %s", key, c, c.Rules)
	}
	for key, rules := range k.builtIn {
		if len(rules) > 0 {
			add("built-in chain %s %+v", key, rules)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// TXChecksum is what `ethtool -k` shows of a VXLAN device: OffloadOff, or as a
// new one has it.
func (k *Kernel) TXChecksum(link string) offload.Setting {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := k.ifaces[link]; i != nil && i.vxlan != nil {
		return i.vxlan.TXChecksum
	}
	return offload.AsIs
}
