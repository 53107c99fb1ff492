package etcd

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// life is how long our etcd lease lives on, by what the store said last, and
// when it is renewed next. clientv3's KeepAlive would wake us twice a second to
// look whether it is time.
type life struct {
	margin time.Duration // Options.RenewMargin
	log    logrus.FieldLogger
	due    *time.Timer // fires when the lease is to be renewed
	fails  int         // to renew it, in a row
	late   time.Time   // when less than the margin is left; zero: never
	ends   time.Time
	warned bool
}

func newLife(margin time.Duration, log logrus.FieldLogger) *life {
	l := &life{margin: margin, log: log, due: time.NewTimer(0)}
	l.stop()
	return l
}

// begin renews at once, as nobody knows how long the lease has waited for us.
func (l *life) begin() {
	l.fails = 0
	l.due.Reset(0)
}

// stop is for when there is nothing to renew.
func (l *life) stop() {
	l.due.Stop()
	l.late = time.Time{}
}

// plan says for a lease that lives for ttl from now on when it is to be renewed,
// and when that is late. It is renewed when a third of its life is over, so that
// two thirds are left for trying, and long enough before it is late. A margin
// as long as the lease itself (somebody granted it a shorter life than we
// would) would mean all the time: it is taken as nine tenths.
func plan(ttl, margin time.Duration) (due, late time.Duration) {
	if late = ttl - margin; late <= 0 {
		late = ttl / 10
	}
	return min(ttl/3, late/2), late
}

// jittered is up to a fifth earlier, so that a cluster that was started at once does
// not renew at once for ever.
func jittered(due time.Duration) time.Duration {
	return due - time.Duration(rand.Int64N(int64(due)/5+1)) //nolint:gosec // no secret
}

// renewed takes what the store answered, in seconds.
func (l *life) renewed(seconds int64) {
	ttl := time.Duration(seconds) * time.Second
	due, late := plan(ttl, l.margin)
	l.ends, l.late = time.Now().Add(ttl), time.Now().Add(late)
	l.fails = 0
	l.due.Reset(jittered(due))
	if l.warned {
		l.warned = false
		l.log.WithField("lives", ttl).Info("our lease is renewed again")
	}
}

// failed tries again soon.
func (l *life) failed() {
	l.due.Reset(wait(l.fails, waitFirst, waitLongest))
	l.fails++
	l.check()
}

// check warns once when the lease should have been renewed and was not.
func (l *life) check() {
	if l.warned || l.late.IsZero() || time.Now().Before(l.late) {
		return
	}
	l.warned = true
	l.log.WithField("left", max(0, time.Until(l.ends)).Round(time.Second)).
		Warn("our lease can't be renewed; when it ends another node may take our subnet: bring etcd back")
}

// renew renews our etcd lease now, or soon.
func (h *holding) renew(ctx context.Context, cli *clientv3.Client, id clientv3.LeaseID) error {
	seconds, err := renewOnce(ctx, cli, id)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		h.out.begin(err)
		h.life.failed()
		return nil
	case seconds <= 0: // it ended, and took the key along if that was still on it
		return errAgain
	}
	h.out.end()
	h.tries = 0
	h.life.renewed(seconds)
	h.s.renewed.Store(time.Now().Unix())
	h.s.expires.Store(h.life.ends.Unix())
	return nil
}

// renewOnce gives the seconds that the lease lives now; 0: it is no more. It has
// a stream of its own, as clientv3's KeepAliveOnce spins while there is no
// connection.
func renewOnce(ctx context.Context, cli *clientv3.Client, id clientv3.LeaseID) (seconds int64, err error) {
	err = attempt(clientv3.WithRequireLeader(ctx), func(ctx context.Context) error {
		stream, err := pb.NewLeaseClient(cli.ActiveConnection()).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
			return err
		}
		answer, err := stream.Recv()
		seconds = answer.GetTTL()
		return err
	})
	return seconds, err
}
