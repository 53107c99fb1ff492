package health

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPartThatHangsIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		free := make(chan struct{})
		s.Watch("the loop", func() {})
		s.Watch("the brain", func() { <-free })
		wait := func(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // the bubble's clock
		for range 5 {
			if err := s.Live(); err != nil {
				t.Errorf("too early: %v", err)
			}
			wait(10 * time.Second)
		}
		wait(10 * time.Second)
		if err := s.Live(); err == nil || err.Error() != "the brain has not answered for 1m1s" {
			t.Errorf("after a minute: %v", err)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/livez", nil))
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the brain: has not answered") {
			t.Errorf("/livez: %d %s", w.Code, w.Body)
		}
		close(free)
		synctest.Wait()
		if err := s.Live(); err != nil {
			t.Errorf("when it answers again: %v", err)
		}
		s.Watch("the brain", func() { wait(50 * time.Millisecond) })
		wait(time.Hour)
		if err := s.Live(); err != nil {
			t.Errorf("slow, and never asked for an hour: %v", err)
		}
	})
}

func TestVerbose(t *testing.T) {
	s := New()
	s.Watch("the loop", func() {})
	s.Set("lease", nil)
	s.Set("uplink", http.ErrServerClosed)
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/livez":  {200, "weftd is alive\n"},
		"/readyz": {503, "weftd is not ready\nuplink: http: Server closed\n"},
		"/readyz?verbose": {503, `{"ok":false,"checks":[{"name":"lease","ok":true},` +
			`{"name":"uplink","ok":false,"reason":"http: Server closed"}]}` + "\n"},
		"/livez?verbose":   {200, `{"ok":true,"checks":[{"name":"the loop","ok":true}]}` + "\n"},
		"/healthz":         {200, "weftd is running\n"},
		"/healthz?verbose": {200, `{"ok":true,"checks":[]}` + "\n"},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.code || w.Body.String() != want.body {
			t.Errorf("%s: %d %s, want %d %s", path, w.Code, w.Body, want.code, want.body)
		}
	}
}
