package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/mac"
)

// neighbour is an entry of the FDB (family AF_BRIDGE) or of a neighbour table.
type neighbour struct {
	family uint8
	index  int
	state  uint16
	mac    mac.Addr
	ip     netip.Addr // of an FDB entry: the underlay address of the VTEP
	odd    bool       // an FDB entry with a port, VNI, interface or nexthop of its own
}

func parseNeighbour(m []byte) (neighbour, bool) {
	var header netlink.Ndmsg
	if len(m) < header.Len() {
		return neighbour{}, false
	}
	n := neighbour{
		family: m[0],
		index:  int(nl.NativeEndian().Uint32(m[4:])),
		state:  nl.NativeEndian().Uint16(m[8:]),
	}
	if m[10]&netlink.NTF_PROXY != 0 {
		return neighbour{}, false
	}
	for a := range attrs(m[header.Len():]) {
		switch a.kind {
		case netlink.NDA_DST:
			n.ip = a.addr()
		case netlink.NDA_LLADDR:
			n.mac = mac.FromBytes(a.value)
		case netlink.NDA_PORT, netlink.NDA_VNI, netlink.NDA_IFINDEX, netlink.NDA_NH_ID:
			n.odd = true
		}
	}
	return n, true
}

// permanent tells whether the entry is one that is written, by us or by an
// operator, and not learned or made by the kernel: it makes an all-zero FDB
// entry for a device with a group or remote, and NOARP neighbours for multicast.
func (n neighbour) permanent() bool {
	if n.state&netlink.NUD_PERMANENT == 0 {
		return false
	}
	if n.family == unix.AF_BRIDGE {
		return n.mac.IsUnicast()
	}
	return n.ip.IsValid() && !n.ip.IsMulticast()
}

func ndmsg(family uint8, index int, state uint16) *netlink.Ndmsg {
	m := &netlink.Ndmsg{Family: family, Index: uint32(index), State: state}
	if family == unix.AF_BRIDGE {
		m.Flags = netlink.NTF_SELF
	}
	return m
}

// neighbours lists the permanent entries of one interface. AF_UNSPEC means the
// neighbours of both families, AF_BRIDGE the FDB.
func (k *Kernel) neighbours(family uint8, index int) ([]neighbour, error) {
	all, err := dump(k, unix.RTM_GETNEIGH, func(m []byte) (neighbour, bool) {
		n, ok := parseNeighbour(m)
		wanted := ok && n.index == index && (n.family == unix.AF_BRIDGE) == (family == unix.AF_BRIDGE)
		return n, wanted && n.permanent()
	}, &netlink.Ndmsg{Family: family}, uint32Attr(netlink.NDA_IFINDEX, uint32(index)))
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	return all, nil
}

var errNoGet = errors.New("the kernel reads no single neighbour")

func (e *encoder) getNeighbour(index int, ip netip.Addr) {
	e.beginNeighbour(unix.RTM_GETNEIGH, 0, family(ip), index, 0)
	e.addrAttr(netlink.NDA_DST, ip)
	e.end()
}

func (e *encoder) getForward(index int, m mac.Addr) {
	e.beginNeighbour(unix.RTM_GETNEIGH, 0, unix.AF_BRIDGE, index, 0)
	e.attr(netlink.NDA_LLADDR, m[:])
	e.end()
}

// getNeighbours reads those permanent entries that there are. Kernels before 5.0 answer
// EOPNOTSUPP or EINVAL: errNoGet then.
func getNeighbours[K any](k *Kernel, keys []K, encode func(*encoder, K)) (out []neighbour, err error) {
	if k.noGets {
		return nil, errNoGet
	}
	err = gets(k, keys, encode, func(_ K, m message) error {
		if m.typ != unix.NLMSG_ERROR {
			if n, ok := parseNeighbour(m.data); ok && n.permanent() {
				out = append(out, n)
			}
			return nil
		}
		switch err := ignoreGone(m.failure()); {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
			return errNoGet
		case err != nil:
			return fmt.Errorf("look up a neighbour: %w", err)
		}
		return nil
	})
	return out, err
}

const createOrReplace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

func (e *encoder) beginNeighbour(typ, flags int, family uint8, index int, state uint16) {
	e.begin(typ, flags)
	h := ndmsg(family, index, state)
	e.bytes(h.Family, 0, 0, 0)
	e.uint32(h.Index)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, h.State)
	e.bytes(h.Flags, h.Type)
}

func (e *encoder) putNeighbour(index int, ip netip.Addr, m mac.Addr) {
	e.beginNeighbour(unix.RTM_NEWNEIGH, createOrReplace, family(ip), index, netlink.NUD_PERMANENT)
	e.addrAttr(netlink.NDA_DST, ip)
	e.attr(netlink.NDA_LLADDR, m[:])
	e.end()
}

func (e *encoder) deleteNeighbour(index int, ip netip.Addr) {
	e.beginNeighbour(unix.RTM_DELNEIGH, 0, family(ip), index, 0)
	e.addrAttr(netlink.NDA_DST, ip)
	e.end()
}

func (e *encoder) putForward(index int, m mac.Addr, vtep netip.Addr) {
	e.putForwardBy(index, m, vtep, 0)
}

// putForwardBy says the interface to send by as well, unless it is 0.
func (e *encoder) putForwardBy(index int, m mac.Addr, vtep netip.Addr, via int) {
	e.beginNeighbour(unix.RTM_NEWNEIGH, createOrReplace, unix.AF_BRIDGE, index, netlink.NUD_PERMANENT)
	e.attr(netlink.NDA_LLADDR, m[:])
	e.addrAttr(netlink.NDA_DST, vtep)
	if via != 0 {
		e.uint32Attr(netlink.NDA_IFINDEX, uint32(via))
	}
	e.end()
}

// deleteForward names no VTEP: the entry goes wherever it leads by now.
func (e *encoder) deleteForward(index int, m mac.Addr) {
	e.beginNeighbour(unix.RTM_DELNEIGH, 0, unix.AF_BRIDGE, index, 0)
	e.attr(netlink.NDA_LLADDR, m[:])
	e.end()
}
