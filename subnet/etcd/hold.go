package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// errAgain ends a round of Hold that must look at the key anew.
var errAgain = errors.New("the lease must be read again")

// Hold implements subnet.Store: the etcd lease of the key is renewed in time, and
// the key is watched. What this Store publishes meanwhile it goes on to hold. A
// key without an etcd lease is a reservation, which needs no renewal and is
// only watched.
func (s *Store) Hold(ctx context.Context, l subnet.Lease) error {
	log := s.log.WithField("lease", l.ID)
	h := &holding{s: s, l: l, out: outage{log: log}, life: newLife(s.opts.RenewMargin, log)}
	defer h.life.stop()
	defer s.expires.Store(0)
	for ; ; h.tries++ {
		err := h.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, subnet.ErrLeaseLost), errors.Is(err, subnet.ErrLeaseChanged), errors.Is(err, errClosed):
			return fmt.Errorf("hold lease %s in etcd at %s: %w", l.ID, s.endpoints(), err)
		case !errors.Is(err, errAgain):
			h.out.begin(err)
		}
		h.life.check()
		if err := pause(ctx, h.tries, waitFirst); err != nil {
			return err
		}
	}
}

// holding is one call of Hold.
type holding struct {
	s     *Store
	l     subnet.Lease
	out   outage
	life  *life
	tries int // in a row that came to nothing
}

// round looks at the key, then keeps it alive until something breaks.
func (h *holding) round(ctx context.Context) error {
	cli, err := h.s.dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, revision, err := h.read(ctx, cli)
	if err != nil {
		return err
	}
	h.out.end()
	str := newStreams()
	events, stop := watch(ctx, cli, str, string(kv.Key), clientv3.WithRev(revision+1))
	defer stop()
	if kv.Lease == int64(clientv3.NoLease) {
		h.life.stop()
	} else {
		h.life.begin()
	}
	for {
		select {
		case resp, open := <-events:
			if !open {
				return errEnded
			}
			if err := h.take(ctx, cli, resp, kv.Lease); err != nil {
				return err
			}
		case <-h.life.due.C:
			if err := h.renew(ctx, cli, clientv3.LeaseID(kv.Lease)); err != nil {
				return err
			}
		case <-str.changed:
			if err := h.streamChanged(str); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// streamChanged looks anew over a stream that was opened again, as events may
// have been missed, and tells that there is none.
func (h *holding) streamChanged(str *streams) error {
	if str.resumed() {
		return errAgain
	}
	if err := str.lost(); err != nil {
		h.out.begin(err)
	}
	return nil
}

// read gives the key as it stands, and the revision of the store. If it is not
// as we know it, that may be our own doing: once no Publish is under way, what
// was published is known, and counts if it stands there.
func (h *holding) read(ctx context.Context, cli *clientv3.Client) (kv *mvccpb.KeyValue, revision int64, err error) {
	kv, revision, err = h.s.readKey(ctx, cli, h.l.ID)
	if err != nil {
		return nil, 0, err
	}
	if err := judge(kv, h.l); !errors.Is(err, subnet.ErrLeaseChanged) {
		return kv, revision, err
	}
	if err := h.s.publishing.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer h.s.publishing.unlock()
	if kv, revision, err = h.s.readKey(ctx, cli, h.l.ID); err != nil {
		return nil, 0, err
	}
	for _, l := range h.s.written[h.l.ID] {
		if judge(kv, l) == nil {
			h.l = l
			return kv, revision, nil
		}
	}
	return kv, revision, judge(kv, h.l)
}

func (s *Store) readKey(ctx context.Context, cli *clientv3.Client, id string) (*mvccpb.KeyValue, int64, error) {
	var kv *mvccpb.KeyValue
	var revision int64
	err := attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Get(ctx, s.key(id))
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return subnet.ErrLeaseLost
		}
		kv, revision = resp.Kvs[0], resp.Header.Revision
		return nil
	})
	return kv, revision, err
}

func (h *holding) take(ctx context.Context, cli *clientv3.Client, resp clientv3.WatchResponse, lease int64) error {
	if err := resp.Err(); err != nil {
		return err
	}
	for _, e := range resp.Events {
		if e.Type == mvccpb.Event_DELETE {
			return subnet.ErrLeaseLost
		}
		if err := judge(e.Kv, h.l); errors.Is(err, subnet.ErrLeaseChanged) {
			if _, _, err := h.read(ctx, cli); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if e.Kv.Lease != lease { // renewed in flannel's way: a new grant and a put
			return errAgain
		}
	}
	return nil
}
