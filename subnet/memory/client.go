package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/subnet"
)

// Client is one connection to a Server.
type Client struct {
	server *Server
	// Under the server's mu:
	cut   bool
	wrote map[string]int64 // lease ID → the revision that we wrote last
	tell  func(error)
}

// OnOutage has somebody told of Cut, and with nil of Heal.
func (c *Client) OnOutage(tell func(error)) { c.tell = tell }

// Cut takes the connection away: no call gets through until Heal.
func (c *Client) Cut() { c.connect(false) }

// Heal gives it back.
func (c *Client) Heal() { c.connect(true) }

func (c *Client) connect(on bool) {
	c.server.mu.Lock()
	changed := c.cut == on
	c.cut = !on
	c.server.wake()
	c.server.mu.Unlock()
	switch {
	case !changed || c.tell == nil:
	case on:
		c.tell(nil)
	default:
		c.tell(errors.New("the store is cut off"))
	}
}

// Watch implements subnet.Store.
func (c *Client) Watch(ctx context.Context, to chan<- subnet.Snapshot) error {
	sent := int64(-1)
	for {
		var newest subnet.Snapshot
		connected, changed, _ := c.try(func() error {
			newest = c.server.snapshot()
			return nil
		})
		out := to
		if !connected || newest.Revision == sent {
			out = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case out <- newest:
			sent = newest.Revision
		}
	}
}

// Acquire implements subnet.Store.
func (c *Client) Acquire(ctx context.Context, claim subnet.Claim) (subnet.Lease, error) {
	var out subnet.Lease
	err := c.attempt(ctx, func() (err error) {
		out, err = c.acquire(claim)
		return err
	})
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("acquire a lease for %s: %w", claim.Node, err)
	}
	return clone(out), nil
}

// acquire runs with the store to itself.
func (c *Client) acquire(claim subnet.Claim) (subnet.Lease, error) {
	s := c.server
	taken, prefer := s.list(), claim.Previous
	mine, found := subnet.Mine(claim, taken)
	if found && subnet.Compatible(claim.Config, mine) {
		next, err := announce(mine, subnetsOf(mine), claim)
		if err != nil || equal(mine, next) {
			return mine, err
		}
		return c.write(next), nil
	}
	if found {
		taken = slices.DeleteFunc(taken, func(l subnet.Lease) bool { return l.ID == mine.ID })
		prefer = append(subnetsOf(mine), prefer...)
	}
	subnets, err := subnet.Allocate(claim.Config, taken, prefer, rand.IntN)
	if err != nil {
		return subnet.Lease{}, err
	}
	next, err := announce(subnet.Lease{ID: idOf(subnets)}, subnets, claim)
	if err != nil {
		return subnet.Lease{}, err
	}
	if found {
		delete(s.leases, mine.ID)
	}
	return c.write(next), nil
}

// write stores a lease under the next revision.
func (c *Client) write(l subnet.Lease) subnet.Lease {
	s := c.server
	s.revision++
	l = clone(l)
	l.Revision = s.revision
	if l.Created == 0 {
		l.Created = s.revision
	}
	s.leases[l.ID] = l
	c.wrote[l.ID] = s.revision
	s.wake()
	return l
}

// announce gives the lease the claim's content, over these subnets.
func announce(l subnet.Lease, subnets []netip.Prefix, claim subnet.Claim) (subnet.Lease, error) {
	l.Node, l.Backend, l.Shares = claim.Node, claim.Backend, nil
	for _, p := range subnets {
		at := slices.IndexFunc(claim.Shares, func(s subnet.Share) bool {
			return s.Public.BitLen() == p.Addr().BitLen()
		})
		if at < 0 {
			return subnet.Lease{}, fmt.Errorf("the claim has no public address for a subnet such as %s", p)
		}
		share := claim.Shares[at]
		share.Subnet = p
		l.Shares = append(l.Shares, share)
	}
	return l, nil
}

// Publish implements subnet.Store.
func (c *Client) Publish(ctx context.Context, old, next subnet.Lease) (subnet.Lease, error) {
	var out subnet.Lease
	err := c.attempt(ctx, func() error {
		now, found := c.server.leases[old.ID]
		switch {
		case !found || now.Created != old.Created:
			return subnet.ErrLeaseLost
		case now.Revision != old.Revision:
			return subnet.ErrLeaseChanged
		case !slices.Equal(subnetsOf(old), subnetsOf(next)):
			return errors.New("a lease can't get other subnets; acquire a new one")
		}
		now.Backend, now.Shares = next.Backend, next.Shares
		out = c.write(now)
		return nil
	})
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("publish lease %s: %w", old.ID, err)
	}
	return clone(out), nil
}

// Hold implements subnet.Store.
func (c *Client) Hold(ctx context.Context, l subnet.Lease) error {
	for {
		_, changed, err := c.try(func() error {
			now, found := c.server.leases[l.ID]
			switch {
			case !found || now.Created != l.Created:
				return subnet.ErrLeaseLost
			case now.Revision != l.Revision && now.Revision != c.wrote[l.ID]:
				return subnet.ErrLeaseChanged
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("hold lease %s: %w", l.ID, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func subnetsOf(l subnet.Lease) []netip.Prefix {
	var out []netip.Prefix
	for _, share := range l.Shares {
		out = append(out, share.Subnet)
	}
	return out
}

// idOf gives equal subnets equal IDs.
func idOf(subnets []netip.Prefix) string {
	var out []string
	for _, p := range subnets {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

// equal compares what two leases announce.
func equal(a, b subnet.Lease) bool {
	return a.Node == b.Node && a.Backend == b.Backend &&
		slices.EqualFunc(a.Shares, b.Shares, func(a, b subnet.Share) bool {
			return a.Subnet == b.Subnet && a.Public == b.Public && bytes.Equal(a.Data, b.Data)
		})
}
