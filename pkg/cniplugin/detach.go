package cniplugin

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// detach removes the pair of an attachment: by the host's end, which we named;
// else, for pods that another plugin attached before us, by the pod's.
func (k *kernel) detach(hostIf string, req request) error {
	removed, err := removeVeth(k.host, hostIf)
	if removed || err != nil || req.netns == "" {
		return err
	}
	pod, err := k.enterPod(req.netns)
	if err != nil || !pod {
		return err
	}
	h, err := k.podHandle()
	if err == nil {
		_, err = removeVeth(h, req.ifName)
	}
	return err
}

// undo removes what an attachment made. The bridge stays, as it is the node's.
func (k *kernel) undo(a plan) error {
	if _, err := removeVeth(k.host, a.hostIf); err != nil {
		return err
	}
	for _, p := range a.proxies {
		if err := k.unproxy(p.bridge, []netip.Addr{p.addr}); err != nil {
			return err
		}
	}
	return nil
}

// removeVeth removes a veth pair by one end. What is no veth was not made by a
// CNI plugin of ours or its like, and stays.
func removeVeth(h *netlink.Handle, name string) (removed bool, err error) {
	link, err := h.LinkByName(name)
	if err == nil {
		if link.Type() != "veth" {
			return false, nil
		}
		err = h.LinkDel(link)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, new(netlink.LinkNotFoundError)), errors.Is(err, unix.ENODEV):
		return false, nil
	}
	return false, refused("remove "+name, err)
}

// hasHostLink tells whether the host has a link of that name.
func hasHostLink(name string) (bool, error) {
	index, err := linkIndex(name)
	return index != 0, err
}
