package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// claimed finds the one device that has this identity or this name.
func (k *Kernel) claimed(name string, identity dataplane.Link) (link, bool, error) {
	all, err := k.vxlans()
	if err != nil {
		return link{}, false, err
	}
	l, ok := claim(map[string]dataplane.Link{name: identity}, all)[name]
	return l, ok, nil
}

// createLink makes a VXLAN device. All goes into the one message, so that
// nobody (udev, NetworkManager) sees the device with another MAC, and a device
// that can't come up leaves nothing behind.
func (k *Kernel) createLink(name string, want dataplane.Link) error {
	parent, err := k.parentIndex(want)
	if err != nil {
		return err
	}
	data := []nl.NetlinkRequestData{linkHeader(0), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))}
	if want.Up {
		data[0] = linkUp(0, true)
	}
	if want.MTU != 0 {
		data = append(data, uint32Attr(unix.IFLA_MTU, uint32(want.MTU)))
	}
	if !want.MAC.IsZero() {
		data = append(data, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC.Hardware()))
	}
	data = append(data, newVXLAN(want, parent))
	err = k.write(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
	switch {
	case errors.Is(err, unix.EEXIST):
		err = k.createExisting(name, want, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("the kernel makes no VXLAN devices (is its module vxlan missing?): %w", err)
	case errors.Is(err, unix.EADDRINUSE):
		err = k.portOccupied(want, err)
	}
	if err != nil {
		return err
	}
	// A router advertisement from the overlay must not configure the host.
	// Where this can't be written (/proc/sys read-only, no IPv6) the device
	// works all the same.
	_ = k.writeSysctl("net/ipv6/conf/"+name+"/accept_ra", "0")
	return k.setTXChecksum(name, want.TXChecksum)
}

// createExisting handles the EEXIST of a create: the name is taken, or VNI and
// port are. The very device that is wanted is brought into line, for Apply is
// idempotent; one that came under another name is for the next Observe to see.
func (k *Kernel) createExisting(name string, want dataplane.Link, cause error) error {
	mine, ok, err := k.claimed(name, want)
	switch {
	case err != nil:
		return err
	case ok && mine.is(want) && mine.name == name:
		return k.changeLink(name, want)
	case ok && mine.is(want):
		return fmt.Errorf("VNI %d with UDP port %d is taken by the VXLAN device %s: %w",
			want.VNI, want.Port, mine.name, cause)
	}
	other, ok, err := k.linkByName(name)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("%w: %s is %s; rename or delete it", dataplane.ErrOccupied, name, other.kindText())
	}
	return fmt.Errorf("VNI %d with UDP port %d is taken by another VXLAN device; "+
		"find it with `ip -d link show type vxlan`: %w", want.VNI, want.Port, cause)
}

func (l link) kindText() string {
	if l.vxlan == nil {
		return "another kind of interface"
	}
	return fmt.Sprintf("a VXLAN device with VNI %d and port %d", l.vxlan.vni, l.vxlan.port)
}

// portOccupied explains EADDRINUSE: the kernel could not bind the UDP port of
// the device. VXLAN devices share a socket only if their receive flags agree.
func (k *Kernel) portOccupied(want dataplane.Link, cause error) error {
	holder := "a process (see `ss -lunp`)"
	all, err := k.vxlans()
	if err != nil {
		return errors.Join(cause, err)
	}
	for _, l := range all {
		if l.vxlan.port == want.Port && l.up && (l.vxlan.external || l.vxlan.gbp != want.GBP) {
			holder = "the VXLAN device " + l.name + " (it has other receive flags: external or gbp)"
		}
	}
	return fmt.Errorf("UDP port %d is occupied by %s; free it or choose another Port: %w", want.Port, holder, cause)
}

// changeLink brings our device into line, whatever differs now, with messages
// that hold only what differs: the kernel refuses a message that repeats what
// can't change.
func (k *Kernel) changeLink(name string, want dataplane.Link) error {
	have, ok, err := k.claimed(name, want)
	if err != nil {
		return err
	}
	if !ok || !have.is(want) {
		return fmt.Errorf("no VXLAN device with VNI %d and port %d: %w", want.VNI, want.Port, unix.ENODEV)
	}
	if have.name != name {
		if err := k.rename(have, name); err != nil {
			return err
		}
	}
	parent, err := k.parentIndex(want)
	if err != nil {
		return err
	}
	err = k.changeSource(have, want, parent, func() error {
		for _, data := range changes(have, want, parent) {
			data = append([]nl.NetlinkRequestData{linkHeader(have.index)}, data...)
			if err := k.write(unix.RTM_NEWLINK, 0, data...); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = k.setTXChecksum(name, want.TXChecksum)
	}
	if err != nil || have.up == want.Up {
		return err
	}
	err = k.write(unix.RTM_NEWLINK, 0, linkUp(have.index, want.Up))
	if errors.Is(err, unix.EADDRINUSE) {
		err = k.portOccupied(want, err)
	}
	return err
}

// changes are the messages that bring a device into line. What makes it a VXLAN
// device is in one of its own: the kernel refuses an MTU in the same message
// (vxlan_nl2conf). It comes first, for it sets how large the MTU may be.
func changes(have link, want dataplane.Link, parent int) (messages [][]nl.NetlinkRequestData) {
	if info := changedVXLAN(have.vxlan, want, parent); info != nil {
		messages = append(messages, []nl.NetlinkRequestData{info})
	}
	var plain []nl.NetlinkRequestData
	if have.mtu != want.MTU && want.MTU != 0 {
		plain = append(plain, uint32Attr(unix.IFLA_MTU, uint32(want.MTU)))
	}
	if have.mac != want.MAC && !want.MAC.IsZero() {
		plain = append(plain, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC.Hardware()))
	}
	if plain != nil {
		messages = append(messages, plain)
	}
	return messages
}

// rename works on a live interface since Linux 6.2; before, it must go down
// for the moment, and what that takes along is for the next Observe to see.
func (k *Kernel) rename(l link, name string) error {
	attr := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))
	err := k.write(unix.RTM_NEWLINK, 0, linkHeader(l.index), attr)
	if errors.Is(err, unix.EBUSY) && l.up {
		if err := k.write(unix.RTM_NEWLINK, 0, linkUp(l.index, false)); err != nil {
			return err
		}
		renamed := k.write(unix.RTM_NEWLINK, 0, linkHeader(l.index), attr)
		err = errors.Join(renamed, k.write(unix.RTM_NEWLINK, 0, linkUp(l.index, true)))
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: the name is taken, so %s keeps its own", dataplane.ErrOccupied, l.name)
	}
	return err
}

// deleteLink removes the device that was seen under this name.
func (k *Kernel) deleteLink(name string, seen dataplane.Link) error {
	l, ok, err := k.claimed(name, seen)
	if err != nil || !ok || !l.is(seen) {
		return err
	}
	k.memory.letGo(l.index)
	return ignoreGone(k.write(unix.RTM_DELLINK, 0, linkHeader(l.index)))
}

// meetParent makes Watch know the addresses of an underlay interface, so that
// it can tell a new one from a router's refresh of one that is there.
func (k *Kernel) meetParent(l link) error {
	if k.memory.knows(l.index) {
		return nil
	}
	all, err := k.addresses(l.index)
	if err != nil {
		return err
	}
	k.memory.meet(l, all)
	return nil
}

func (k *Kernel) parentIndex(l dataplane.Link) (int, error) {
	if l.Parent == "" {
		return 0, nil
	}
	parent, ok, err := k.linkByName(l.Parent)
	if err == nil && !ok {
		err = fmt.Errorf("underlay interface %s: %w", l.Parent, unix.ENODEV)
	}
	if err != nil {
		return 0, err
	}
	return parent.index, k.meetParent(parent)
}

func linkHeader(index int) *nl.IfInfomsg {
	h := nl.NewIfInfomsg(unix.AF_UNSPEC)
	h.Index = int32(index)
	return h
}

func linkUp(index int, up bool) *nl.IfInfomsg {
	h := linkHeader(index)
	h.Change = unix.IFF_UP
	if up {
		h.Flags = unix.IFF_UP
	}
	return h
}

// newVXLAN says what flannel's devices are: source ports of the kernel's
// choice, UDP checksums on (IPv6: for sending and receiving too), nothing else.
func newVXLAN(want dataplane.Link, parent int) *nl.RtAttr {
	info, data := vxlanInfo()
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(want.VNI)))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(want.Port)))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, boolean(want.Learning))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, boolean(true))
	if want.GBP {
		data.AddRtAttr(nl.IFLA_VXLAN_GBP, nil)
	}
	if parent != 0 {
		data.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(parent)))
	}
	addLocal(data, want.Local)
	return info
}

// changedVXLAN is nil if nothing differs that can change in place.
func changedVXLAN(have *vxlan, want dataplane.Link, parent int) *nl.RtAttr {
	info, data := vxlanInfo()
	changed := false
	if have.local != want.Local && want.Local.IsValid() {
		addLocal(data, want.Local)
		changed = true
	}
	if have.parent != parent && parent != 0 {
		data.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(parent)))
		changed = true
	}
	if have.learning != want.Learning {
		data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, boolean(want.Learning))
		changed = true
	}
	if !changed {
		return nil
	}
	return info
}

func vxlanInfo() (info, data *nl.RtAttr) {
	info = nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kindVXLAN))
	return info, info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
}

func addLocal(data *nl.RtAttr, local netip.Addr) {
	switch {
	case local.Is4():
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, local.AsSlice())
	case local.Is6():
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, local.AsSlice())
	}
}

func boolean(v bool) []byte {
	if v {
		return []byte{1}
	}
	return []byte{0}
}
