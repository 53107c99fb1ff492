package kube_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
)

// door stands between one store and the API server: it ends TLS on both sides,
// so that it can look at what passes, and be shut.
type door struct {
	URL    string
	server *httptest.Server
	bytes  atomic.Int64 // to the store, on the wire

	mu     sync.Mutex
	shut   bool
	seen   []string              // method, kind of request and content type of the answer
	before func(r *http.Request) // is called before a request is passed on
}

func (c *cluster) openDoor(t testing.TB) *door {
	t.Helper()
	cert, key := c.server.Certificate()
	ours, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := rest.AnonymousClientConfig(c.server.Admin()) // the store brings its own token
	behind, err := rest.TransportFor(anonymous)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(c.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	d := &door{}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      behind,
		FlushInterval:  -1, // a watch waits for no more
		ModifyResponse: d.note,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	d.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		before := d.before
		d.mu.Unlock()
		if before != nil {
			before(r)
		}
		proxy.ServeHTTP(w, r)
	}))
	d.server.Listener = &frame{Listener: d.server.Listener, d: d}
	d.server.TLS = &tls.Config{Certificates: []tls.Certificate{ours}, MinVersion: tls.VersionTLS12}
	d.server.EnableHTTP2 = true
	d.server.Config.ErrorLog = nil
	d.server.StartTLS()
	d.URL = d.server.URL
	t.Cleanup(func() {
		d.Shut()
		d.server.Close()
	})
	return d
}

// frame lets connections through, and counts.
type frame struct {
	net.Listener
	d *door
}

func (f *frame) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		f.d.mu.Lock()
		shut := f.d.shut
		f.d.mu.Unlock()
		if !shut {
			return counted{c, &f.d.bytes}, nil
		}
		_ = c.Close() // as one that nothing serves
	}
}

type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (d *door) note(answer *http.Response) error {
	r := answer.Request
	what := r.Method
	if q := r.URL.Query(); q.Get("watch") != "" {
		what = "WATCH"
		if q.Get("sendInitialEvents") == "true" {
			what = "STREAM"
		}
	} else if r.Method == http.MethodGet && r.URL.Path == "/api/v1/nodes" {
		what = "LIST"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, what+" "+answer.Status+" "+answer.Header.Get("Content-Type"))
	return nil
}

// passed gives what was asked and how it was answered, in order.
func (d *door) passed() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seen)
}

// Before has f look at each request before it is passed on.
func (d *door) Before(f func(*http.Request)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = f
}

// Shut ends all connections and lets none through; Reopen lets them through.
func (d *door) Shut() {
	d.mu.Lock()
	d.shut = true
	d.mu.Unlock()
	d.server.CloseClientConnections()
}

func (d *door) Reopen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = false
}
