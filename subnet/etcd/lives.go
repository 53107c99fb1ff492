package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// Life is that of a lease. The zero one is a reservation's, which has no end.
type Life struct {
	Renewed time.Time // or granted; to the second
	Expires time.Time
}

// atOnce is how many questions are under way at a time.
const atOnce = 16

// Lives gives the life of each lease by its ID. That is one question to etcd for
// each lease.
func (s *Store) Lives(ctx context.Context) (map[string]Life, error) {
	var lives map[string]Life
	err := s.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		// Asked for keys only, etcd 3.7 doesn't tell their leases.
		keys, err := cli.Get(ctx, s.leasesKey(), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		holders := make(map[string]clientv3.LeaseID, len(keys.Kvs))
		for _, kv := range keys.Kvs {
			if id := strings.TrimPrefix(string(kv.Key), s.leasesKey()); kv.Lease != 0 {
				holders[id] = clientv3.LeaseID(kv.Lease)
			}
		}
		lives, err = livesOf(ctx, cli, holders)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the leases' lives from etcd at %s: %w", s.endpoints(), err)
	}
	return lives, nil
}

func livesOf(ctx context.Context, cli *clientv3.Client, holders map[string]clientv3.LeaseID) (map[string]Life, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	var mu sync.Mutex
	lives := make(map[string]Life, len(holders))
	for id, holder := range holders {
		g.Go(func() error {
			resp, err := cli.TimeToLive(ctx, holder)
			if err != nil {
				return err
			}
			now := time.Now()
			expires := now.Add(time.Duration(resp.TTL) * time.Second) // -1: it has just ended
			mu.Lock()
			defer mu.Unlock()
			lives[id] = Life{Renewed: expires.Add(-time.Duration(resp.GrantedTTL) * time.Second), Expires: expires}
			return nil
		})
	}
	return lives, g.Wait()
}
