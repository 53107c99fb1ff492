package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestReadiness(t *testing.T) {
	gone := errors.New("the lease is gone")
	type set struct {
		condition string
		err       error
	}
	for name, c := range map[string]struct {
		sets []set
		want []string
	}{
		"nothing was reported yet":       {nil, []string{"no part of it has reported yet"}},
		"all conditions hold":            {[]set{{"lease", nil}, {"device", nil}}, nil},
		"one does not":                   {[]set{{"lease", gone}, {"device", nil}}, []string{"lease: the lease is gone"}},
		"in alphabetical order":          {[]set{{"lease", gone}, {"device", gone}}, []string{"device: the lease is gone", "lease: the lease is gone"}},
		"a condition that came right":    {[]set{{"lease", gone}, {"lease", nil}}, nil},
		"a condition that went wrong":    {[]set{{"lease", nil}, {"lease", gone}}, []string{"lease: the lease is gone"}},
		"several causes are one line":    {[]set{{"rules", errors.Join(gone, gone)}}, []string{"rules: the lease is gone; the lease is gone"}},
		"the same condition is one line": {[]set{{"lease", gone}, {"lease", gone}}, []string{"lease: the lease is gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			for _, set := range c.sets {
				s.Set(set.condition, set.err)
			}
			if d := cmp.Diff(c.want, s.Reasons()); d != "" {
				t.Errorf("reasons (-want +have):\n%s", d)
			}
			if ready := s.Ready() == nil; ready != (c.want == nil) {
				t.Errorf("ready: have %v", ready)
			}
		})
	}
}

// Await is for who makes the last condition true.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.Set("files", errors.New("not yet"))
		ended := make(chan error, 1)
		go func() { ended <- s.Await(t.Context(), "files") }()
		still := func(what string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-ended:
				t.Fatalf("%s: it ended by %v", what, err)
			default:
			}
		}
		still("nothing else was reported")
		s.Set("lease", errors.New("none"))
		s.Set("device", nil)
		still("one does not hold")
		s.Set("lease", errors.New("none, still"))
		still("one does not hold, in other words")
		s.Set("lease", nil)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Set("lease", errors.New("lost"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Await(ctx, "files"); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped, it ended by %v", err)
		}
	})
}

func TestReadyKeepsTheCause(t *testing.T) {
	gone := errors.New("gone")
	s := New()
	s.Set("lease", gone)
	if err := s.Ready(); !errors.Is(err, gone) {
		t.Errorf("errors.Is can't find the cause in %v", err)
	}
}

func TestAnswers(t *testing.T) {
	ready, broken := New(), New()
	ready.Set("lease", nil)
	broken.Set("lease", errors.New("revoked"))
	broken.Set("device", errors.New("is down"))
	for name, c := range map[string]struct {
		state        *State
		method, path string
		code         int
		body         string
	}{
		"alive while ready":        {ready, "GET", "/healthz", 200, "weftd is running\n"},
		"alive while not ready":    {broken, "GET", "/healthz", 200, "weftd is running\n"},
		"ready":                    {ready, "GET", "/readyz", 200, "weftd is ready\n"},
		"not ready, with reasons":  {broken, "GET", "/readyz", 503, "weftd is not ready\ndevice: is down\nlease: revoked\n"},
		"head":                     {broken, "HEAD", "/readyz", 503, "weftd is not ready\ndevice: is down\nlease: revoked\n"},
		"nothing else is there":    {ready, "GET", "/metrics", 404, "404 page not found\n"},
		"nor is anything accepted": {ready, "POST", "/readyz", 405, "Method Not Allowed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c.state.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
			if w.Code != c.code || w.Body.String() != c.body {
				t.Errorf("want %d %q, have %d %q", c.code, c.body, w.Code, w.Body)
			}
		})
	}
}

func TestServeUntilTheContextEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, New()) }()

	resp, err := http.Get("http://" + listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "weftd is running\n" {
		t.Errorf("have %q, %v", body, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, have %v", err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("it still listens")
	}
}

func TestServeOnATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addr := taken.Addr().String()
	err = Serve(t.Context(), addr, New())
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "--healthz-port") {
		t.Errorf("want an error that names the address and the flag, have %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := New()
	var wg sync.WaitGroup
	for _, c := range []string{"lease", "device", "rules"} {
		wg.Go(func() {
			for range 100 {
				s.Set(c, errors.New("x"))
				_ = s.Reasons()
				s.Set(c, nil)
			}
		})
	}
	wg.Wait()
	if err := s.Ready(); err != nil {
		t.Errorf("all conditions hold in the end, have %v", err)
	}
}
