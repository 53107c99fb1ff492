package etcd

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	waitFirst = 100 * time.Millisecond
	// waitLongest keeps the time short until an etcd that was away for long is
	// found again: 2 s are promised. A try costs a dead etcd one refused connection.
	waitLongest    = time.Second
	connectTimeout = 5 * time.Second
	requestTimeout = 10 * time.Second // one request; then the next try
)

// mutex can be waited for with a context: what it guards goes over the network.
type mutex chan struct{}

func (m mutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m mutex) unlock() { <-m }

// pause waits before try n (from 0): up to twice as long each time, at most
// waitLongest, and at random so that the nodes of a cluster don't come as one.
func pause(ctx context.Context, n int, first time.Duration) error {
	t := time.NewTimer(wait(n, first, waitLongest))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func wait(n int, first, longest time.Duration) time.Duration {
	d := min(first<<min(n, 16), longest)
	return d/2 + rand.N(d)/2
}

// hopeless is an error that waiting does not mend: a wrong password, a missing
// permission, a request that the server doesn't take.
func hopeless(err error) bool {
	if errors.Is(err, errClosed) {
		return true
	}
	var e rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return true
	}
	return false
}

// causeKey and streamsKey carry, in a request's context, where the two
// interceptors below leave what they see. The etcd client hides both: why a
// request got nowhere (it reports its own deadline), and that a watch was
// interrupted (it resumes without a word).
type (
	causeKey   struct{}
	streamsKey struct{}
)

// rememberCause keeps the last error of a request on the wire.
func rememberCause(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if at, ok := ctx.Value(causeKey{}).(*error); ok && err != nil {
		*at = err
	}
	return err
}

// attempt runs one request with a deadline of its own. If that passes, the
// error is what went wrong on the wire, where known. do must not outlive its
// context.
func attempt(ctx context.Context, do func(context.Context) error) error {
	var cause error
	rctx, cancel := context.WithTimeout(context.WithValue(ctx, causeKey{}, &cause), requestTimeout)
	defer cancel()
	err := do(rctx)
	if err != nil && rctx.Err() != nil && cause != nil {
		err = errors.New(status.Convert(cause).Message())
	}
	return err
}

// streams tells of the streams that one watch runs over, one at a time.
type streams struct {
	changed chan struct{} // signalled after each change; holds one

	mu     sync.Mutex
	opened int   // how many were opened and not yet told of
	broken error // of the last one; nil: it lives
}

// newStreams expects the first stream, which is no news.
func newStreams() *streams { return &streams{changed: make(chan struct{}, 1), opened: -1} }

// resumed reports whether a stream was opened again since it was last called.
func (s *streams) resumed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.opened > 0
	s.opened = min(s.opened, 0)
	return again
}

// lost says why there is no stream, or nil.
func (s *streams) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

func (s *streams) open() {
	s.mu.Lock()
	s.opened++
	s.broken = nil
	s.mu.Unlock()
	s.signal()
}

func (s *streams) close(err error) {
	s.mu.Lock()
	s.broken = err
	s.mu.Unlock()
	s.signal()
}

func (s *streams) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func announceStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := open(ctx, desc, cc, method, opts...)
	to, ok := ctx.Value(streamsKey{}).(*streams)
	if !ok || err != nil {
		return cs, err
	}
	to.open()
	return &announced{ClientStream: cs, ctx: ctx, to: to}, nil
}

type announced struct {
	grpc.ClientStream
	ctx context.Context // of whoever opened it; the stream's own ends with the stream
	to  *streams
}

func (a *announced) RecvMsg(m any) error {
	err := a.ClientStream.RecvMsg(m)
	if err != nil && a.ctx.Err() == nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the server ended the stream")
		}
		a.to.close(err)
	}
	return err
}

// outage logs once that etcd is away, and once that it is back.
type outage struct {
	log   logrus.FieldLogger
	tell  func(error) // told as well, with nil when it is back; nil: nobody is
	since time.Time
}

func (o *outage) begin(err error) {
	if o.since.IsZero() {
		o.since = time.Now()
		o.log.WithError(err).Warn("etcd can't be reached, trying on")
		if o.tell != nil {
			o.tell(err)
		}
	}
}

func (o *outage) end() {
	if !o.since.IsZero() {
		o.log.WithField("after", time.Since(o.since).Round(time.Millisecond)).Info("etcd is back")
		o.since = time.Time{}
		if o.tell != nil {
			o.tell(nil)
		}
	}
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}
