package ping

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

// answers sends pings from a namespace and gives the numbers that are answered.
func answers(t *testing.T, ns *netnstest.NS, kind string, send func(*Pinger) (want []uint32)) {
	t.Helper()
	var p *Pinger
	var err error
	ns.Do(func() { p, err = Open("/proc/sys", [8]byte{1, 2, 3, 4, 5, 6, 7, 8}) })
	if err != nil {
		t.Fatal(err)
	}
	if p.Kind() != kind {
		t.Errorf("sockets are %s, want %s", p.Kind(), kind)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, heard := make(chan error, 1), make(chan uint32, 64)
	go func() { ended <- p.Listen(ctx, func(seq uint32, _ time.Time) { heard <- seq }) }()
	want := map[uint32]bool{}
	for _, seq := range send(p) {
		want[seq] = true
	}
	patience := time.After(10 * time.Second)
	for len(want) > 0 {
		select {
		case seq := <-heard:
			if !want[seq] {
				t.Errorf("%d was answered, and not asked for", seq)
			}
			delete(want, seq)
		case <-patience:
			t.Fatalf("no answer to %v", want)
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Listen ended by %v", err)
	}
}

func TestPing(t *testing.T) {
	for kind, groups := range map[string]string{"raw": "1 0", "ping": "0 0"} {
		t.Run(kind, func(t *testing.T) {
			ns := netnstest.New(t)
			ns.Exec("sysctl", "-q", "-w", "net.ipv4.ping_group_range="+groups)
			answers(t, ns, kind, func(p *Pinger) (want []uint32) {
				for i, to := range []string{"127.0.0.1", "::1", "127.0.0.1", "::1", "127.0.0.9"} {
					size := 0
					if i >= 2 {
						size = 1450
					}
					seq := uint32(70_000 + i) //nolint:gosec // small
					if err := p.Send(netip.MustParseAddr(to), seq, size); err != nil {
						t.Error(err)
					}
					want = append(want, seq)
				}
				if err := p.Send(netip.MustParseAddr("192.0.2.1"), 1, 0); err == nil {
					t.Error("sent to where there is no way")
				}
				if err := p.Send(netip.MustParseAddr("127.0.0.1"), 2, 70_000); err == nil {
					t.Error("sent a packet that is too large")
				}
				return want
			})
		})
	}
}

func TestAllow(t *testing.T) {
	if os.Getegid() != 0 {
		t.Skip("the range is opened for group 0 only, and this is another")
	}
	for was, want := range map[string]string{"1\t0\n": "0 0", "0\t2147483647\n": "", "100 200\n": ""} {
		dir := t.TempDir()
		path := filepath.Join(dir, "net/ipv4/ping_group_range")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(was), 0o600); err != nil {
			t.Fatal(err)
		}
		allowed := allow(dir)
		text, err := os.ReadFile(path)
		if err != nil || allowed != (want != "") || allowed && string(text) != want || !allowed && string(text) != was {
			t.Errorf("%q: %v, now %q, %v", was, allowed, text, err)
		}
	}
	if allow(t.TempDir()) {
		t.Error("without the file")
	}
}

// TestChecksum: RFC 1071, section 3, and an odd length.
func TestChecksum(t *testing.T) {
	if have := Checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); have != ^uint16(0xddf2) {
		t.Errorf("%#x", have)
	}
	if have := Checksum([]byte{0x01}); have != ^uint16(0x0100) {
		t.Errorf("%#x", have)
	}
}

func FuzzParse(f *testing.F) {
	p := &Pinger{cookie: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	good := append(make([]byte, headerICMP), 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 7)
	f.Add(good, false)
	f.Add(good[:19], true)
	f.Fuzz(func(t *testing.T, b []byte, ipv6 bool) {
		if _, ok := p.parse(b, &socket{ipv6: ipv6}); ok && len(b) < smallest {
			t.Errorf("%x", b)
		}
	})
	if seq, ok := p.parse(good, &socket{}); !ok || seq != 7 {
		f.Errorf("%d %v", seq, ok)
	}
}

func TestKnock(t *testing.T) {
	ns := netnstest.New(t)
	ns.Exec("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	ns.Exec("ip", "link", "set", "v1", "up")
	ns.Exec("ip", "addr", "add", "192.0.2.1/24", "dev", "v0")
	ns.Exec("ip", "link", "set", "v0", "up")
	for _, finished := range []bool{false, true} {
		for to, want := range map[string]bool{"127.0.0.1": true, "::1": true, "192.0.2.9": false} {
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			if !want {
				stop()
				ctx, stop = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			var have bool
			var err error
			ns.Do(func() { have, err = Knock(ctx, netip.MustParseAddr(to), finished) })
			stop()
			if have != want || err != nil {
				t.Errorf("%s, finished %t: answered %t, want %t; %v", to, finished, have, want, err)
			}
		}
		ns.Do(func() {
			if _, err := Knock(t.Context(), netip.MustParseAddr("203.0.113.1"), finished); err == nil {
				t.Error("sent to where there is no way")
			}
		})
	}
}
