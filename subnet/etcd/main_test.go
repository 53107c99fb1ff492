package etcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd/embedded"
)

// endpoint is that of the server of this test binary. Each test has a prefix
// of its own there; what hurts the whole server starts one for itself.
var endpoint string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "weft-etcd-test")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := embedded.Start(context.Background(), embedded.Options{Dir: path.Join(dir, "etcd"), Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	defer func() { _ = s.Close() }()
	endpoint = s.Endpoint()
	m.Run() // its result is the exit status once TestMain returns
}

const patience = 20 * time.Second

// short is a context for what must not take long.
func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// prefixes are those of the tests that run, by *testing.T: with -count a name
// comes more than once.
var prefixes sync.Map

func prefixOf(t *testing.T) string {
	t.Helper()
	p, _ := prefixes.LoadOrStore(t, "/"+strings.NewReplacer(" ", "-", "/", "-").Replace(t.Name())+"-"+rand.Text())
	return p.(string)
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Endpoints == nil {
		o.Endpoints = []string{endpoint}
	}
	if o.Prefix == "" {
		o.Prefix = prefixOf(t)
	}
	return mustNew(t, o)
}

func mustNew(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// raw is a client beside the store: the operator's etcdctl.
func raw(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) *clientv3.PutResponse {
	t.Helper()
	resp, err := c.Put(short(t), key, value, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// following is a Watch that runs until the test ends.
type following struct {
	t    *testing.T
	to   chan subnet.Snapshot
	done chan error
	last subnet.Snapshot
}

func follow(t *testing.T, s *Store) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{t: t, to: make(chan subnet.Snapshot), done: make(chan error, 1)}
	go func() { f.done <- s.Watch(ctx, f.to) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.done; !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended by %v", err)
		}
	})
	return f
}

// until takes snapshots until one is as it should be.
func (f *following) until(what string, ok func(subnet.Snapshot) bool) subnet.Snapshot {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case f.last = <-f.to:
			if ok(f.last) {
				return f.last
			}
		case err := <-f.done:
			f.done <- context.Canceled
			f.t.Fatalf("watch ended while waiting for %s: %v", what, err)
		case <-deadline.C:
			f.t.Fatalf("no snapshot with %s; the last was %+v", what, f.last)
		}
	}
}

func ids(s subnet.Snapshot) []string {
	var out []string
	for _, l := range s.Leases {
		out = append(out, l.ID)
	}
	return out
}

func hasIDs(want ...string) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool { return slices.Equal(ids(s), want) }
}

// proxy stands between a store and its server, and can be cut.
type proxy struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	tls   *tls.Config // nil: plain
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func startProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: strings.TrimPrefix(endpoint, "http://"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.set(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	target, secure := p.target()
	if secure != nil {
		c = tls.Server(c, secure)
	}
	s, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = s.Close() }()
	if !p.keep(c, s) {
		return
	}
	defer p.forget(c, s)
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err == nil {
				_, err = to.Write(buf[:n])
			}
			if err != nil {
				done <- struct{}{}
				return
			}
		}
	}
	p.wg.Go(func() { pass(c, s) })
	p.wg.Go(func() { pass(s, c) })
	<-done
}

func (p *proxy) target() (string, *tls.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to, p.tls
}

func (p *proxy) secure(c *tls.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tls = c
}

// retarget sends new connections elsewhere.
func (p *proxy) retarget(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = strings.TrimPrefix(endpoint, "http://")
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
	return !p.cut
}

func (p *proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// set cuts all connections and takes no more, or does so again.
func (p *proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.conns {
		if cut {
			_ = c.Close()
		}
	}
}

// claim is that of node n of a dual-stack or IPv4 cluster.
func claim(t *testing.T, config string, n int) subnet.Claim {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	c := subnet.Claim{Config: cfg, Node: fmt.Sprint("node", n), Backend: "vxlan"}
	for _, network := range cfg.Networks {
		a := fmt.Sprintf("192.168.%d.%d", n/250, n%250+1)
		if network.Prefix.Addr().Is6() {
			a = fmt.Sprintf("fd77::%x", n+1)
		}
		c.Shares = append(c.Shares, subnet.Share{
			Public: addr(a), Data: []byte(fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, n/256, n%256)),
		})
	}
	return c
}
