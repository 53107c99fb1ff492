package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
)

// TestRestartUnderTraffic ends and starts a daemon over and over in every way,
// while pods on its node talk: nothing is lost, nothing is written.
func TestRestartUnderTraffic(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	daemons := c.configured(dualConfig(`{"Type":"vxlan"}`))
	store, d := daemons[0], daemons[1]
	store.awaitReady(1)
	d.awaitReady(1)
	here, there := c.pod(c.Nodes[1], "a"), c.pod(c.Nodes[0], "a")
	var streams []*stream
	var transfers []*transfer
	for i := range here.Addrs {
		streams = append(streams, startStream(t, &here.Namespace, &there.Namespace, there.Addrs[i]),
			startStream(t, &there.Namespace, &here.Namespace, here.Addrs[i]))
		transfers = append(transfers, startTransfer(t, &here.Namespace, &there.Namespace, there.Addrs[i]))
	}
	n := rounds(t, 10)
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d restarts of each kind; moments of kill -9 by seed %d", n, seed)
	dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // any moments will do
	var stops, starts result
	for range n {
		stops.took = append(stops.took, timed(d.stop))
		starts.took = append(starts.took, timed(func() { d.start().unchanged(true) }))
	}
	this, other := d.path, otherVersion(t)
	for range n { // an upgrade, and the way back
		for _, d.path = range []string{other, this} {
			d.stop()
			d.start().unchanged(true)
			if s, err := d.status(); err != nil || strings.Contains(s.Version, "v0.0.1-other") != (d.path == other) {
				t.Errorf("%s runs version %q (%v)", d.path, s.Version, err)
			}
		}
	}
	const startTakes = 100 * time.Millisecond
	for range n {
		d.kill()
		d.start().after(time.Duration(dice.Int64N(int64(startTakes))))
	}
	d.kill()
	d.start().unchanged(true)
	eventually(t, 15*time.Second, func() error {
		return savedLeases(filepath.Join(d.node.Dir, "state", "snapshot.json"), 2*len(here.Addrs))
	})
	store.stop()
	for range n {
		d.kill()
		d.start().unchanged(false)
	}
	store.start()
	store.unchanged(true)
	d.unchanged(true)
	t.Logf("SIGTERM to exit: p50 %s, max %s; start to ready: p50 %s, max %s",
		stops.percentile(50), stops.percentile(100), starts.percentile(50), starts.percentile(100))
	for _, s := range streams {
		s.flawless()
	}
	for _, f := range transfers {
		f.intact()
	}
	d.quiet()
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began).Round(time.Millisecond)
}

// closing is how many chains a daemon has to write that closes the tunnel again: in
// each family the one that stayed, and the one that went.
func (d *daemon) closing(s network.Status) int {
	if !d.open || s.Tunnel.Filter == "" {
		return 0
	}
	return 2 * len(s.Node.Subnets)
}

// unchanged waits until the daemon is ready, and has heard the store if that is
// there, and wants it to have written nothing but that.
func (d *daemon) unchanged(store bool) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, func() error {
		s, err := d.status()
		switch {
		case err != nil:
			return err
		case !s.Ready || s.Peers != 1:
			return fmt.Errorf("%s: ready %v %v, %d peers", d.node.Name, s.Ready, s.Reasons, s.Peers)
		case store && s.Store.Heard.IsZero():
			return fmt.Errorf("%s has not heard the store", d.node.Name)
		case store && s.Ops == 0 && d.closing(s) > 0: // killed now, it would leave that to the next start
			return fmt.Errorf("%s has not closed the tunnel again", d.node.Name)
		case s.Ops != 0 && s.Ops != d.closing(s):
			d.t.Fatalf("%s: %d writes to a kernel that was right", d.node.Name, s.Ops)
		}
		return nil
	})
}

// after lets time pass, or the daemon end, which it must not.
func (d *daemon) after(pause time.Duration) {
	d.t.Helper()
	select {
	case <-time.After(pause):
	case <-d.proc.Done():
		d.t.Fatalf("%s ended by itself: %v", d.node.Name, d.proc.Err())
	}
}

// promptly is how soon after SIGTERM a daemon has ended, whatever its store does.
const promptly = time.Second

// TestEndsPromptly asks daemons to end while their store is frozen.
func TestEndsPromptly(t *testing.T) {
	c := newCluster(t, 3, underlay4)
	store := c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start()
	store.awaitReady(0)
	d, late := c.daemon(1).start(), c.daemon(2)
	d.awaitReady(1)
	end := func(what string, d *daemon) {
		t.Helper()
		took := timed(d.stop)
		t.Logf("%s: SIGTERM to exit %s", what, took)
		if took > promptly {
			t.Errorf("%s: ended %s after SIGTERM, want at most %s", what, took, promptly)
		}
	}
	freeze := func(s syscall.Signal) {
		t.Helper()
		if err := store.proc.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = store.proc.Signal(syscall.SIGCONT) })

	freeze(syscall.SIGSTOP)
	end("frozen while a lease is held", d)
	late.start().awaitLog("weftd starts")
	end("frozen before the start", late)
	late.start()
	late.after(3 * time.Second) // it waits for the store by now
	end("frozen, and waiting for it", late)
	d.start().unchanged(false) // from its disk
	end("frozen, and running on what the disk remembers", d)
	freeze(syscall.SIGCONT)
	d.start().awaitReady(1)
	end("the store's own daemon, with clients", store)
	store.start().awaitReady(1)
	d.unchanged(true)
	if err := d.proc.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	end("the store's own daemon, with a client that hangs", store)
	if err := d.proc.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	end("gone", d)
}
