package etcd

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/subnet"
)

// ear hears of requests.
type ear struct {
	mu   sync.Mutex
	took map[string]time.Duration // the longest, by operation
	errs map[string]error
}

func (e *ear) hear(op string, took time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.took[op] = max(took, e.took[op])
	if err != nil {
		e.errs[op] = err
	}
}

func (e *ear) heard(op string) (took time.Duration, ok bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	took, ok = e.took[op]
	return took, ok, e.errs[op]
}

func TestRequestsAreTimed(t *testing.T) {
	e := &ear{took: map[string]time.Duration{}, errs: map[string]error{}}
	s := open(t, Options{Took: e.hear})
	put(t, raw(t, endpoint), s.configKey(), config4)
	to := make(chan subnet.Snapshot)
	go func() { _ = s.Watch(t.Context(), to) }()
	<-to
	l := mustAcquire(t, s, claim(t, config4, 1))
	go func() { _ = s.Hold(t.Context(), l) }()
	deadline := time.Now().Add(patience)
	for _, op := range []string{"range", "txn", "lease-grant", "watch-start", "keepalive"} {
		for {
			took, ok, err := e.heard(op)
			if ok && (took <= 0 || took > patience || err != nil) {
				t.Errorf("%s: %s, %v", op, took, err)
			}
			if ok {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was not heard of", op)
			}
			select {
			case <-to:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func TestRequestsThatFailAreTimed(t *testing.T) {
	e := &ear{took: map[string]time.Duration{}, errs: map[string]error{}}
	p := startProxy(t, endpoint)
	s := open(t, Options{Endpoints: []string{p.endpoint()}, Took: e.hear})
	mustAcquire(t, s, claim(t, config4, 1))
	p.set(true)
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := s.Config(ctx)
		cancel()
		if err == nil {
			t.Fatal("there is an answer from a server that is away")
		}
		if _, _, err := e.heard("range"); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no failure was heard of")
		}
	}
}

func TestOperations(t *testing.T) {
	for method, want := range map[string]string{
		"/etcdserverpb.KV/Range": "range", "/etcdserverpb.Lease/LeaseKeepAlive": "keepalive",
		"/etcdserverpb.Watch/Watch": "watch-start", "/etcdserverpb.Maintenance/Status": "other",
	} {
		if have := operation(method); have != want {
			t.Errorf("%s: %s", method, have)
		}
	}
}
