package etcd

import (
	"context"
	"errors"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// This file is how Acquire learns what the store holds, at the least cost: one key
// where we remember ours, nothing where a Watch knows all, else one read.

// remembered is the lease of the claim's own memory, if it still stands and fits:
// one key is read then, and not all of them.
func (a *acquiring) remembered(ctx context.Context, cli *clientv3.Client) (l subnet.Lease, ok bool, err error) {
	if a.doubted || a.known || a.c.ID == "" || a.c.Created == 0 {
		return l, false, nil
	}
	kv, _, err := a.s.readKey(ctx, cli, a.c.ID)
	if errors.Is(err, subnet.ErrLeaseLost) {
		return l, false, nil
	}
	if err != nil || kv.CreateRevision != a.c.Created {
		return l, false, err
	}
	if l, err = decodeLease(a.c.ID, kv.Value); err != nil {
		return l, false, nil //nolint:nilerr // look tells of it
	}
	l.Created, l.Revision = kv.CreateRevision, kv.ModRevision
	return l, subnet.Compatible(a.c.Config, l), nil
}

// verify asks whether a lease still stands as the view has it: that may be a
// moment old.
func (a *acquiring) verify(ctx context.Context, cli *clientv3.Client, l subnet.Lease) error {
	kv, _, err := a.s.readKey(ctx, cli, l.ID)
	if errors.Is(err, subnet.ErrLeaseLost) || err == nil && kv.ModRevision != l.Revision {
		a.known, a.doubted = false, true
		return errRace
	}
	return err
}

// ours finds the lease to go on with: what was ours, else a reservation for our
// addresses. An operator made that, so the addresses are proof enough. One that
// does not fit the configuration is left alone: it is not ours to delete.
func (a *acquiring) ours() (subnet.Lease, bool) {
	var unfit []string
	usable := slices.DeleteFunc(a.v.taken(), func(l subnet.Lease) bool {
		if !a.v.reserved[l.ID] || subnet.Compatible(a.c.Config, l) {
			return false
		}
		if announcesOnly(l, a.c.Shares) {
			unfit = append(unfit, l.ID)
		}
		return true
	})
	if l, ok := subnet.Mine(a.c, usable); ok {
		return l, true
	}
	for _, l := range usable {
		if a.v.reserved[l.ID] && announcesOnly(l, a.c.Shares) {
			return l, true
		}
	}
	if len(unfit) > 0 && !a.warned {
		a.warned = true
		a.s.log.WithField("reservations", strings.Join(unfit, ", ")).Warn("subnets are reserved for the address of " +
			"this node, but do not fit the network configuration, and are not used; delete them or reserve others")
	}
	return subnet.Lease{}, false
}

// announcesOnly reports whether all addresses of a lease are among the claim's.
func announcesOnly(l subnet.Lease, shares []subnet.Share) bool {
	ours := func(s subnet.Share) bool {
		same := func(own subnet.Share) bool { return own.Public == s.Public }
		return s.Public.IsValid() && slices.ContainsFunc(shares, same)
	}
	return len(l.Shares) > 0 && !slices.ContainsFunc(l.Shares, func(s subnet.Share) bool { return !ours(s) })
}

// look brings the view up to date. The first is that of a Watch, if there is one:
// it is at most a moment old, and the transaction that takes a subnet asks whether
// it is so. Else all is read, or after a race what was created since. A wait lies
// between the two, and what a transaction that was lost told would be old by now.
func (a *acquiring) look(ctx context.Context, cli *clientv3.Client) error {
	if v := a.s.lately(); !a.known && !a.doubted && v != nil {
		a.v, a.known, a.patched = v, true, true
		return nil
	}
	if !a.known {
		v, err := a.s.readAll(ctx, cli)
		if err == nil {
			a.v, a.known, a.patched = v, true, false
		}
		return err
	}
	return attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Get(ctx, a.s.leasesKey(), clientv3.WithPrefix(), clientv3.WithMinCreateRev(a.v.revision+1))
		if err != nil {
			return err
		}
		if a.v.regressed(resp.Header) {
			a.known, a.doubted = false, true
			return errRace
		}
		for _, kv := range resp.Kvs {
			a.v.put(kv)
		}
		a.v.revision, a.patched = resp.Header.Revision, true
		return nil
	})
}

// settle finds out whether a lease that we wrote without an answer is there:
// it is ours if it is attached to our grant.
func (a *acquiring) settle(ctx context.Context, cli *clientv3.Client) (l subnet.Lease, ok bool, err error) {
	err = attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Get(ctx, a.s.key(a.unsure))
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			if clientv3.LeaseID(kv.Lease) != a.grant {
				continue
			}
			l, err = decodeLease(a.unsure, kv.Value)
			l.Created, l.Revision, ok = kv.CreateRevision, kv.ModRevision, err == nil
		}
		return nil
	})
	if err != nil {
		return subnet.Lease{}, false, err
	}
	a.unsure = ""
	if ok {
		a.grant = clientv3.NoLease
	}
	return l, ok, nil
}
