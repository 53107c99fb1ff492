package linux

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Neighbour gives the path of the namespace that has the address, among those
// that share a link with this one: pods of this node. It looks where programs
// keep namespaces by name, and at those of all processes; hints are looked at
// first. It is "" where there is none.
func (k *Kernel) Neighbour(ip netip.Addr, hints ...string) (string, error) {
	seen := map[uint64]bool{}
	places := hints
	for _, pattern := range []string{"/run/netns/*", "/run/docker/netns/*", "/proc/[0-9]*/ns/net"} {
		found, _ := filepath.Glob(pattern) // only a bad pattern is an error
		places = append(places, found...)
	}
	for _, path := range places {
		info, err := os.Stat(path)
		if err != nil {
			continue // it went meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if seen[st.Ino] {
				continue
			}
			seen[st.Ino] = true
		}
		has, err := k.neighbourHas(path, ip)
		if err != nil {
			return "", err
		}
		if has {
			return path, nil
		}
	}
	return "", nil
}

// neighbourHas gives false without an error for what is no namespace of ours.
func (k *Kernel) neighbourHas(path string, ip netip.Addr) (bool, error) {
	h, err := netns.GetFromPath(path)
	if err != nil {
		return false, nil
	}
	defer func() { _ = h.Close() }()
	id := -1
	if err := k.ns.do(func() (err error) {
		id, err = netlink.GetNetNsIdByFd(int(h))
		return err
	}); err != nil {
		return false, fmt.Errorf("ask for the id of namespace %s: %w", path, err)
	}
	if id < 0 { // no link leads there
		return false, nil
	}
	other, err := New(Options{Namespace: h})
	if err != nil {
		return false, nil
	}
	defer other.Close()
	all, err := other.addresses(0)
	if err != nil {
		return false, nil
	}
	return slices.ContainsFunc(all, func(a address) bool { return a.prefix.Addr() == ip }), nil
}
