package probe

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is peers that answer or don't, and a clock.
type world struct {
	t       *testing.T
	p       *Prober
	now     time.Time
	sent    int
	deaf    map[netip.Addr]bool
	hole    int // larger packets are lost; 0: none
	changes []string
}

func newWorld(t *testing.T, paths int, interval time.Duration) *world {
	w := &world{t: t, p: New(interval), now: time.Unix(1_000_000, 0), deaf: map[netip.Addr]bool{}}
	targets := make([]Target, paths)
	for i := range targets {
		targets[i] = target(i)
	}
	w.p.SetTargets(targets, w.now)
	return w
}

func target(i int) Target {
	return Target{
		ID: fmt.Sprint(i), MTU: 1450,
		Overlay:  netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)}),
		Underlay: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}),
	}
}

// run lets time pass; who is not deaf answers after a millisecond.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(tick) {
		send, changed, _ := w.p.Next(w.now)
		w.take(changed)
		w.sent += len(send)
		for _, probe := range send {
			if !w.deaf[probe.To] && (w.hole == 0 || probe.Size <= w.hole) {
				_, changed := w.p.Heard(probe.Seq, w.now.Add(time.Millisecond))
				w.take(changed)
			}
		}
	}
}

func (w *world) take(changed []Change) {
	for _, c := range changed {
		w.changes = append(w.changes, fmt.Sprintf("%s: %s → %s", c.ID, c.From, c.State))
	}
}

// until lets time pass until a path has a state, and gives how long that took.
func (w *world) until(path int, want State, limit time.Duration) time.Duration {
	w.t.Helper()
	began := w.now
	for w.status(path).State != want {
		if w.now.Sub(began) > limit {
			w.t.Fatalf("path %d is not %s after %s: %+v", path, want, limit, w.status(path))
		}
		w.run(tick)
	}
	return w.now.Sub(began)
}

func (w *world) status(path int) (s Status) {
	for s := range w.p.Each {
		if s.ID == fmt.Sprint(path) {
			return s
		}
	}
	return s
}

func TestTheRateDoesNotGrowWithThePeers(t *testing.T) {
	for _, paths := range []int{100, 1_000, 10_000} {
		w := newWorld(t, paths, 100*time.Millisecond)
		w.run(10 * time.Minute)
		if rate := float64(w.sent) / 600; rate < 9 || rate > 13 {
			t.Errorf("%d paths: %.1f probes a second, want about 10", paths, rate)
		}
		if len(w.changes) > paths {
			t.Errorf("%d paths: %d changes", paths, len(w.changes))
		}
	}
	slow := newWorld(t, 100, 2*time.Second)
	slow.run(10 * time.Minute)
	if rate := float64(slow.sent) / 600; rate < 0.4 || rate > 0.6 {
		t.Errorf("every 2s: %.2f probes a second", rate)
	}
	few := newWorld(t, 3, 100*time.Millisecond)
	few.run(10 * time.Minute)
	if rate := float64(few.sent) / 600; rate > 0.9 {
		t.Errorf("3 paths: %.1f probes a second", rate)
	}
}

func TestAThousandAreCoveredInMinutes(t *testing.T) {
	w := newWorld(t, 1_000, 100*time.Millisecond)
	w.run(4 * time.Minute)
	for s := range w.p.Each {
		if s.State != OK {
			t.Fatalf("%s is %s", s.ID, s.State)
		}
	}
	if sweep := w.p.Counts().Sweep; sweep < time.Minute || sweep > 3*time.Minute {
		t.Errorf("a sweep takes %s", sweep)
	}
}

func TestLossIsSeenInTime(t *testing.T) {
	for paths, limit := range map[int]time.Duration{
		3: 10 * time.Second, 90: 15 * time.Second, 1_000: 3 * time.Minute,
	} {
		w := newWorld(t, paths, 100*time.Millisecond)
		w.run(5 * time.Minute)
		longest := time.Duration(0)
		for i := range 5 {
			path := i * paths / 5
			w.run(time.Duration(i) * 1700 * time.Millisecond)
			w.deaf[target(path).Overlay] = true
			longest = max(longest, w.until(path, OverlayDown, limit))
			delete(w.deaf, target(path).Overlay)
			if back := w.until(path, Lossy, 10*time.Second); back > 7*time.Second {
				t.Errorf("%d paths: it took %s to see that it is back", paths, back)
			}
		}
		t.Logf("%d paths: lost after %s at the longest", paths, longest)
	}
}

func TestVerdicts(t *testing.T) {
	one := target(1)
	for name, c := range map[string]struct {
		deaf  []netip.Addr
		hole  int
		never bool // deaf from the beginning on
		want  State
	}{
		"all is well":                           {want: OK},
		"the overlay is down":                   {deaf: []netip.Addr{one.Overlay}, want: OverlayDown},
		"the node is down":                      {deaf: []netip.Addr{one.Overlay, one.Underlay}, want: UnderlayDown},
		"the node never answered":               {deaf: []netip.Addr{one.Overlay, one.Underlay}, never: true, want: Down},
		"it answers no pings of the underlay's": {deaf: []netip.Addr{one.Underlay}, never: true, want: OK},
		"only the overlay was never there":      {deaf: []netip.Addr{one.Overlay}, never: true, want: OverlayDown},
		"large packets are lost":                {hole: 1400, want: BlackHole},
		"large packets were never let through":  {hole: 1400, never: true, want: BlackHole},
		"it no longer answers in the underlay":  {deaf: []netip.Addr{one.Underlay}, want: OK},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, 100*time.Millisecond)
			if !c.never {
				w.run(time.Minute)
			}
			for _, a := range c.deaf {
				w.deaf[a] = true
			}
			w.hole = c.hole
			w.run(2 * time.Minute)
			if have := w.status(1); have.State != c.want {
				t.Errorf("%+v, want %s; %v", have, c.want, w.changes)
			}
			clear(w.deaf)
			w.hole = 0
			w.run(5 * time.Minute)
			if have := w.status(1); have.State != OK || have.Loss != 0 || have.RTT != time.Millisecond {
				t.Errorf("when all is well again: %+v", have)
			}
		})
	}
}

func TestOneLostProbeIsNoOutage(t *testing.T) {
	w := newWorld(t, 2, 100*time.Millisecond)
	w.run(time.Minute)
	w.changes = nil
	w.deaf[target(1).Overlay] = true
	for w.sent = 0; w.sent == 0; {
		w.run(tick)
	}
	clear(w.deaf)
	w.run(3 * time.Minute)
	if d := cmp.Diff([]string{"1: ok → lossy", "1: lossy → ok"}, w.changes); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestMostPeersAreLost(t *testing.T) {
	w := newWorld(t, 1_000, 100*time.Millisecond)
	w.run(5 * time.Minute)
	for i := range 900 {
		w.deaf[target(i).Overlay] = true
	}
	w.sent = 0
	w.run(10 * time.Minute)
	if rate := float64(w.sent) / 600; rate > 13 {
		t.Errorf("%.1f probes a second", rate)
	}
	clear(w.deaf)
	w.run(15 * time.Minute)
	for s := range w.p.Each {
		if s.State != OK && s.State != Lossy {
			t.Fatalf("%s is %s", s.ID, s.State)
		}
	}
}

// A path that is down takes nothing from the others: they are probed as often as before.
func TestTheSweepGoesOnPastALostPath(t *testing.T) {
	w := newWorld(t, 20, 100*time.Millisecond)
	w.run(time.Minute)
	w.deaf[target(5).Overlay] = true
	w.until(5, OverlayDown, time.Minute)
	w.run(time.Minute)
	w.deaf[target(11).Overlay] = true
	w.until(11, OverlayDown, 20*time.Second)
}

// Of 300 that are down for good, none is forgotten, and the others are not, either.
func TestManyAreDownForGood(t *testing.T) {
	w := newWorld(t, 600, 100*time.Millisecond)
	w.run(5 * time.Minute)
	for i := range 300 {
		w.deaf[target(i).Overlay] = true
	}
	w.run(10 * time.Minute)
	for _, i := range []int{0, 150, 299} {
		delete(w.deaf, target(i).Overlay)
		w.until(i, Lossy, 3*time.Minute)
	}
	w.deaf[target(450).Overlay] = true
	w.until(450, OverlayDown, 3*time.Minute)
}

func TestTargetsChange(t *testing.T) {
	w := newWorld(t, 3, 100*time.Millisecond)
	w.deaf[target(2).Overlay] = true
	w.run(time.Minute)
	moved := target(1)
	moved.Underlay = netip.MustParseAddr("192.0.2.1")
	w.p.SetTargets([]Target{target(0), moved, target(7)}, w.now)
	var have []string
	for s := range w.p.Each {
		have = append(have, s.ID+" "+string(s.State))
	}
	if d := cmp.Diff([]string{"0 ok", "1 unknown", "7 unknown"}, have); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	w.run(time.Minute)
	w.p.SetTargets(nil, w.now)
	if send, _, wait := w.p.Next(w.now); len(send) != 0 || wait != 0 {
		t.Errorf("without targets %v, %s", send, wait)
	}
}

// TestAnUnknownNumber: a late answer, or one that somebody made up.
func TestAnUnknownNumber(t *testing.T) {
	w := newWorld(t, 1, 100*time.Millisecond)
	send, _, _ := w.p.Next(w.now)
	w.p.Next(w.now.Add(3 * time.Second))
	for _, seq := range []uint32{send[0].Seq, 77} {
		if took, changed := w.p.Heard(seq, w.now); took != 0 || changed != nil {
			t.Errorf("%d took %s, %v", seq, took, changed)
		}
	}
}

// TestSpareProbes: of a path that is well, and that another packet was sent and
// lost is not held against it.
func TestSpareProbes(t *testing.T) {
	w := newWorld(t, 1, 100*time.Millisecond)
	first, _, _ := w.p.Next(w.now)
	if first[0].Spare {
		t.Error("nothing is known of the path, and its probe is spare")
	}
	w.p.Heard(first[0].Seq, w.now.Add(time.Millisecond))
	w.run(20 * time.Second)
	w.now = w.now.Add(revisit)
	next, _, _ := w.p.Next(w.now)
	if len(next) == 0 || !next[0].Spare {
		t.Fatalf("the path is well, and its probe is not spare: %+v", next)
	}
	w.now = w.now.Add(tick)
	w.p.Withdraw(next[0].Seq, w.now)
	again, changed, _ := w.p.Next(w.now)
	if len(again) != 2 || again[0].Spare || len(changed) > 0 {
		t.Errorf("want the closer look at once: %+v, %v", again, changed)
	}
	for _, probe := range again {
		w.p.Heard(probe.Seq, w.now.Add(time.Millisecond))
	}
	w.run(time.Minute)
	if s := w.status(0); s.State != OK || s.Loss > 0 {
		t.Errorf("the path is %s with a loss of %v", s.State, s.Loss)
	}
	w.deaf[target(0).Overlay] = true
	w.run(time.Second)
	for range 10 {
		if send, _, _ := w.p.Next(w.now); len(send) > 0 && send[0].Spare {
			t.Error("a path that is lost has a spare probe")
		}
		w.run(time.Second)
	}
}
