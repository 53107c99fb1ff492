package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/subnet"
)

// nextClaim says what to ask the store for, if that differs from what the
// keeper was asked last.
func (n *Node) nextClaim() (subnet.Claim, bool) {
	h := n.host()
	if len(h.Config.Networks) == 0 || h.Uplink.Iface == "" {
		return subnet.Claim{}, false
	}
	b, h, err := n.prepared(h)
	if err != nil {
		n.waitFor("backend", err)
		return subnet.Claim{}, false
	}
	shares, err := b.Announce(h, n.announcedBefore())
	if err != nil {
		n.waitFor("backend", err)
		return subnet.Claim{}, false
	}
	c := n.view.claimed
	same := string(c.Config.Raw) == string(h.Config.Raw) && c.Backend == h.Config.Backend
	if same && reflect.DeepEqual(c.Shares, shares) {
		return subnet.Claim{}, false
	}
	return subnet.Claim{
		Config: h.Config, Backend: h.Config.Backend, Shares: shares,
		ID: n.view.lease.ID, Created: n.view.lease.Created, Previous: n.previous(),
	}, true
}

// keeper gets our lease and keeps it. One goroutine, one claim at a time.
type keeper struct {
	store subnet.Store
	log   logrus.FieldLogger
	wait  func(error) // told why there is no lease, or nil when there is
	fits  func(subnet.Config, subnet.Lease) bool
}

// A lease that is lost soon after it was taken is taken again at once a few
// times: somebody deletes leases by hand, and no packet shall be lost. From then
// on two nodes believe to hold one, and a pause slows them down.
const (
	fightPause = time.Second
	fightFree  = 3
)

// run serves claims until ctx ends: it acquires, tells, holds; a lost lease is
// acquired again, a new claim is published.
func (k keeper) run(ctx context.Context, claims <-chan subnet.Claim, leases chan<- subnet.Lease) error {
	var claim subnet.Claim
	select {
	case claim = <-claims:
	case <-ctx.Done():
		return ctx.Err()
	}
	soon := 0 // leases in a row that were lost soon
	for {
		lease, err := k.acquire(ctx, claims, &claim)
		if err != nil {
			return err
		}
		for held := true; held; {
			claim.ID, claim.Created, claim.Previous = lease.ID, lease.Created, subnetsOf(lease)
			select {
			case leases <- lease:
			case <-ctx.Done():
				return ctx.Err()
			}
			began := time.Now()
			lease, claim, held, err = k.hold(ctx, claims, claim, lease)
			if err != nil {
				return err
			}
			if soon++; held || time.Since(began) >= fightPause {
				soon = 0
			}
			if soon > fightFree && !sleep(ctx, fightPause) {
				return ctx.Err()
			}
		}
	}
}

// subnetsOf is what to ask for again should the lease be lost.
func subnetsOf(l subnet.Lease) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range l.Shares {
		out = append(out, s.Subnet)
	}
	return out
}

// acquire tries until the store gives a lease. A new claim, as from a
// configuration that was mended, takes the place of the one that it can't give.
func (k keeper) acquire(ctx context.Context, claims <-chan subnet.Claim, claim *subnet.Claim) (subnet.Lease, error) {
	said := ""
	for attempt := 0; ; attempt++ {
		lease, err := k.store.Acquire(ctx, *claim)
		if err == nil {
			k.wait(nil)
			if lease.ID != claim.ID || said != "" {
				k.log.WithFields(logrus.Fields{"lease": lease.ID}).Info("lease acquired")
			}
			return lease, nil
		}
		if ctx.Err() != nil {
			return subnet.Lease{}, ctx.Err()
		}
		err = fmt.Errorf("acquire a lease: %w", err)
		if claim.ID == "" {
			k.wait(err) // a node that has one goes on with it while the store is away
		}
		if said != err.Error() {
			said = err.Error()
			k.log.WithError(err).Warn("no lease yet; trying again")
		}
		pause := time.NewTimer(backoff(attempt))
		select {
		case next := <-claims:
			next.ID, next.Created, next.Previous = claim.ID, claim.Created, claim.Previous
			*claim, attempt = next, -1
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		if ctx.Err() != nil {
			return subnet.Lease{}, ctx.Err()
		}
	}
}

// hold keeps the lease until it is lost (held is false then) or a new claim
// changes what it announces.
func (k keeper) hold(ctx context.Context, claims <-chan subnet.Claim, claim subnet.Claim, lease subnet.Lease) (
	_ subnet.Lease, _ subnet.Claim, held bool, _ error,
) {
	holding, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- k.store.Hold(holding, lease) }()
	select {
	case err := <-ended:
		if ctx.Err() != nil {
			return lease, claim, false, ctx.Err()
		}
		k.log.WithError(err).WithField("lease", lease.ID).Warn("our lease was touched by someone else; taking it again")
		return lease, claim, false, nil
	case next := <-claims:
		stop()
		k.log.WithError(<-ended).Debug("no longer held as it was: what we announce changes")
		next.ID, next.Created, next.Previous = lease.ID, lease.Created, subnetsOf(lease)
		if !k.fits(next.Config, lease) { // what the disk remembered was out of date
			return lease, next, false, nil
		}
		published, err := k.publish(ctx, lease, next)
		switch {
		case ctx.Err() != nil:
			return lease, next, false, ctx.Err()
		case err != nil:
			k.log.WithError(err).WithField("lease", lease.ID).
				Warn("what we announce could not be changed; taking the lease again")
			return lease, next, false, nil
		}
		return published, next, true, nil
	}
}

// publish writes what the claim announces into the lease.
func (k keeper) publish(ctx context.Context, lease subnet.Lease, c subnet.Claim) (subnet.Lease, error) {
	next := lease
	next.Backend = c.Backend
	next.Shares = make([]subnet.Share, len(lease.Shares))
	same := next.Backend == lease.Backend && len(c.Shares) == len(lease.Shares)
	if len(c.Shares) != len(lease.Shares) {
		return lease, errors.New("the claim is for other address families than the lease")
	}
	for i, s := range lease.Shares {
		same = same && s.Public == c.Shares[i].Public && bytes.Equal(s.Data, c.Shares[i].Data)
		next.Shares[i] = subnet.Share{Subnet: s.Subnet, Public: c.Shares[i].Public, Data: c.Shares[i].Data}
	}
	if same {
		return lease, nil
	}
	return k.store.Publish(ctx, lease, next)
}

// backoff is the pause before a retry: 100 ms, doubled up to 10 s.
func backoff(attempt int) time.Duration {
	return min(100*time.Millisecond<<min(attempt, 10), 10*time.Second)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
