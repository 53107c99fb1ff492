package vxlan

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

// device is what is decided of one device before there is a lease.
type device struct {
	family
	Options
	name          string
	mtu           int // bytes of inner IP packet
	local, public netip.Addr
}

// nameMax is how long an interface's name may be: IFNAMSIZ less the final zero.
const nameMax = 15

// devicesOf gives the device of each network of the configuration.
func devicesOf(h backend.Host) ([]device, error) {
	opts, _, err := ParseOptions(h.Config.BackendOptions)
	if err != nil {
		return nil, err
	}
	if h.Uplink.Iface == "" || h.Uplink.MTU <= 0 {
		return nil, fmt.Errorf("no uplink to build on: interface %q with MTU %d", h.Uplink.Iface, h.Uplink.MTU)
	}
	var out []device
	for i, network := range h.Config.Networks {
		f := familyOf(network.Prefix.Addr())
		d := device{family: f, Options: opts, name: f.device(opts.VNI)}
		if len(d.name) > nameMax {
			return nil, fmt.Errorf("device name %s is longer than the kernel's %d bytes: choose a Backend.VNI of at most %d",
				d.name, nameMax, f.maxVNI)
		}
		if d.local, err = addressAt(h.Uplink.Local, i, f, "local"); err != nil {
			return nil, err
		}
		if d.public, err = addressAt(h.Uplink.Public, i, f, "public"); err != nil {
			return nil, err
		}
		if d.mtu, err = mtuOf(h.Uplink, opts, f, d.name); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// addressAt takes the address of network i and checks that it is of its family.
func addressAt(addrs []netip.Addr, i int, f family, what string) (netip.Addr, error) {
	if i >= len(addrs) || !addrs[i].IsValid() || familyOf(addrs[i]) != f {
		return netip.Addr{}, fmt.Errorf("the uplink has no %s %s address for the network's %s part", what, f, f)
	}
	return addrs[i], nil
}

// mtuOf deducts the overhead from what the underlay carries. An option larger
// than the uplink's own MTU can't be true of this node, and the kernel would
// cut it down silently (vxlan_config_apply, drivers/net/vxlan).
func mtuOf(up backend.Uplink, opts Options, f family, name string) (int, error) {
	underlay, source := up.MTU, "the MTU of "+up.Iface
	if opts.MTU != 0 && opts.MTU < underlay {
		underlay, source = opts.MTU, "Backend.MTU"
	}
	if underlay-f.overhead < f.minMTU {
		return 0, fmt.Errorf("device %s would have MTU %d, %s needs %d: raise %s, %d now, to %d or more",
			name, underlay-f.overhead, f, f.minMTU, source, underlay, f.minMTU+f.overhead)
	}
	return underlay - f.overhead, nil
}

// is tells whether an interface is this device, whatever its name. The kernel
// lets two VXLAN devices share VNI and port if their families differ
// (VXLAN_F_IPV6); one without a local address is an IPv4 one.
func (d device) is(iface dataplane.Iface) bool {
	v := iface.VXLAN
	return v != nil && v.VNI == d.VNI && v.Port == d.Port && v.Local.Is6() == (d.family.width == width6)
}

// address chooses the MAC of a device.
func (d device) address(h backend.Host, prev []subnet.Share) mac.Addr {
	name := ""
	for n, iface := range h.Facts.Ifaces {
		if d.is(iface) && iface.MAC.IsUnicast() && (name == "" || n < name) {
			name = n
		}
	}
	if name != "" {
		return h.Facts.Ifaces[name].MAC
	}
	for _, share := range prev {
		if vtep, err := ParseVTEP(share.Data); err == nil && share.Public.BitLen() == d.width {
			return vtep.MAC
		}
	}
	random := [6]byte(h.Random[d.seed:])
	random[5] = random[5]&^1 | d.parity
	return mac.Local(random)
}

// family is all that differs between the two.
type family struct {
	width    int    // bits of an address
	prefix   string // of the device's name; flannel's, and tools look for it
	maxVNI   int    // the largest whose name fits
	overhead int    // bytes: outer IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14
	minMTU   int    // RFC 791, RFC 8200
	seed     int    // where in Host.Random its MAC begins
	parity   byte   // last bit of a random MAC: it keeps the families' apart
}

const width6 = 128

// familyOf is the table.
func familyOf(a netip.Addr) family {
	if a.BitLen() == width6 {
		return family{
			width: width6, prefix: "flannel-v6.", maxVNI: 9999, overhead: 70, minMTU: 1280,
			seed: 6, parity: 1,
		}
	}
	return family{width: a.BitLen(), prefix: "flannel.", maxVNI: 9_999_999, overhead: 50, minMTU: 68}
}

func (f family) device(vni int) string { return f.prefix + strconv.Itoa(vni) }

// String is "IPv4" or "IPv6".
func (f family) String() string {
	if f.width == width6 {
		return "IPv6"
	}
	return "IPv4"
}
