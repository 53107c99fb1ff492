package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// errAgain ends a round of Hold that must look at the key anew.
var errAgain = errors.New("the lease must be read again")

func sameContent(a, b subnet.Lease) bool {
	return a.Backend == b.Backend && slices.EqualFunc(a.Shares, b.Shares, func(a, b subnet.Share) bool {
		return a.Subnet == b.Subnet && a.Public == b.Public && bytes.Equal(a.Data, b.Data)
	})
}

// Publish implements subnet.Store. The lease keeps its subnets, and the key its
// etcd lease.
func (s *Store) Publish(ctx context.Context, old, next subnet.Lease) (subnet.Lease, error) {
	fail := func(err error) (subnet.Lease, error) {
		return subnet.Lease{}, fmt.Errorf("publish lease %s in etcd at %s: %w", old.ID, s.endpoints(), err)
	}
	want, raw, err := readBack(old.ID, next.Backend, next.Shares)
	if err != nil {
		return fail(err)
	}
	want.Created = old.Created
	if !slices.EqualFunc(want.Shares, next.Shares, func(a, b subnet.Share) bool { return a.Subnet == b.Subnet }) {
		return fail(badField("subnet", "can't be changed: %v", subnetsOf(next)))
	}
	if s.publishing.lock(ctx) != nil {
		return fail(ctx.Err())
	}
	defer s.publishing.unlock()
	s.written[old.ID] = append(s.written[old.ID], want)
	out := outage{log: s.log}
	for n, unsure := 0, false; ; n++ {
		l, err := s.publish(ctx, old, want, raw, unsure)
		switch {
		case err == nil:
			out.end()
			s.written[old.ID] = []subnet.Lease{l}
			return l, nil
		case errors.Is(err, subnet.ErrLeaseLost), errors.Is(err, subnet.ErrLeaseChanged), hopeless(err):
			if !unsure { // it was not written
				s.written[old.ID] = s.written[old.ID][:len(s.written[old.ID])-1]
			}
			return fail(err)
		case ctx.Err() != nil:
			return fail(endedBy(ctx, err))
		}
		unsure = true
		out.begin(err)
		if pause(ctx, n, waitFirst, waitLongest) != nil {
			return fail(endedBy(ctx, err))
		}
	}
}

func subnetsOf(l subnet.Lease) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range l.Shares {
		out = append(out, s.Subnet)
	}
	return out
}

// publish tries once. If unsure, an earlier try may have got through without an
// answer, and then what stands there is what we want.
func (s *Store) publish(ctx context.Context, old, want subnet.Lease, raw []byte, unsure bool) (subnet.Lease, error) {
	cli, err := s.dial(ctx)
	if err != nil {
		return subnet.Lease{}, err
	}
	key := s.key(old.ID)
	err = attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", old.Revision),
				clientv3.Compare(clientv3.CreateRevision(key), "=", old.Created)).
			Then(clientv3.OpPut(key, string(raw), clientv3.WithIgnoreLease())).
			Else(clientv3.OpGet(key)).
			Commit()
		if err != nil {
			return err
		}
		if resp.Succeeded {
			want.Revision = resp.Header.Revision
			return nil
		}
		kvs := resp.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) == 0 {
			return subnet.ErrLeaseLost
		}
		want.Revision = kvs[0].ModRevision
		if err := judge(kvs[0], want); err != nil || unsure {
			return err
		}
		return subnet.ErrLeaseChanged
	})
	return want, err
}

// judge says whether a key still holds the lease: the same one by its create
// revision, with the same content. When it was written, and on which etcd
// lease it is, does not matter.
func judge(kv *mvccpb.KeyValue, l subnet.Lease) error {
	if kv.CreateRevision != l.Created {
		return subnet.ErrLeaseLost
	}
	have, err := decodeLease(l.ID, kv.Value)
	if err != nil {
		return fmt.Errorf("%w: %v", subnet.ErrLeaseChanged, err) //nolint:errorlint // told, not branched on
	}
	if !sameContent(have, l) {
		return subnet.ErrLeaseChanged
	}
	return nil
}

// Hold implements subnet.Store: keep-alives on the etcd lease of the key, and a
// watch on the key. What this Store publishes meanwhile it goes on to hold. A
// key without an etcd lease is a reservation, which needs no keep-alive and is
// only watched.
func (s *Store) Hold(ctx context.Context, l subnet.Lease) error {
	log := s.log.WithField("lease", l.ID)
	h := &holding{s: s, l: l, out: outage{log: log}, life: newLife(s.opts.RenewMargin, log)}
	defer h.life.stop()
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
		if err := pause(ctx, h.tries, waitFirst, waitLongest); err != nil {
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
	alive, err := h.keepAlive(ctx, cli, clientv3.LeaseID(kv.Lease))
	if err != nil {
		return err
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
		case resp, open := <-alive:
			if !open { // expired, or no answer for as long as it lives
				return errAgain
			}
			h.tries = 0
			h.life.renewed(resp.TTL)
		case <-h.life.due.C:
			if err := h.life.renew(ctx, cli, kv.Lease); err != nil {
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

// keepAlive starts the client's keep-alive; a reservation has nothing to renew.
func (h *holding) keepAlive(ctx context.Context, cli *clientv3.Client, id clientv3.LeaseID) (
	<-chan *clientv3.LeaseKeepAliveResponse, error,
) {
	if id == clientv3.NoLease {
		h.life.stop()
		return nil, nil
	}
	return cli.KeepAlive(ctx, id)
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
