package linux

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// link is an interface as the kernel describes it.
type link struct {
	index int
	name  string
	mtu   int
	mac   mac.Addr
	up    bool
	vxlan *vxlan
	// features is true in the notification of a change of what ethtool -k shows.
	features bool
}

type vxlan struct {
	vni, port     int
	local         netip.Addr
	parent        int // interface index, 0 for none
	learning, gbp bool
	external      bool // takes all VNIs of its port ("ip link … external")
}

const (
	kindVXLAN = "vxlan"
	// skipStats spares the kernel counting and us reading (RTEXT_FILTER_SKIP_STATS).
	skipStats = 1 << 3
)

func parseLink(m []byte) (link, bool) {
	if len(m) < unix.SizeofIfInfomsg || nl.DeserializeIfInfomsg(m).Family != unix.AF_UNSPEC {
		return link{}, false // of AF_BRIDGE: it speaks of a bridge port, not of the link
	}
	parsed, err := netlink.LinkDeserialize(nil, m)
	if err != nil {
		return link{}, false
	}
	a := parsed.Attrs()
	l := link{
		index: a.Index, name: a.Name, mtu: a.MTU, mac: mac.FromBytes(a.HardwareAddr),
		up: a.RawFlags&unix.IFF_UP != 0,
	}
	if v, ok := parsed.(*netlink.Vxlan); ok {
		l.vxlan = &vxlan{
			vni: v.VxlanId, port: v.Port, parent: v.VtepDevIndex,
			learning: v.Learning, gbp: v.GBP, external: v.FlowBased,
		}
		if ip, ok := netip.AddrFromSlice(v.SrcAddr); ok && !ip.IsUnspecified() {
			l.vxlan.local = ip
		}
	}
	for a := range attrs(m[unix.SizeofIfInfomsg:]) {
		if a.kind == unix.IFLA_EVENT {
			l.features = a.uint32() == unix.IFLA_EVENT_FEATURES
		}
	}
	return l, true
}

// vxlans lists the VXLAN devices; the kernel filters by kind.
func (k *Kernel) vxlans() ([]link, error) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kindVXLAN))
	all, err := dump(k, unix.RTM_GETLINK, parseLink,
		nl.NewIfInfomsg(unix.AF_UNSPEC), info, uint32Attr(unix.IFLA_EXT_MASK, skipStats))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no device of that kind was ever made: its module is not loaded
	}
	if err != nil {
		return nil, fmt.Errorf("list VXLAN devices: %w", err)
	}
	return slices.DeleteFunc(all, func(l link) bool { return l.vxlan == nil }), nil
}

func (k *Kernel) allLinks() ([]link, error) {
	all, err := dump(k, unix.RTM_GETLINK, parseLink,
		nl.NewIfInfomsg(unix.AF_UNSPEC), uint32Attr(unix.IFLA_EXT_MASK, skipStats))
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

func (k *Kernel) linkByName(name string) (link, bool, error) {
	l, ok, err := get(k, unix.RTM_GETLINK, parseLink, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), uint32Attr(unix.IFLA_EXT_MASK, skipStats))
	if errors.Is(err, unix.ENODEV) {
		return link{}, false, nil
	}
	if err != nil {
		return link{}, false, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l, ok, nil
}

func (k *Kernel) linkByIndex(index int) (link, bool, error) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	l, ok, err := get(k, unix.RTM_GETLINK, parseLink, header, uint32Attr(unix.IFLA_EXT_MASK, skipStats))
	if errors.Is(err, unix.ENODEV) {
		return link{}, false, nil
	}
	if err != nil {
		return link{}, false, fmt.Errorf("look up interface %d: %w", index, err)
	}
	return l, ok, nil
}

// value is the link in canonical form. parent is the name of its underlay.
func (l link) value(parent string) dataplane.Link {
	v := dataplane.Link{MAC: l.mac, MTU: l.mtu, Up: l.up}
	if l.vxlan != nil {
		v.VNI, v.Port, v.Local, v.Parent = l.vxlan.vni, l.vxlan.port, l.vxlan.local, parent
		v.Learning, v.GBP = l.vxlan.learning, l.vxlan.gbp
	}
	return v
}

// is tells whether the device has the identity that the kernel grants only
// once: VNI, port, and the family of the outer address, if both sides say one.
func (l link) is(want dataplane.Link) bool {
	v := l.vxlan
	return v != nil && !v.external && v.vni == want.VNI && v.port == want.Port &&
		(!v.local.IsValid() || !want.Local.IsValid() || v.local.Is4() == want.Local.Is4())
}

// claim finds the device of each wanted name: by its identity, whatever it is
// called now; failing that, a device that bears the name and the VNI is ours
// though its port differs.
func claim(wanted map[string]dataplane.Link, devices []link) map[string]link {
	names := slices.Sorted(maps.Keys(wanted))
	devices = slices.SortedFunc(slices.Values(devices), func(a, b link) int { return cmp.Compare(a.index, b.index) })
	out := make(map[string]link, len(names))
	taken := make(map[int]bool, len(names))
	pass := func(fits func(name string, l link) bool) {
		for _, name := range names {
			if _, done := out[name]; done {
				continue
			}
			i := slices.IndexFunc(devices, func(l link) bool { return !taken[l.index] && fits(name, l) })
			if i >= 0 {
				out[name] = devices[i]
				taken[devices[i].index] = true
			}
		}
	}
	pass(func(name string, l link) bool { return l.name == name && l.is(wanted[name]) })
	pass(func(name string, l link) bool { return l.is(wanted[name]) })
	pass(func(name string, l link) bool {
		return l.name == name && l.vxlan.vni == wanted[name].VNI && !l.vxlan.external
	})
	return out
}

// parents names the underlay interfaces of devices, by index.
func (k *Kernel) parents(devices map[string]link) (map[int]link, error) {
	out := map[int]link{}
	for _, l := range devices {
		if l.vxlan == nil || l.vxlan.parent == 0 {
			continue
		}
		parent, ok, err := k.linkByIndex(l.vxlan.parent)
		if err != nil {
			return nil, err
		}
		if ok {
			out[parent.index] = parent
		}
	}
	return out, nil
}
