package etcd

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// life is how long our etcd lease lives on, by what the store said last. The
// client's keep-alive renews it when two thirds of its time are left. What is
// asked beyond that (Options.RenewMargin) is done by this, and told when it
// can't be.
type life struct {
	margin time.Duration
	log    logrus.FieldLogger
	due    *time.Timer // fires when the lease must be renewed
	late   time.Time   // is when it does; zero: never
	ends   time.Time
	warned bool
}

func newLife(margin time.Duration, log logrus.FieldLogger) *life {
	l := &life{margin: margin, log: log, due: time.NewTimer(0)}
	l.stop()
	return l
}

// stop is for when there is nothing to renew.
func (l *life) stop() {
	l.due.Stop()
	l.late = time.Time{}
}

// renewed takes what the store answered, in seconds. A margin as long as the
// lease itself would mean all the time: it is taken as nine tenths.
func (l *life) renewed(seconds int64) {
	ttl := time.Duration(seconds) * time.Second
	margin := min(l.margin, ttl-ttl/10)
	l.ends = time.Now().Add(ttl)
	l.late = l.ends.Add(-margin)
	l.due.Reset(ttl - margin)
	if l.warned {
		l.warned = false
		l.log.WithField("lives", ttl).Info("our lease is renewed again")
	}
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

// renew renews an etcd lease now. It tries for a quarter of the time that is
// left, so that check can tell in time. It is not the client's KeepAliveOnce,
// which spins while there is no connection.
func (l *life) renew(ctx context.Context, cli *clientv3.Client, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Until(l.ends)/4)
	defer cancel()
	return attempt(ctx, func(ctx context.Context) error {
		stream, err := pb.NewLeaseClient(cli.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if answer.GetTTL() <= 0 { // it ended: the key tells what became of it
			return errAgain
		}
		l.renewed(answer.GetTTL())
		return nil
	})
}
