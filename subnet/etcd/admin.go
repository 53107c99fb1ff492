package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// ErrNoConfig is what Config gives while there is none.
var ErrNoConfig = errors.New("there is no network configuration")

// Those that follow are for an operator's tool: one request, no retry
// beyond the wait for a connection. ctx bounds it; so does a deadline of 10 s.

// Config gives the configuration as it is stored.
func (s *Store) Config(ctx context.Context) ([]byte, error) {
	var raw []byte
	err := s.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		resp, err := cli.Get(ctx, s.configKey())
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return ErrNoConfig
		}
		raw = resp.Kvs[0].Value
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from etcd at %s: %w", s.configKey(), s.endpoints(), err)
	}
	return raw, nil
}

// SetConfig stores a configuration that parses, and says whether there was
// none before. With onlyIfAbsent one that is there stays.
func (s *Store) SetConfig(ctx context.Context, raw []byte, onlyIfAbsent bool) (created bool, err error) {
	if _, err := subnet.ParseConfig(raw); err != nil {
		return false, fmt.Errorf("network configuration: %w", err)
	}
	key := s.configKey()
	put := clientv3.OpPut(key, string(raw))
	err = s.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		txn := cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).Then(put)
		if !onlyIfAbsent {
			txn = txn.Else(put)
		}
		resp, err := txn.Commit()
		if err == nil {
			created = resp.Succeeded
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("write %s to etcd at %s: %w", key, s.endpoints(), err)
	}
	return created, nil
}

// Leases gives the whole truth, once.
func (s *Store) Leases(ctx context.Context) (subnet.Snapshot, error) {
	cli, err := s.dial(ctx)
	var v *view
	if err == nil {
		v, err = s.readAll(ctx, cli)
	}
	if err != nil {
		return subnet.Snapshot{}, fmt.Errorf("read %s from etcd at %s: %w", s.opts.Prefix, s.endpoints(), err)
	}
	return v.snapshot(), nil
}

// Release deletes a lease of ours, so that peers forget this node at once.
// ErrLeaseLost: it is gone. ErrLeaseChanged: the key is another's, made since,
// or a reservation, which outlives its node.
func (s *Store) Release(ctx context.Context, l subnet.Lease) error {
	err := s.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		kv, _, err := s.readKey(ctx, cli, l.ID)
		if err != nil {
			return err
		}
		if kv.CreateRevision != l.Created || kv.Lease == int64(clientv3.NoLease) {
			return subnet.ErrLeaseChanged
		}
		resp, err := cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(s.key(l.ID)), "=", kv.ModRevision)).
			Then(clientv3.OpDelete(s.key(l.ID))).Commit()
		if err == nil && !resp.Succeeded {
			err = subnet.ErrLeaseChanged
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("give lease %s back to etcd at %s: %w", l.ID, s.endpoints(), err)
	}
	return nil
}

func (s *Store) ask(ctx context.Context, do func(context.Context, *clientv3.Client) error) error {
	cli, err := s.dial(ctx)
	if err != nil {
		return err
	}
	return attempt(ctx, func(ctx context.Context) error { return do(ctx, cli) })
}
