// Package vxlan is the backend that carries pods' packets in VXLAN (RFC 7348).
//
// For each family of the network there is one device that holds the network
// address of our own subnet, and for each peer three entries on it:
//
//	route  10.42.2.0/24 via 10.42.2.0 onlink ─→ neigh  10.42.2.0 lladdr M ─→ fdb  M dst 192.168.77.2
//
// With DirectRouting, a peer on the uplink's own link has one entry instead:
//
//	route  10.42.2.0/24 via 192.168.77.2 dev eth0
//
// It owns the names, addresses and entries of both, the options of the
// configuration's Backend object, and what a share says of a VTEP. It refuses
// to keep anything: all of it is computed from the arguments.
package vxlan

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Backend implements backend.Backend. It looks at Host.Facts in Announce, and
// with DirectRouting at their paths in Peer.
type Backend struct{}

// Warnings gives the options that mean nothing here; see ParseOptions.
func (Backend) Warnings(cfg subnet.Config) []string {
	_, warnings, _ := ParseOptions(cfg.BackendOptions) // an error is Base's to give
	return warnings
}

// UsesPaths tells whether DirectRouting is on.
func (Backend) UsesPaths(cfg subnet.Config) bool {
	opts, _, err := ParseOptions(cfg.BackendOptions)
	return err == nil && opts.DirectRouting
}

// New gives the backend; its options are those in Host.Config.
func New() Backend { return Backend{} }

// Announce gives the public address and the VTEP of each network. The MAC is
// that of the device that is there, so that nothing changes for peers that
// know it; else what we announced before; else a random one.
func (Backend) Announce(h backend.Host, prev []subnet.Share) ([]subnet.Share, error) {
	devices, err := devicesOf(h)
	if err != nil {
		return nil, err
	}
	shares := make([]subnet.Share, 0, len(devices))
	for _, d := range devices {
		vtep := VTEP{VNI: d.VNI, MAC: d.address(h, prev)}
		shares = append(shares, subnet.Share{Public: d.public, Data: vtep.Encode()})
	}
	return shares, nil
}

// Base gives the devices, with the MACs that our lease announces, and their
// addresses: the network address of our own subnet, which is what peers have
// as the gateway of their route to us.
func (Backend) Base(h backend.Host) (dataplane.State, error) {
	devices, err := devicesOf(h)
	if err != nil {
		return dataplane.State{}, err
	}
	s := dataplane.State{Links: map[string]dataplane.Link{}, Addrs: map[dataplane.AddrKey]struct{}{}}
	for _, d := range devices {
		own, ok := shareOf(h.Lease, d.family)
		if !ok {
			return dataplane.State{}, fmt.Errorf("our lease %s has no %s subnet", h.Lease.ID, d.family)
		}
		vtep, err := announced(h.Lease, own)
		if err != nil {
			return dataplane.State{}, err
		}
		if vtep.VNI != d.VNI {
			return dataplane.State{}, fmt.Errorf("our lease %s announces VNI %d, the configuration says %d: "+
				"the lease has to be announced again", h.Lease.ID, vtep.VNI, d.VNI)
		}
		s.Links[d.name] = dataplane.Link{
			VNI: d.VNI, Port: d.Port, Local: d.local, Parent: h.Uplink.Iface,
			MAC: vtep.MAC, MTU: d.mtu, Up: true, Learning: d.Learning, GBP: d.GBP,
		}
		ip := own.Subnet.Addr()
		s.Addrs[dataplane.AddrKey{Link: d.name, Prefix: netip.PrefixFrom(ip, ip.BitLen())}] = struct{}{}
	}
	return s, nil
}

// Peer adds the three entries for each share of the lease, or the one direct
// route. What is wrong with the lease is a *backend.FieldError. It reads our
// lease's shares, not the options, so that 10,000 peers cost no parsing of them;
// only for a peer that could be reached directly they are looked at.
func (Backend) Peer(h backend.Host, l subnet.Lease, to *dataplane.State) error {
	if len(l.Shares) == 0 {
		return &backend.FieldError{Field: "subnet", Reason: "is missing"}
	}
	for _, share := range l.Shares {
		if err := addPeer(to, h, share); err != nil {
			return err
		}
	}
	return nil
}

// addPeer adds the entries of one share. One that is reached directly has to
// have a good VTEP all the same: its path may change at any time.
func addPeer(s *dataplane.State, h backend.Host, share subnet.Share) error {
	lease := h.Lease
	vtep, err := ParseVTEP(share.Data)
	if err != nil {
		return err
	}
	gateway := share.Subnet.Addr()
	f := familyOf(gateway)
	ours, ok := shareOf(lease, f)
	if !ok || f.width == 0 {
		return fieldf("subnet", "%s is of a family that our own lease does not have", share.Subnet)
	}
	own, err := announced(lease, ours)
	if err != nil {
		return err
	}
	if err := refusal(share, vtep, own); err != nil {
		return err
	}
	if h.Direct(share.Public) && (Backend{}).UsesPaths(h.Config) {
		key, route := h.DirectRoute(share)
		backend.Put(&s.Routes, key, route)
		return nil
	}
	dev := f.device(own.VNI)
	backend.Put(&s.FDB, dataplane.FDBKey{Link: dev, MAC: vtep.MAC}, share.Public)
	backend.Put(&s.Neighs, dataplane.NeighKey{Link: dev, IP: gateway}, vtep.MAC)
	backend.Put(&s.Routes, backend.RouteTo(share.Subnet), dataplane.Route{Via: gateway, Link: dev, OnLink: true})
	return nil
}

// refusal says why a peer with this share can't be reached from our VTEP; nil: it can.
func refusal(share subnet.Share, vtep, own VTEP) error {
	switch {
	case !share.Public.IsValid():
		return fieldf("public address", "is missing for %s", share.Subnet)
	case share.Public.BitLen() != share.Subnet.Addr().BitLen():
		return fieldf("public address", "%s is of another family than the subnet %s", share.Public, share.Subnet)
	case vtep.VNI != 0 && vtep.VNI != own.VNI: // its device drops what carries our VNI, and ours what carries its
		return fieldf("VNI", "is %d, ours is %d", vtep.VNI, own.VNI)
	case vtep.MAC == own.MAC:
		return fieldf("VtepMAC", "%s is that of our own device; is one node a clone of the other?", vtep.MAC)
	}
	return nil
}

// shareOf gives a lease's part in a family.
func shareOf(lease subnet.Lease, f family) (subnet.Share, bool) {
	for _, share := range lease.Shares {
		if share.Subnet.Addr().BitLen() == f.width {
			return share, true
		}
	}
	return subnet.Share{}, false
}

// announced gives our own VTEP, by our lease's share. Its error must not be
// taken for one of the peer at work.
func announced(lease subnet.Lease, share subnet.Share) (VTEP, error) {
	vtep, err := ParseVTEP(share.Data)
	if err != nil {
		return VTEP{}, fmt.Errorf("our lease %s for %s: %s; it has to be announced again",
			lease.ID, share.Subnet, err.Error())
	}
	return vtep, nil
}

// MTU is the smallest of all devices'; 0 where Base gives an error.
func (Backend) MTU(h backend.Host) int {
	devices, err := devicesOf(h)
	if err != nil || len(devices) == 0 {
		return 0
	}
	smallest := math.MaxInt
	for _, d := range devices {
		smallest = min(smallest, d.mtu)
	}
	return smallest
}
