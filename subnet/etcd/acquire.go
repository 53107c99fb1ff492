package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// How long the loser of a race waits before it tries again.
const (
	raceFirst = 5 * time.Millisecond
)

// errRace is for a transaction that somebody else was ahead of.
var errRace = errors.New("somebody else was faster")

// Acquire implements subnet.Store.
//
// A new lease is one transaction: put the key if nobody has it. With one
// family that is enough, as the key is the subnet. In dual stack two nodes
// could take the same IPv6 subnet beside different IPv4 ones, or the other way
// round, under two keys that don't clash. So there the transaction asks, too,
// that no lease was created since we looked: whoever is second looks again and
// chooses anew. Nothing that clashes is ever written, not even for a moment:
// a flannel peer, which goes by what it saw last, would keep the damage.
// A race is lost only to somebody who won it, so that N nodes which start at
// once are done after N rounds at most; waits at random make it far fewer. The
// guard makes etcd look at every lease: at 10,000 some 20 ms for one that is new.
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (subnet.Lease, error) {
	a := &acquiring{s: s, c: c, v: s.newView()}
	defer a.release(ctx)
	out := outage{log: s.log}
	for races, n := 0, 0; ; {
		l, err := a.try(ctx)
		if err == nil {
			out.end()
			return l, nil
		}
		fail := func(err error) (subnet.Lease, error) {
			return subnet.Lease{}, fmt.Errorf("acquire a lease in etcd at %s: %w", s.endpoints(), err)
		}
		if ctx.Err() != nil {
			return fail(endedBy(ctx, err))
		}
		var bad *fieldError
		if errors.Is(err, subnet.ErrExhausted) || hopeless(err) || errors.As(err, &bad) {
			return fail(err)
		}
		var perr error
		if errors.Is(err, errRace) {
			out.end()
			n = 0
			perr = pause(ctx, races, raceFirst)
			races++
		} else {
			out.begin(err)
			perr = pause(ctx, n, waitFirst)
			n++
		}
		if perr != nil {
			return fail(endedBy(ctx, err))
		}
	}
}

// endedBy says that ctx ended, and over what.
func endedBy(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %v", ctx.Err(), err) //nolint:errorlint // the reason is told, not branched on
}

// acquiring is one call of Acquire.
type acquiring struct {
	s *Store
	c subnet.Claim
	v *view

	known   bool   // the view is what we last saw of the store
	doubted bool   // what a Watch saw, and what we remember, was not so: read it all
	warned  bool   // of reservations that do not fit
	patched bool   // it was brought up to date without what was deleted since
	unsure  string // ID of a lease that may be ours: the answer was lost
	grant   clientv3.LeaseID
}

// release gives back what is not used. With a grant goes the key on it, if one
// was written after all.
func (a *acquiring) release(ctx context.Context) {
	if a.grant == clientv3.NoLease {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	cli, err := a.s.dial(ctx)
	if err == nil {
		_, err = cli.Revoke(ctx, a.grant)
	}
	if err != nil {
		a.s.log.WithError(err).Debug("an etcd lease that is not used was not revoked: it will expire")
	}
}

func (a *acquiring) try(ctx context.Context) (subnet.Lease, error) {
	cli, err := a.s.dial(ctx)
	if err != nil {
		return subnet.Lease{}, err
	}
	if a.unsure != "" {
		if l, ok, err := a.settle(ctx, cli); ok || err != nil {
			return l, err
		}
	}
	if mine, ok, err := a.remembered(ctx, cli); err != nil {
		return subnet.Lease{}, err
	} else if ok {
		return a.reclaim(ctx, cli, mine)
	}
	if err := a.look(ctx, cli); err != nil {
		return subnet.Lease{}, err
	}
	mine, ok := a.ours()
	if ok && a.patched {
		if err := a.verify(ctx, cli, mine); err != nil {
			return subnet.Lease{}, err
		}
	}
	switch {
	case !ok:
		return a.create(ctx, cli, nil)
	case !subnet.Compatible(a.c.Config, mine):
		return a.create(ctx, cli, &mine)
	}
	return a.reclaim(ctx, cli, mine)
}

// announce gives what the lease of these subnets says of us, as it reads back,
// and its value.
func (a *acquiring) announce(id string, subnets []netip.Prefix) (subnet.Lease, []byte, error) {
	var shares []subnet.Share
	for _, p := range subnets {
		i := slices.IndexFunc(a.c.Shares, func(s subnet.Share) bool {
			return s.Public.IsValid() && s.Public.Is4() == p.Addr().Is4()
		})
		if i < 0 {
			return subnet.Lease{}, nil, badField("public address", "is missing for %s", p)
		}
		shares = append(shares, subnet.Share{Subnet: p, Public: a.c.Shares[i].Public, Data: a.c.Shares[i].Data})
	}
	return readBack(id, a.c.Backend, shares)
}

// readBack gives the value of a lease, and the lease as it reads back.
func readBack(id, backend string, shares []subnet.Share) (subnet.Lease, []byte, error) {
	raw, err := encodeValue(backend, shares)
	if err != nil {
		return subnet.Lease{}, nil, err
	}
	l, err := decodeLease(id, raw)
	return l, raw, err
}

// reclaim takes a lease that is ours. If it says what we want to say nothing
// is written: Hold keeps it alive. Else it is rewritten and stays on its etcd
// lease, which lives, as the key would be gone otherwise; on a reservation,
// which has none, too.
func (a *acquiring) reclaim(ctx context.Context, cli *clientv3.Client, have subnet.Lease) (subnet.Lease, error) {
	var subnets []netip.Prefix
	for _, s := range have.Shares {
		subnets = append(subnets, s.Subnet)
	}
	next, raw, err := a.announce(have.ID, subnets)
	if err != nil {
		return subnet.Lease{}, err
	}
	if sameContent(have, next) {
		return have, nil
	}
	a.known, a.doubted = false, true
	key := a.s.key(have.ID)
	err = attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", have.Revision)).
			Then(clientv3.OpPut(key, string(raw), clientv3.WithIgnoreLease())).
			Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return errRace
		}
		next.Created, next.Revision = have.Created, resp.Header.Revision
		return nil
	})
	return next, err
}

// create takes a free subnet. replace is a lease of ours that the configuration
// has no place for any more: it goes in the same transaction.
func (a *acquiring) create(ctx context.Context, cli *clientv3.Client, replace *subnet.Lease) (subnet.Lease, error) {
	taken := slices.DeleteFunc(a.v.taken(), func(l subnet.Lease) bool { return replace != nil && l.ID == replace.ID })
	subnets, err := subnet.Allocate(a.c.Config, taken, a.c.Previous, rand.IntN)
	if errors.Is(err, subnet.ErrExhausted) && a.patched {
		a.known, a.doubted = false, true
		return subnet.Lease{}, errRace
	}
	if err != nil {
		return subnet.Lease{}, err
	}
	id, err := encodeKey(subnets)
	if err != nil {
		return subnet.Lease{}, err
	}
	l, raw, err := a.announce(id, subnets)
	if err != nil {
		return subnet.Lease{}, err
	}
	if err := a.needGrant(ctx, cli); err != nil {
		return subnet.Lease{}, err
	}
	resp, err := a.commit(ctx, cli, a.creation(id, string(raw), len(subnets), replace))
	if err != nil {
		return subnet.Lease{}, err
	}
	if !resp.Succeeded {
		if replace != nil { // it may be ours that changed
			a.known, a.doubted = false, true
		}
		return subnet.Lease{}, errRace
	}
	a.grant, a.unsure = clientv3.NoLease, ""
	l.Created, l.Revision = resp.Header.Revision, resp.Header.Revision
	return l, nil
}

type transaction struct {
	id  string
	ifs []clientv3.Cmp
	do  []clientv3.Op
}

// creation is the transaction that Acquire describes.
func (a *acquiring) creation(id, value string, families int, replace *subnet.Lease) transaction {
	key, all, since := a.s.key(id), a.s.leasesKey(), a.v.revision+1
	t := transaction{
		id:  id,
		ifs: []clientv3.Cmp{clientv3.Compare(clientv3.Version(key), "=", 0)},
	}
	if families > 1 {
		t.ifs = append(t.ifs, clientv3.Compare(clientv3.CreateRevision(all), "<", since).WithPrefix())
	}
	if replace != nil {
		// The old one goes first: a flannel peer takes the events in this
		// order, and a delete of the same IPv4 subnet behind the put would
		// take the new route away.
		t.ifs = append(t.ifs, clientv3.Compare(clientv3.ModRevision(a.s.key(replace.ID)), "=", replace.Revision))
		t.do = append(t.do, clientv3.OpDelete(a.s.key(replace.ID)))
	}
	t.do = append(t.do, clientv3.OpPut(key, value, clientv3.WithLease(a.grant)))
	return t
}

func (a *acquiring) needGrant(ctx context.Context, cli *clientv3.Client) error {
	if a.grant != clientv3.NoLease {
		return nil
	}
	return attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Grant(ctx, a.s.ttlSeconds())
		if err == nil {
			a.grant = resp.ID
		}
		return err
	})
}

func (a *acquiring) commit(ctx context.Context, cli *clientv3.Client, t transaction) (*clientv3.TxnResponse, error) {
	var resp *clientv3.TxnResponse
	err := attempt(ctx, func(ctx context.Context) (err error) {
		resp, err = cli.Txn(ctx).If(t.ifs...).Then(t.do...).Commit()
		return err
	})
	if err == nil {
		return resp, nil
	}
	a.known, a.doubted, a.unsure = false, true, t.id
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // we were away for longer than it lives
		a.grant, a.unsure = clientv3.NoLease, ""
	}
	return nil, err
}
