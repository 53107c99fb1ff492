// Package subnet is the cluster's address plan as values: the configuration,
// the leases of pod subnets, and the rules by which they are given out, taken
// seriously and believed.
//
//	Store.Watch ─→ Snapshot ─→ Believe ─→ Admit ─→ the peers that count
//
// It owns Config, Lease, Snapshot, the Store contract and the pure decisions
// over them. It refuses I/O, clocks and randomness; how a lease is written in
// a particular store is that store's business (subnet/etcd).
package subnet

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"
)

// Share is one address family's part of a lease.
type Share struct {
	Subnet netip.Prefix // the node's pod subnet, masked
	Public netip.Addr   // underlay address at which peers reach the node
	// Data is what the backend tells its peers; nil: nothing. (Written as
	// null, JSON would read it back as something.)
	Data json.RawMessage `json:",omitempty"`
}

// Lease is one node's claim on its pod subnets.
type Lease struct {
	ID      string  // the store's key for it; equal IDs mean equal subnets
	Node    string  // may be empty: etcd doesn't say
	Backend string  // backend type, lower case
	Shares  []Share // one per family, IPv4 first
	// Created and Revision order leases within one store: of two that clash
	// the one with the smaller Created came first; Revision changes with
	// every change of the content.
	Created  int64
	Revision int64
	Expires  time.Time // zero: a reservation that never ends, or not known
}

// Snapshot is the whole truth of a store at one revision.
type Snapshot struct {
	Epoch    string // which store this is (etcd: cluster id); revisions of two epochs don't compare
	Revision int64
	Config   Config  // zero (no Networks) while there is none that is valid
	Leases   []Lease // by Created, then ID; ours among them
	// Malformed names the keys that could not be read, the configuration's
	// among them, each with its reason. They are left out of all else.
	Malformed []Skipped
}

// Skipped is a lease or a key that does not count, and why.
type Skipped struct {
	ID     string // of the lease, or the key
	Node   string // public address or name, where known
	Field  string // what is wrong: "subnet", "public address", "VtepMAC", …
	Reason string // a clause: "lies outside of the cluster network 10.42.0.0/16"
}

// String is the sentence for a log or an error.
func (s Skipped) String() string {
	out := "lease " + s.ID
	if s.Node != "" {
		out += " of " + s.Node
	}
	return out + ": " + s.Field + " " + s.Reason
}

// Claim is what a node asks a store for.
type Claim struct {
	Config  Config
	Node    string
	Backend string
	Shares  []Share // Public and Data to announce; Subnet is not looked at
	ID      string  // of the lease that we held last, by our state file; or ""
	Created int64   // its Created
	// Previous is the subnets that subnet.env names: a hint, and the proof for
	// a lease that flannel took for this node.
	Previous []netip.Prefix
}

// Store keeps the configuration and the leases. All methods block until done
// or until ctx ends, retry what a retry can heal, and leave no goroutine behind.
// Safe for concurrent use.
type Store interface {
	// Watch sends the whole truth first and again whenever something
	// changes, newest wins: a slow reader gets the latest, not each. It goes
	// on over reconnects, compactions and restores, and returns ctx.Err() or
	// why it can't go on. It never closes to.
	Watch(ctx context.Context, to chan<- Snapshot) error
	// Acquire gives our lease again, with the claim's Public and Data, or
	// a new one of a free subnet. A lost race is tried again.
	// ErrExhausted: every subnet is taken.
	Acquire(ctx context.Context, c Claim) (Lease, error)
	// Publish replaces what a lease announces, if the store still has old.
	// ErrLeaseLost: it is gone. ErrLeaseChanged: somebody else wrote it.
	Publish(ctx context.Context, old, next Lease) (Lease, error)
	// Hold keeps the lease alive until ctx ends, or gives ErrLeaseLost or
	// ErrLeaseChanged (somebody else wrote it). A store that is away is
	// waited for.
	Hold(ctx context.Context, l Lease) error
}

// What a Store's callers branch on.
var (
	ErrExhausted    = errors.New("no free subnet is left in the cluster network")
	ErrLeaseLost    = errors.New("the lease is gone from the store")
	ErrLeaseChanged = errors.New("the lease was changed by someone else")
)
