package ui_test

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/ui"
)

// weftd remembers what it was asked for.
type weftd struct{ asked []string }

func (d *weftd) ask(_ context.Context, path string) (io.ReadCloser, error) {
	d.asked = append(d.asked, path)
	if path == "/v1/peers" {
		return nil, errors.New("ask weftd: is it running?")
	}
	return io.NopCloser(strings.NewReader(`{"of":"` + path + `"}`)), nil
}

func serve(t *testing.T, d *weftd, method, host, path string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := ui.Handler(d.ask)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		method, path string
		code         int
		body         string   // part of it
		asked        []string // of weftd
	}{
		"the page":                 {"GET", "/", 200, "<!doctype html>", nil},
		"status":                   {"GET", "/v1/status", 200, `{"of":"/v1/status"}`, []string{"/v1/status"}},
		"events":                   {"GET", "/v1/events?after=7", 200, "after=7", []string{"/v1/events?after=7"}},
		"events, never the stream": {"GET", "/v1/events?after=7&follow=true", 200, "", []string{"/v1/events?after=7"}},
		"events after nothing":     {"GET", "/v1/events?after=x", 400, "after", nil},
		"a daemon that is gone":    {"GET", "/v1/peers", 502, "is it running?", []string{"/v1/peers"}},
		"the plan is not passed":   {"GET", "/v1/plan", 404, "", nil},
		"nothing is written":       {"POST", "/v1/status", 405, "", nil},
		"no other file":            {"GET", "/page/page.js", 404, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := &weftd{}
			w := serve(t, d, c.method, "localhost:9102", c.path)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("have %d %.200s, want %d %s", w.Code, w.Body, c.code, c.body)
			}
			if d := cmp.Diff(c.asked, d.asked); d != "" {
				t.Errorf("asked (-want +have):\n%s", d)
			}
		})
	}
}

// A name server of another site can point its name here; the browser then lets
// that site read, as it takes us for it (DNS rebinding).
func TestOtherNamesAreRefused(t *testing.T) {
	for host, want := range map[string]int{
		"localhost:9102": 200, "localhost": 200, "127.0.0.1:9102": 200, "127.0.0.1": 200, "[::1]:9102": 200, "[::1]": 200,
		"evil.example:9102": 403, "evil.example": 403, "localhost.evil.example": 403, "192.168.77.2:9102": 403,
		"0.0.0.0:9102": 403, "[::]:9102": 403, "": 403,
	} {
		for _, path := range []string{"/", "/v1/status"} {
			d := &weftd{}
			if w := serve(t, d, "GET", host, path); w.Code != want || want != 200 && len(d.asked) > 0 {
				t.Errorf("%q %s: have %d, want %d; weftd was asked %v", host, path, w.Code, want, d.asked)
			}
		}
	}
}

// The page loads nothing, from nowhere, and no markup asks for what the policy
// forbids.
func TestThePageIsSelfContained(t *testing.T) {
	w := serve(t, &weftd{}, "GET", "localhost", "/")
	html := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "") // a name, never fetched
	for _, pattern := range []string{
		`https?://`, `url\(`, `@import`, `<link`, `<img`, `<iframe`, ` src=`, ` style=`, ` on[a-z]+="`, `innerHTML\s*=[^=]`, `eval\(`, `{{`,
	} {
		if found := regexp.MustCompile(pattern).FindString(html); found != "" {
			t.Errorf("%q is in the page", found)
		}
	}
	for header, want := range map[string]string{
		"Content-Security-Policy": `^default-src 'none'; style-src 'sha256-[^ ]+='; script-src 'sha256-[^ ]+='; connect-src 'self'; ` +
			`base-uri 'none'; form-action 'none'; frame-ancestors 'none'$`,
		"X-Content-Type-Options": "^nosniff$", "Referrer-Policy": "^no-referrer$", "Cache-Control": "^no-store$",
		"Cross-Origin-Resource-Policy": "^same-origin$", "Content-Type": "^text/html; charset=utf-8$",
	} {
		if have := w.Header().Get(header); !regexp.MustCompile(want).MatchString(have) {
			t.Errorf("%s: %q", header, have)
		}
	}
}

func TestListen(t *testing.T) {
	taken, err := ui.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for addr, want := range map[string]string{
		":9102": "others could reach it", "0.0.0.0:9102": "others could reach it", "192.168.77.2:9102": "others could reach it",
		"9102": "give an address and a port", taken.Addr().String(): "choose another port",
	} {
		l, err := ui.Listen(t.Context(), addr)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want %s", addr, err, want)
		}
	}
}
