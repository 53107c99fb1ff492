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
		if pause(ctx, n, waitFirst) != nil {
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
