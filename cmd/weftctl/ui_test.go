package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/ui"
)

// TestUI: the page passes on what the daemon says, and why it says nothing.
func TestUI(t *testing.T) {
	replies := map[string]any{
		"/v1/status": someStatus(), "/v1/peers": somePeers(),
		"/v1/events": events.Event{Seq: 7, Time: now, Kind: events.PeerCame},
	}
	for socket, wants := range map[string]map[string]string{
		daemon(t, replies): {
			"/": "<title>weft</title>", "/v1/status": `"lease":"10.42.1.0-24"`, "/v1/peers": `"probe":"overlay-down"`,
			"/v1/events?after=0": `"kind":"peer-came"`,
		},
		"/nowhere/s": {"/": "<title>weft</title>", "/v1/status": "is it running?"},
	} {
		listener, err := ui.Listen(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- serveUI(ctx, listener, socket) }()
		for path, want := range wants {
			r, err := http.Get("http://" + listener.Addr().String() + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			if err != nil || !strings.Contains(string(body), want) {
				t.Errorf("%s of %s: %.200s, %v; want %s in it", path, socket, body, err, want)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("when it is interrupted: %v", err)
		}
	}
	_, err := weftctl("ui", "--listen", "0.0.0.0:0")
	if err == nil || !strings.Contains(err.Error(), "others could reach it") {
		t.Errorf("an address that others reach: %v", err)
	}
}
