package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSystemdIsToldWhenPodsCanBeServed: READY=1 then, and not before.
func TestSystemdIsToldWhenPodsCanBeServed(t *testing.T) {
	path := fmt.Sprintf("@weft-test-%d", os.Getpid()) // abstract: in no directory
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"no configuration": {"", []string{"STOPPING=1"}},
		"ready":            {config1, []string{"READY=1\nSTATUS=serving pods", "STOPPING=1"}},
	} {
		inBubble(t, func(b *bench) {
			if c.config != "" {
				b.server.SetConfig([]byte(c.config))
			}
			b.start()
			b.settle(time.Minute)
			b.ready(c.config != "", "")
			b.stop()
		})
		if d := cmp.Diff(c.want, received(t, socket)); d != "" {
			t.Errorf("%s (-want +have):\n%s", name, d)
		}
	}
}

// received is what has arrived: a local datagram is there once it is sent.
func received(t *testing.T, socket *net.UnixConn) (out []string) {
	t.Helper()
	if err := socket.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	for {
		n, err := socket.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(buf[:n]))
	}
}
