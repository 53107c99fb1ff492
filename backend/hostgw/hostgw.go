// Package hostgw is the backend that has no tunnel: each node is the gateway to
// its own pods, and all are on one link.
//
//	route  10.42.2.0/24 via 192.168.77.2 dev eth0
//
// It owns those routes. It refuses peers that a router lies before: it would
// not know where to send what is for pods.
package hostgw

import (
	"fmt"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Backend implements backend.Backend.
type Backend struct{}

// New gives the backend; it has no options.
func New() Backend { return Backend{} }

// Warnings names what the configuration has besides the type.
func (Backend) Warnings(cfg subnet.Config) []string { return backend.NoOptions(cfg) }

// UsesPaths is true: a peer must be on the link.
func (Backend) UsesPaths(subnet.Config) bool { return true }

// Announce gives the public addresses, which is all that peers need.
func (Backend) Announce(h backend.Host, _ []subnet.Share) ([]subnet.Share, error) {
	return h.AnnouncePublic()
}

// Base is empty: the uplink is there without us.
func (Backend) Base(h backend.Host) (dataplane.State, error) {
	_, err := h.AnnouncePublic()
	return dataplane.State{}, err
}

// Peer adds one route for each share. A peer counts with all of them or, as a
// *backend.FieldError, not at all.
func (Backend) Peer(h backend.Host, l subnet.Lease, to *dataplane.State) error {
	if len(l.Shares) == 0 {
		return &backend.FieldError{Field: "subnet", Reason: "is missing"}
	}
	for _, share := range l.Shares {
		if err := refusal(h, share); err != nil {
			return err
		}
		key, route := h.DirectRoute(share)
		backend.Put(&to.Routes, key, route)
	}
	return nil
}

func refusal(h backend.Host, share subnet.Share) error {
	var reason string
	switch path, known := h.Facts.Paths[share.Public]; {
	case !share.Subnet.IsValid():
		return &backend.FieldError{Field: "subnet", Reason: "is not valid"}
	case share.Public.BitLen() != share.Subnet.Addr().BitLen():
		reason = fmt.Sprintf("%s is of another family than the subnet %s", share.Public, share.Subnet)
	case h.Direct(share.Public):
		return nil
	case !known:
		reason = fmt.Sprintf("%s can't be reached", share.Public)
	case path.Via.IsValid():
		reason = fmt.Sprintf("%s is not on the link of %s but behind the router %s: "+
			"host-gw needs all nodes on one link; use vxlan", share.Public, h.Uplink.Iface, path.Via)
	default:
		reason = fmt.Sprintf("%s is on the link of %s, the uplink is %s: choose that one with --iface",
			share.Public, path.Link, h.Uplink.Iface)
	}
	return &backend.FieldError{Field: "public address", Reason: reason}
}

// MTU is that of the uplink: nothing is added to a packet.
func (Backend) MTU(h backend.Host) int { return h.Uplink.MTU }
