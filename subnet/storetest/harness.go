// Package storetest is the conformance suite of subnet.Store: what every
// store keeps, whatever it is made of.
//
// A store's own test hands Run a function that makes a fresh, empty store and
// says how to reach around it: as an operator does with etcdctl or kubectl,
// and as another daemon does.
package storetest

import (
	"testing"

	"github.com/weftnet/weft/subnet"
)

// Harness is one fresh, empty store (no configuration, no leases) and the ways
// around it. Whoever makes it ends it through t.Cleanup. The functions that
// are given a lease get one that the store itself has returned.
type Harness struct {
	// Store is the first client.
	Store subnet.Store
	// Client gives one more client of the same store, with a connection of
	// its own: another node's daemon, or our own after a restart.
	Client func(t *testing.T) subnet.Store
	// SetConfig writes the raw configuration, as an operator does. The store
	// parses it with subnet.ParseConfig; raw may be nonsense.
	SetConfig func(t *testing.T, raw string)
	// Delete removes a lease, as an operator does or as its expiry would.
	Delete func(t *testing.T, l subnet.Lease)
	// Rewrite writes l's shares over what stands under l.ID, in the store's
	// own form, and nothing else changes: a foreign write.
	Rewrite func(t *testing.T, l subnet.Lease)

	// What follows may be nil: this store has no such thing.

	// PutMalformed writes a key among the leases that can't be read, and
	// gives the ID under which Snapshot.Malformed must name it.
	PutMalformed func(t *testing.T) string
	// Give gives the claim's node subnets that fit the claim's configuration,
	// the same each time, if it doesn't have them. A store has it whose subnets
	// come from elsewhere: there Acquire chooses none, and takes none of
	// another node's. It is called before each Acquire, and unlike a lease
	// that is deleted, a node is what Delete of its lease deletes.
	Give func(t *testing.T, c subnet.Claim)
	// Cut takes the connection of Store (not of the others) away, Heal gives
	// it back. While it is cut no call gets through.
	Cut, Heal func(t *testing.T)
}
