package bench

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// road answers pings like a host behind a path with an MTU; every nth answer is
// lost. Packets above what the own device takes are refused at once.
type road struct {
	mtu, device, lose int
	took              time.Duration
	mu                sync.Mutex
	sent              int
	heard             func(uint32, time.Time)
}

func (r *road) Send(_ netip.Addr, seq uint32, size int) error {
	if r.device > 0 && size > r.device {
		return syscall.EMSGSIZE
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	if size > r.mtu || r.lose > 0 && r.sent%r.lose == 0 {
		return nil
	}
	time.AfterFunc(r.took, func() { r.heard(seq, time.Now()) })
	return nil
}

func (r *road) Listen(ctx context.Context, heard func(uint32, time.Time)) error {
	r.mu.Lock()
	r.heard = heard
	r.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func onRoad(t *testing.T, r *road, f func(context.Context, *Prober)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := NewProber(r)
		ended := make(chan error, 1)
		go func() { ended <- p.Listen(ctx) }()
		synctest.Wait()
		f(ctx, p)
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Listen: %v", err)
		}
	})
}

func TestMTU(t *testing.T) {
	for name, c := range map[string]struct {
		road *road
		want int
	}{
		"of the own device":        {&road{mtu: 1450, device: 1450}, 1450},
		"smaller on the way":       {&road{mtu: 1400, device: 1500}, 1400},
		"jumbo":                    {&road{mtu: 9000, device: 9000}, 9000},
		"the largest":              {&road{mtu: 65535}, 65535},
		"the smallest that counts": {&road{mtu: 1280, device: 1500}, 1280},
		"nothing passes":           {&road{mtu: 0, device: 1500}, 0},
		"every fifth is lost":      {&road{mtu: 1444, device: 1500, lose: 5}, 1444},
		"an answer that is late":   {&road{mtu: 1444, device: 1500, took: 900 * time.Millisecond}, 1444},
	} {
		t.Run(name, func(t *testing.T) {
			onRoad(t, c.road, func(ctx context.Context, p *Prober) {
				have, err := p.MTU(ctx, netip.MustParseAddr("192.0.2.1"))
				if err != nil || have != c.want {
					t.Errorf("have %d, %v, want %d", have, err, c.want)
				}
			})
		})
	}
}

func TestRTT(t *testing.T) {
	onRoad(t, &road{mtu: 1500, took: 3 * time.Millisecond, lose: 5}, func(ctx context.Context, p *Prober) {
		have, err := p.RTT(ctx, netip.MustParseAddr("192.0.2.1"), 10)
		want := RTT{Sent: 10, Lost: 2, Min: 3 * time.Millisecond, Median: 3 * time.Millisecond, Max: 3 * time.Millisecond}
		if err != nil || have != want {
			t.Errorf("have %+v, %v", have, err)
		}
	})
}

// serving runs a Server on loopback, which knows whom it is told, and gives what
// it tells.
func serving(t *testing.T, known bool) (at netip.AddrPort, told func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lines bytes.Buffer
	s := Server{
		Known: func(_ context.Context, from netip.Addr) bool { return known && from.IsLoopback() },
		Tell: func(line string) {
			mu.Lock()
			defer mu.Unlock()
			lines.WriteString(line + "\n")
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended by %v", err)
		}
	})
	return netip.MustParseAddrPort(l.Addr().String()), func() string {
		mu.Lock()
		defer mu.Unlock()
		return lines.String()
	}
}

func TestThroughput(t *testing.T) {
	at, told := serving(t, true)
	for range 2 { // the second client comes after the first
		bits, err := Throughput(t.Context(), at, 100*time.Millisecond)
		if err != nil || bits < 1e6 {
			t.Errorf("have %.0f bit/s, %v", bits, err)
		}
	}
	if !strings.Contains(told(), "127.0.0.1 sent ") {
		t.Errorf("told %q", told())
	}
}

func TestOneClientAtATime(t *testing.T) {
	at, _ := serving(t, true)
	first, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, len(greeting))
	if _, err := first.Read(hello); err != nil || string(hello) != greeting {
		t.Fatalf("the first hears %q, %v", hello, err)
	}
	if _, err := Throughput(t.Context(), at, time.Millisecond); !errors.Is(err, ErrRefused) {
		t.Errorf("the second: %v", err)
	}
	_ = first.Close()
	for deadline := time.Now().Add(10 * time.Second); ; { // the server notices a moment later
		if _, err = Throughput(t.Context(), at, time.Millisecond); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("when the first is gone: %v", err)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	at, told := serving(t, false)
	if _, err := Throughput(t.Context(), at, time.Millisecond); !errors.Is(err, ErrRefused) {
		t.Errorf("have %v", err)
	}
	if !strings.Contains(told(), "127.0.0.1 is refused: no peer") {
		t.Errorf("told %q", told())
	}
}
