// Package backend is the point where a kind of overlay plugs in.
//
// It owns the Backend contract and the values that a backend decides over. It
// refuses to know any backend; vxlan and its siblings are leaves that cmd
// wires in, and backendtest holds the laws that all of them obey.
package backend

import (
	"net/netip"

	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Uplink is the underlay interface and our addresses on it.
type Uplink struct {
	Iface  string
	MTU    int          // bytes of IP packet
	Local  []netip.Addr // tunnel source, one per network of the configuration, in its order
	Public []netip.Addr // what peers are told, likewise; differs from Local behind NAT
}

// Host is all that a backend knows about this node.
type Host struct {
	Config subnet.Config
	Uplink Uplink
	Facts  dataplane.Facts
	Lease  subnet.Lease // ours; zero in Announce
	Random [16]byte     // made once per process, for what must be random (a new MAC)
	Output string       // of a Commander's Startup
}

// Backend turns the host and its peers into kernel entries. Implementations
// are pure and safe for concurrent use: the same arguments give the same
// result, and nothing is kept between calls.
type Backend interface {
	// Announce gives what peers must know about us, one share per network
	// with Public and Data; prev is what we announced before, or nil. A fact
	// of the kernel (the MAC of the device that is there) goes before prev.
	Announce(h Host, prev []subnet.Share) ([]subnet.Share, error)
	// Base gives the entries that need no peer: devices and their addresses.
	Base(h Host) (dataplane.State, error)
	// Peer adds the entries of one admitted peer to what the caller gives, who may
	// use that again: with 10,000 peers new maps for each are most of the garbage of
	// a start. The error names the field of the lease that is wrong; whatever was
	// added then is of no use.
	Peer(h Host, l subnet.Lease, to *dataplane.State) error
	// MTU is that of pods, in bytes: the smallest of all families.
	MTU(h Host) int
}

// Entries are those of one peer, alone.
func Entries(b Backend, h Host, l subnet.Lease) (dataplane.State, error) {
	var s dataplane.State
	if err := b.Peer(h, l, &s); err != nil {
		return dataplane.State{}, err
	}
	return s, nil
}

// Put adds an entry to one of a state's maps, which may be nil.
func Put[K comparable, V any](to *map[K]V, key K, value V) {
	if *to == nil {
		*to = map[K]V{}
	}
	(*to)[key] = value
}

// PathUser is a Backend whose peers' entries depend on how the host reaches
// them.
type PathUser interface {
	// UsesPaths tells whether Peer looks at Host.Facts.Paths, under its
	// public addresses. If not, they need not be there.
	UsesPaths(cfg subnet.Config) bool
}

// Warner is a Backend that can tell which of its options mean nothing to it.
type Warner interface {
	// Warnings gives clauses for the log, each naming its key.
	Warnings(cfg subnet.Config) []string
}

// Commander is a Backend that has programs run. It decides which must have been
// run, and what takes that back; a task without Do has nothing to run.
type Commander interface {
	// Startup must be done before Announce, which gets its output in the host.
	Startup(cfg subnet.Config) (commands.Task, error)
	// Ours must be done for this node when it has its lease.
	Ours(h Host) (commands.Task, error)
	// For must be done for an admitted peer. Errors are those of Peer.
	For(h Host, l subnet.Lease) (commands.Task, error)
}
