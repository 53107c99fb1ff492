package cniplugin

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settle waits until the kernel acts on the carrier that the link has by now.
// It does so in a work queue, and until then a bridge's port forwards nothing
// and IPv6 doesn't use the link: the pod's first packet would be lost, and its
// resend takes a second. Since Linux 6.8 the question alone settles it
// (linkwatch_sync_dev in rtnl_getlink); before, it is a matter of milliseconds.
// A link that doesn't come up is for the pod's probes to find, not for us.
func settle(r *rtnetlink, index int) error {
	const patience, step = time.Second, time.Millisecond
	if index == 0 {
		return nil
	}
	for end := time.Now().Add(patience); ; <-time.After(step) {
		link, err := r.link("", index)
		if err != nil {
			return refused(fmt.Sprintf("ask for the state of link %d", index), err)
		}
		state := link.Attrs().OperState
		// The kernel's own rule (netif_oper_up): a bridge that never was
		// without a carrier stays unknown for ever.
		if state == netlink.OperUp || state == netlink.OperUnknown || time.Now().After(end) {
			return nil
		}
	}
}

// answers waits until the link's IPv6 addresses are answered for. Duplicate
// address detection is off (accept_dad=0), yet the kernel takes the last step,
// joining the solicited-node group, in a work queue; until then the address is
// tentative and neighbour solicitations for it are lost, which costs the one who
// asks a second. It takes milliseconds, unless somebody's own bridge does detect
// duplicates: that takes seconds, and is not waited for. A link that is not there (index 0, point to point) has none.
func answers(h *netlink.Handle, index int) error {
	if index == 0 {
		return nil
	}
	const patience, step = 100 * time.Millisecond, time.Millisecond
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for end := time.Now().Add(patience); ; <-time.After(step) {
		addrs, err := h.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return refused("read the addresses of the new link", err)
		}
		tentative := false
		for _, a := range addrs {
			tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
		}
		if !tentative || time.Now().After(end) {
			return nil
		}
	}
}
