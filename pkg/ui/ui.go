// Package ui serves one page that shows a node and its peers, live.
//
// It owns the page, what a browser is told about it, and which questions it may
// pass on to weftd. It refuses to write anything, to be asked by a name that is
// not this machine's own (another site's name can be made to point here), and to
// know what the documents say: the page reads them.
package ui

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

//go:embed page
var files embed.FS

// Ask gives weftd's answer to GET of a path of its control socket, to be closed.
// An error is shown to whoever looks at the page.
type Ask func(ctx context.Context, path string) (io.ReadCloser, error)

// page is index.html with the style and the scripts in it, and the policy that
// lets a browser run these and load nothing else.
func page() (html, policy string, err error) {
	read := func(name string) (text string) {
		raw, errRead := files.ReadFile("page/" + name)
		if errRead != nil {
			err = errRead
		}
		return string(raw)
	}
	style := "\n" + read("style.css")
	script := "\n" + read("model.js") + read("picture.js") + read("page.js")
	html = strings.NewReplacer("{{style}}", style, "{{script}}", script).Replace(read("index.html"))
	policy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", digest(style), digest(script))
	return html, policy, err
}

// digest names a text as https://www.w3.org/TR/CSP3/#grammardef-hash-source does.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Handler serves the page at /, and at /v1/ weftd's answers: status, peers and
// the events after ?after=SEQ. What it can't ask for is a 502 with the reason.
func Handler(ask Ask) (http.Handler, error) {
	html, policy, err := page()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, html) // the browser went away
	})
	for _, path := range []string{"/v1/status", "/v1/peers"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { pass(w, r, ask, path) })
	}
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		if err != nil {
			http.Error(w, "after: "+err.Error(), http.StatusBadRequest)
			return
		}
		pass(w, r, ask, fmt.Sprintf("/v1/events?after=%d", after))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if !here(r.Host) {
			http.Error(w, "this page is for localhost only", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}), nil
}

func pass(w http.ResponseWriter, r *http.Request, ask Ask, path string) {
	body, err := ask(r.Context(), path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = body.Close() }()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.Copy(w, body) // either end went away: the page asks again
}

// here tells whether a Host header names this machine by a name that no name
// server decides on.
func here(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Listen opens the address ("127.0.0.1:9102"), which has to be of loopback.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w; give an address and a port, as 127.0.0.1:9102", addr, err)
	}
	if !here(host) {
		return nil, fmt.Errorf("listen on %q: others could reach it, and the page has no password; "+
			"use 127.0.0.1 or [::1], and from elsewhere ssh -L", addr)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another port", err)
	}
	return listener, nil
}

// Serve answers until ctx ends, and gives nil then, or why it can't go on. It
// closes the listener.
func Serve(ctx context.Context, listener net.Listener, ask Ask) error {
	handler, err := Handler(ask)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	const patience = 10 * time.Second
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: patience, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the page on %s: %w", listener.Addr(), err)
	}
	return nil
}
