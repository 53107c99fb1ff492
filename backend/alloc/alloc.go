// Package alloc is the backend that only leases: a subnet for this node, told
// to its pods by the subnet file. How packets get from node to node is somebody
// else's work, such as a cloud's route table.
//
// It owns nothing in the kernel, and refuses no peer.
package alloc

import (
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

// Announce gives the public addresses.
func (Backend) Announce(h backend.Host, _ []subnet.Share) ([]subnet.Share, error) {
	return h.AnnouncePublic()
}

// Base is empty.
func (Backend) Base(h backend.Host) (dataplane.State, error) {
	_, err := h.AnnouncePublic()
	return dataplane.State{}, err
}

// Peer adds nothing for any lease.
func (Backend) Peer(backend.Host, subnet.Lease, *dataplane.State) error { return nil }

// MTU is that of the uplink.
func (Backend) MTU(h backend.Host) int { return h.Uplink.MTU }
