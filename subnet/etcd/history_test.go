package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// crowded has 15 subnets of each family, or a few more.
const crowded = `{"EnableIPv6":true,"Network":"10.9.0.0/24","SubnetLen":28,` +
	`"IPv6Network":"fd00:9::/60","IPv6SubnetLen":64}`

// gained is what a claimant was told by Acquire.
type gained struct {
	claimant int
	lease    subnet.Lease
}

// TestHistoryHasNeverTwoHolders lets nodes fight for few subnets of a real etcd,
// by connections that break at any moment, so that answers get lost and leases
// of one second expire, while an operator deletes and revokes. Then every write
// that etcd saw is replayed: no two leases that overlap ever stood together, none
// changed hands while it stood, and what a claimant was told is what it had.
//
// etcd orders all writes itself, in revisions: so the history is replayed in
// that order, and there is no search for one, as by porcupine.
func TestHistoryHasNeverTwoHolders(t *testing.T) {
	const claimants, length = 14, 6 * time.Second
	first := open(t, Options{})
	operator := raw(t, endpoint)
	put(t, operator, first.configKey(), crowded)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var mu sync.Mutex
	var told []gained
	var all sync.WaitGroup
	for n := range claimants {
		p := startProxy(t, endpoint)
		s := open(t, Options{Endpoints: []string{p.endpoint()}, TTL: time.Second})
		c := claim(t, crowded, n)
		all.Go(func() { shake(ctx, p) })
		all.Go(func() {
			live(ctx, s, operator, c, func(l subnet.Lease) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, gained{n, l})
			})
		})
	}
	all.Go(func() { meddle(ctx, first, operator) })
	all.Wait()
	h := replay(t, first, operator)
	t.Logf("%d leases gained; %d writes and %d deletions replayed", len(told), h.writes, h.deletions)
	if len(told) < 2*claimants || h.deletions < claimants {
		t.Error("that was no fight")
	}
	for _, g := range told {
		want := claim(t, crowded, g.claimant).Shares[0].Public.String()
		if have := h.owners[at{g.lease.ID, g.lease.Revision}]; have != want {
			t.Errorf("%s was told that it has %s by revision %d, which is of %q", want, g.lease.ID, g.lease.Revision, have)
		}
	}
}

func someTime(most time.Duration) <-chan time.Time { return time.After(rand.N(most)) }

// shake cuts the connections at any moment, now and then for longer than a
// lease lives.
func shake(ctx context.Context, p *proxy) {
	for ctx.Err() == nil {
		<-someTime(400 * time.Millisecond)
		p.set(true)
		if rand.IntN(6) == 0 {
			<-someTime(3 * time.Second)
		}
		p.set(false)
	}
}

// live is a node: it takes a lease, holds it a while, loses it or gives it back,
// and asks for it again, or for any.
func live(ctx context.Context, s *Store, operator *clientv3.Client, c subnet.Claim, tell func(subnet.Lease)) {
	for ctx.Err() == nil {
		try, stop := context.WithTimeout(ctx, 2*time.Second) // it may be killed at any moment
		l, err := s.Acquire(try, c)
		stop()
		if err != nil {
			<-someTime(20 * time.Millisecond)
			continue
		}
		tell(l)
		c.ID, c.Created = l.ID, l.Created
		hold, stop := context.WithTimeout(ctx, rand.N(600*time.Millisecond))
		_ = s.Hold(hold, l) // however it ends, the next Acquire tells
		stop()
		switch rand.IntN(4) {
		case 0: // the node leaves, and another one with its address is installed anew
			_, _ = operator.Delete(ctx, s.key(l.ID)) // it counts by what etcd saw
			c.ID, c.Created = "", 0
		case 1: // it sleeps, perhaps for longer than the lease lives
			<-someTime(1500 * time.Millisecond)
		}
	}
}

// meddle deletes keys and revokes leases by hand.
func meddle(ctx context.Context, s *Store, operator *clientv3.Client) {
	for ctx.Err() == nil {
		<-someTime(200 * time.Millisecond)
		got, err := operator.Get(ctx, s.leasesKey(), clientv3.WithPrefix())
		if err != nil || len(got.Kvs) == 0 {
			continue
		}
		kv := got.Kvs[rand.IntN(len(got.Kvs))]
		if rand.IntN(2) == 0 {
			_, _ = operator.Delete(ctx, string(kv.Key)) // it counts by what etcd saw
		} else {
			_, _ = operator.Revoke(ctx, clientv3.LeaseID(kv.Lease)) // likewise
		}
	}
}

// at is one write of a lease.
type at struct {
	id       string
	revision int64
}

type history struct {
	writes, deletions int
	owners            map[at]string // public addresses, by write
}

// replay goes through all that was ever written, up to now.
func replay(t *testing.T, s *Store, c *clientv3.Client) history {
	t.Helper()
	const end = `{"end":true}`
	put(t, c, s.configKey(), end)
	h := history{owners: map[at]string{}}
	standing := map[string]string{} // owners by ID
	for resp := range c.Watch(short(t), s.rootKey(), clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.Events {
			id, isLease := strings.CutPrefix(string(e.Kv.Key), s.leasesKey())
			switch {
			case string(e.Kv.Value) == end:
				return h
			case !isLease:
			case e.Type == clientv3.EventTypeDelete:
				h.deletions++
				delete(standing, id)
			default:
				h.writes++
				owner, err := judgeWrite(standing, id, e.Kv.Value)
				if err != nil {
					t.Errorf("revision %d: %v", e.Kv.ModRevision, err)
				}
				standing[id] = owner
				h.owners[at{id, e.Kv.ModRevision}] = owner
			}
		}
	}
	t.Fatal("the history has no end")
	return h
}

// judgeWrite says what is wrong with a write beside the leases that stand.
func judgeWrite(standing map[string]string, id string, value []byte) (owner string, err error) {
	l, err := decodeLease(id, value)
	if err != nil {
		return "", err
	}
	owner = l.Shares[0].Public.String()
	if was, there := standing[id]; there && was != owner {
		err = fmt.Errorf("%s was that of %s, and %s took it", id, was, owner)
	}
	for other := range standing {
		subnets, badKey := decodeKey(other)
		err = errors.Join(err, badKey)
		for _, theirs := range subnets {
			for _, share := range l.Shares {
				if other != id && theirs.Overlaps(share.Subnet) {
					err = errors.Join(err, fmt.Errorf("%s was written while %s stood", id, other))
				}
			}
		}
	}
	return owner, err
}

func TestJudgeWrite(t *testing.T) {
	standing := map[string]string{"10.9.0.16-28&fd00:9:0:1::-64": "192.168.0.1"}
	value := func(public string) []byte {
		return fmt.Appendf(nil, `{"PublicIP":%q,"PublicIPv6":"fd77::1","BackendType":"vxlan",`+
			`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`, public)
	}
	for name, c := range map[string]struct {
		id, public string
		bad        bool
	}{
		"its own":               {"10.9.0.16-28&fd00:9:0:1::-64", "192.168.0.1", false},
		"another one":           {"10.9.0.32-28&fd00:9:0:2::-64", "192.168.0.2", false},
		"another's":             {"10.9.0.16-28&fd00:9:0:1::-64", "192.168.0.2", true},
		"the same IPv6 subnet":  {"10.9.0.32-28&fd00:9:0:1::-64", "192.168.0.2", true},
		"a part of IPv4 subnet": {"10.9.0.24-29&fd00:9:0:2::-64", "192.168.0.2", true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := judgeWrite(standing, c.id, value(c.public)); (err != nil) != c.bad {
				t.Errorf("%v, want bad: %v", err, c.bad)
			}
		})
	}
}
