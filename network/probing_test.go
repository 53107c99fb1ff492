package network

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/network/probe"
)

// air is where probes fly: who is not deaf answers after a millisecond.
type air struct {
	sent  atomic.Int64
	mu    sync.Mutex
	deaf  map[netip.Addr]bool
	heard func(seq uint32, at time.Time)
}

func (a *air) Send(to netip.Addr, seq uint32, _ int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent.Add(1)
	if a.deaf[to] || a.heard == nil {
		return errors.New("nobody is there")
	}
	heard := a.heard
	time.AfterFunc(time.Millisecond, func() { heard(seq, time.Now()) })
	return nil
}

func (a *air) Listen(ctx context.Context, heard func(seq uint32, at time.Time)) error {
	a.mu.Lock()
	a.heard = heard
	a.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (a *air) deafen(addr string, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deaf[netip.MustParseAddr(addr)] = on
}

// probed is a bench that probes through the air.
func probed(t *testing.T, f func(*bench, *air)) {
	t.Helper()
	inBubble(t, func(b *bench) {
		a := &air{deaf: map[netip.Addr]bool{}}
		b.tune = func(o *Options) {
			o.ProbeInterval, o.Pings = 100*time.Millisecond, func() (probe.Pinger, error) { return a, nil }
		}
		b.server.SetConfig([]byte(config1))
		f(b, a)
	})
}

func (b *bench) pathIs(want probe.State) {
	b.t.Helper()
	peers := b.peerList()
	if len(peers) == 0 || len(peers[0].Paths) != 1 || peers[0].Paths[0].Probe != want {
		b.t.Errorf("want %s, have %+v", want, peers)
	}
}

func TestPathsAreProbed(t *testing.T) {
	probed(t, func(b *bench, a *air) {
		b.start()
		defer b.stop()
		b.settle(time.Hour)
		if a.sent.Load() != 0 {
			t.Errorf("%d probes without a peer", a.sent.Load())
		}
		b.peer(2, peerMAC)
		b.settle(time.Minute)
		b.pathIs(probe.OK)
		if rtt := b.peerList()[0].Paths[0].RTT; rtt != 1 {
			t.Errorf("round trip %v ms", rtt)
		}
		_, at := b.told(0)
		a.deafen("10.42.2.0", true)
		b.settle(15 * time.Second)
		b.pathIs(probe.OverlayDown)
		b.ready(true, "") // it is the peer's trouble
		have, at := b.told(at)
		if want := []string{"peer-unheard 10.42.2.0-24: 10.42.2.0 overlay-down"}; !sameBeginnings(want, have) {
			t.Errorf("told %q, want %q", have, want)
		}
		if m := b.node.Metrics(); m.Paths["overlay-down"] != 1 || m.ProbesLost["overlay"] < 3 {
			t.Errorf("metrics: %v, lost %v", m.Paths, m.ProbesLost)
		}
		a.deafen("10.42.2.0", false)
		b.settle(15 * time.Second)
		b.pathIs(probe.Lossy)
		if have, _ = b.told(at); !sameBeginnings([]string{"peer-heard 10.42.2.0-24"}, have) {
			t.Errorf("told %q", have)
		}
		b.server.Delete("10.42.2.0-24")
		b.settle(10 * time.Second)
		a.sent.Store(0)
		b.settle(time.Hour)
		if sent := a.sent.Load(); sent != 0 {
			t.Errorf("%d probes of a peer that left", sent)
		}
	})
}

func TestAQuietPeerCostsLittle(t *testing.T) {
	probed(t, func(b *bench, a *air) {
		b.peer(2, peerMAC)
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		a.sent.Store(0)
		b.settle(time.Hour)
		if perSecond := float64(a.sent.Load()) / 3600; perSecond > 0.3 {
			t.Errorf("%.2f probes a second for one peer", perSecond)
		}
	})
}

func TestProbesThatCantBeSentHarmNobody(t *testing.T) {
	probed(t, func(b *bench, a *air) {
		var works atomic.Bool
		b.tune = func(o *Options) {
			o.ProbeInterval, o.Pings = 100*time.Millisecond, func() (probe.Pinger, error) {
				if !works.Load() {
					return nil, errors.New("no socket for pings")
				}
				return a, nil
			}
		}
		b.peer(2, peerMAC)
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		b.ready(true, "")
		b.pathIs("")
		if s := b.node.Status(); !strings.Contains(s.Probes, "no socket") {
			t.Errorf("status: %q", s.Probes)
		}
		works.Store(true)
		b.settle(5 * time.Minute)
		b.pathIs(probe.OK)
		if s := b.node.Status(); s.Probes != "" {
			t.Errorf("status: %q", s.Probes)
		}
	})
}
