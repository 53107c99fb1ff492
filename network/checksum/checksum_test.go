package checksum

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/offload"
)

// world is two peers and what becomes of datagrams to them, by the minute.
type world struct {
	j   Judge
	now time.Time
	// arrives tells what becomes of a datagram now, by how its checksum was made.
	arrives func(w *world, peer netip.Addr, finished bool) bool
	sent    int
	wishes  []offload.Setting // each that was another than before
	n       int               // of datagrams, for chance
}

var (
	near = netip.MustParseAddr("10.42.1.0")
	far  = netip.MustParseAddr("10.42.2.0")
)

func broken(w *world, _ netip.Addr, finished bool) bool {
	return finished || w.j.Wish() == offload.Off
}
func healthy(*world, netip.Addr, bool) bool { return true }
func deaf(*world, netip.Addr, bool) bool    { return false }

func newWorld(arrives func(*world, netip.Addr, bool) bool) *world {
	return &world{now: time.Unix(1_000_000, 0), arrives: arrives}
}

// run sends a probe to each peer every 5 s, as the sweep does, and compares.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(500 * time.Millisecond) {
		for i, peer := range []netip.Addr{near, far} {
			if w.now.Unix()%5 == int64(i) && w.now.Nanosecond() == 0 && w.j.Takes(peer, w.now) {
				w.sent++
				w.j.Answered(peer, w.knock(peer, false), w.now)
			}
		}
		if pair, ok, _ := w.j.Next(w.now); ok {
			w.sent += 2
			w.j.Compared(Outcome{w.knock(pair.Peer, false), w.knock(pair.Peer, true)}, w.now)
		}
		if wish := w.j.Wish(); len(w.wishes) == 0 || wish != w.wishes[len(w.wishes)-1] {
			w.wishes = append(w.wishes, wish)
		}
	}
}

func (w *world) knock(peer netip.Addr, finished bool) bool {
	w.n++
	return w.arrives(w, peer, finished)
}

func (w *world) wants(t *testing.T, want ...offload.Setting) {
	t.Helper()
	if !slices.Equal(w.wishes, want) {
		t.Errorf("wishes were %v, want %v", w.wishes, want)
	}
}

const (
	asIs, on, offWish = offload.AsIs, offload.On, offload.Off
)

func TestWhatSwitchesNothing(t *testing.T) {
	for name, arrives := range map[string]func(*world, netip.Addr, bool) bool{
		"all is well":            healthy,
		"the underlay is down":   deaf,
		"every third is lost":    func(w *world, _ netip.Addr, _ bool) bool { return w.n%3 != 0 },
		"every second is lost":   func(w *world, _ netip.Addr, _ bool) bool { return w.n%2 != 0 },
		"two of three are lost":  func(w *world, _ netip.Addr, _ bool) bool { return w.n%3 == 0 },
		"a peer never answers":   func(_ *world, peer netip.Addr, _ bool) bool { return peer == near },
		"finished ones are lost": func(_ *world, _ netip.Addr, finished bool) bool { return !finished },
		"the underlay goes down while they are compared": func(w *world, peer netip.Addr, finished bool) bool {
			return w.j.bad < 5 && broken(w, peer, finished)
		},
		"it is over before it is proved": func(w *world, peer netip.Addr, finished bool) bool {
			return w.j.bad == 5 || broken(w, peer, finished)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(arrives)
			w.run(26 * time.Hour)
			w.wants(t, asIs)
		})
	}
}

func TestBrokenChecksums(t *testing.T) {
	w := newWorld(broken)
	w.run(30 * time.Second)
	w.wants(t, asIs, offWish)
	w.run(26 * time.Hour)
	// tried after 1, 2, 4, 8 and 8 hours
	w.wants(t, asIs, offWish, on, offWish, on, offWish, on, offWish, on, offWish, on, offWish)
	if _, convicted := w.j.Verdict(); !convicted {
		t.Error("no verdict")
	}
}

func TestOnlyOnePeerIsReachedByTheBrokenWay(t *testing.T) {
	w := newWorld(func(w *world, peer netip.Addr, finished bool) bool { return peer == near || broken(w, peer, finished) })
	w.run(3 * time.Minute)
	w.wants(t, asIs, offWish)
	w.run(time.Hour)
	w.wants(t, asIs, offWish, on, offWish) // the peer that convicted is the one that is asked
}

func TestItPassesAgain(t *testing.T) {
	w := newWorld(broken)
	w.run(10 * time.Minute)
	w.arrives = healthy
	w.run(2 * time.Hour)
	w.wants(t, asIs, offWish, on, asIs)
	if _, convicted := w.j.Verdict(); convicted {
		t.Error("it is acquitted, and there is a verdict")
	}
	w.arrives = broken
	w.run(3 * time.Minute)
	w.wants(t, asIs, offWish, on, asIs, offWish)
	if v, _ := w.j.Verdict(); v.Hold != 2*time.Hour {
		t.Errorf("it is held for %s after a relapse, want 2h", v.Hold)
	}
}

func TestAnAbsentPeerDoesNotAcquit(t *testing.T) {
	w := newWorld(broken)
	w.run(10 * time.Minute)
	w.arrives = deaf
	w.run(3 * time.Hour)
	w.wants(t, asIs, offWish, on, offWish, on, offWish, on, offWish)
	w.j.Meet(func(peer netip.Addr) bool { return peer == far }) // the other is no more
	w.arrives = healthy
	w.run(2 * time.Hour)
	w.wants(t, asIs, offWish, on, offWish, on, offWish, on, offWish, on, asIs)
}

func TestAnotherCard(t *testing.T) {
	w := newWorld(broken)
	w.run(10 * time.Minute)
	w.arrives = healthy
	w.j.Reconsider(w.now)
	w.run(20 * time.Second)
	w.wants(t, asIs, offWish, on, asIs)
}

func TestARestartGoesOn(t *testing.T) {
	w := newWorld(broken)
	w.run(10 * time.Minute)
	v, _ := w.j.Verdict()
	next := newWorld(broken)
	next.now = w.now
	next.j.Restore(v)
	next.run(40 * time.Minute)
	next.wants(t, offWish)
	next.run(20 * time.Minute)
	next.wants(t, offWish, on, offWish)
}

func TestACalmNodeSendsNothingMore(t *testing.T) {
	w := newWorld(healthy)
	w.run(time.Hour)
	if w.sent < 90 || w.sent > 181 { // each of them in the place of an echo
		t.Errorf("%d datagrams in an hour", w.sent)
	}
	mute := newWorld(deaf)
	mute.run(24 * time.Hour)
	if mute.sent > 24*2*3+10 { // to each peer once an hour
		t.Errorf("%d datagrams in a day to peers that never answer any", mute.sent)
	}
}

func TestJitterSpreadsTheTries(t *testing.T) {
	for jitter, want := range map[float64]time.Duration{0: time.Hour, 0.5: 54 * time.Minute, 1: 48 * time.Minute} {
		w := newWorld(broken)
		w.j.Jitter = jitter
		w.run(time.Minute)
		if v, _ := w.j.Verdict(); v.Again.Sub(v.Since) != want {
			t.Errorf("jitter %v: it is tried again after %s, want %s", jitter, v.Again.Sub(v.Since), want)
		}
	}
}
