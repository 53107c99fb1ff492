// Package memory is the reference subnet.Store: the contract in its shortest
// form, for tests of what uses a store and of storetest itself.
//
// It owns no time and no network: leases never expire, and a connection is cut
// only by Cut. It is not meant for a cluster.
package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/weftnet/weft/subnet"
)

// Server is a store that several clients share. Its methods are what an
// operator can do to it.
type Server struct {
	epoch string

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when anything below changes
	revision int64
	config   []byte // nil: there is none
	leases   map[string]subnet.Lease
	junk     map[string]string // ID → reason
}

// New makes an empty store, different from every other.
func New() *Server {
	return &Server{
		epoch:   fmt.Sprintf("memory-%016x", rand.Uint64()),
		changed: make(chan struct{}),
		leases:  map[string]subnet.Lease{},
		junk:    map[string]string{},
	}
}

// Client connects one more client.
func (s *Server) Client() *Client {
	return &Client{server: s, wrote: map[string]int64{}}
}

// SetConfig writes the raw configuration, valid or not.
func (s *Server) SetConfig(raw []byte) {
	s.update(func() { s.config = slices.Clone(raw) })
}

// Delete removes leases, or keys that PutMalformed put, at one moment.
func (s *Server) Delete(ids ...string) {
	s.update(func() {
		for _, id := range ids {
			delete(s.leases, id)
			delete(s.junk, id)
		}
	})
}

// Put writes a lease as somebody else would, over the one of this ID or as a
// new one. Created and Revision are the store's to set.
func (s *Server) Put(l subnet.Lease) {
	s.update(func() {
		l := clone(l)
		l.Created, l.Revision = s.revision, s.revision
		if old, found := s.leases[l.ID]; found {
			l.Created = old.Created
		}
		s.leases[l.ID] = l
	})
}

// PutMalformed writes a key that can't be read, for this reason.
func (s *Server) PutMalformed(id, reason string) {
	s.update(func() { s.junk[id] = reason })
}

// update makes one new revision.
func (s *Server) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	change()
	s.wake()
}

// wake tells all who wait to look again. The caller holds mu.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// list gives the leases, the oldest first. The caller holds mu.
func (s *Server) list() []subnet.Lease {
	return slices.SortedFunc(maps.Values(s.leases), func(a, b subnet.Lease) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// snapshot gives copies of all there is. The caller holds mu.
func (s *Server) snapshot() subnet.Snapshot {
	out := subnet.Snapshot{Epoch: s.epoch, Revision: s.revision}
	for _, l := range s.list() {
		out.Leases = append(out.Leases, clone(l))
	}
	for _, id := range slices.Sorted(maps.Keys(s.junk)) {
		out.Malformed = append(out.Malformed, subnet.Skipped{ID: id, Field: "key", Reason: s.junk[id]})
	}
	if s.config == nil {
		return out
	}
	cfg, err := subnet.ParseConfig(s.config)
	if err != nil {
		skipped := subnet.Skipped{ID: "config", Field: "value", Reason: err.Error()}
		out.Malformed = append([]subnet.Skipped{skipped}, out.Malformed...)
	}
	out.Config = cfg
	return out
}

// clone copies what a lease points to.
func clone(l subnet.Lease) subnet.Lease {
	l.Shares = slices.Clone(l.Shares)
	for i := range l.Shares {
		l.Shares[i].Data = slices.Clone(l.Shares[i].Data)
	}
	return l
}

// attempt calls f with the store to itself, as soon as the client is connected.
func (c *Client) attempt(ctx context.Context, f func() error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		connected, changed, err := c.try(f)
		if connected {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// try calls f if the client is connected. changed is closed at the first
// change after it.
func (c *Client) try(f func() error) (connected bool, changed <-chan struct{}, err error) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.cut {
		return false, c.server.changed, nil
	}
	err = f()
	return true, c.server.changed, err
}
