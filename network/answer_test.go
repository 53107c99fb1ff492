package network

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestAnswer(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.start()
		defer b.stop()
		b.server.SetConfig([]byte(config1))
		b.settle(time.Second)
		for path, want := range map[string]string{
			"/v1/status": `"ready"`, "/v1/peers": "[", "/v1/events?after=0": `"kind":"ready"`,
		} {
			body, err := b.node.Answer(b.t.Context(), path)
			if err != nil {
				b.t.Errorf("%s: %v", path, err)
				continue
			}
			text, err := io.ReadAll(body)
			if err != nil || !strings.Contains(string(text), want) {
				b.t.Errorf("%s: %v, %.300s", path, err, text)
			}
		}
		for path, want := range map[string]string{"/v1/nothing": "404", "/v1/events?after=x": "after", "\x00": "ask for"} {
			if _, err := b.node.Answer(b.t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
				b.t.Errorf("%q: %v, want %q", path, err, want)
			}
		}
	})
}
