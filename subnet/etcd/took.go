package etcd

import (
	"context"
	"path"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// operation names what a method of etcd's API does, in the words of the metric.
func operation(method string) string {
	names := map[string]string{
		"Range": "range", "Put": "put", "Txn": "txn", "LeaseGrant": "lease-grant", "LeaseRevoke": "lease-revoke",
		"LeaseKeepAlive": "keepalive", "LeaseTimeToLive": "lease-look", "Watch": "watch-start", "Authenticate": "login",
	}
	if name, ok := names[path.Base(method)]; ok {
		return name
	}
	return "other"
}

// timer tells how long requests take. Of a stream it is the time to its first
// message: that a watch is there, or a lease is renewed.
type timer struct {
	tell func(op string, took time.Duration, err error)
}

// request is one that is under way.
type request struct {
	op     string
	begun  time.Time
	stream bool
	told   atomic.Bool
}

type requestKey struct{}

// TagRPC marks a request.
func (timer) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, requestKey{}, &request{op: operation(info.FullMethodName), begun: time.Now()})
}

// HandleRPC follows it.
func (t timer) HandleRPC(ctx context.Context, s stats.RPCStats) {
	r, ok := ctx.Value(requestKey{}).(*request)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.Begin:
		r.stream = s.IsServerStream
	case *stats.InPayload:
		if r.stream && !r.told.Swap(true) {
			t.tell(r.op, time.Since(r.begun), nil)
		}
	case *stats.End:
		// What we gave up ourselves says nothing about etcd.
		if status.Code(s.Error) != codes.Canceled && !r.told.Swap(true) {
			t.tell(r.op, time.Since(r.begun), s.Error)
		}
	}
}

// TagConn marks nothing.
func (timer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn has nothing to do.
func (timer) HandleConn(context.Context, stats.ConnStats) {}
