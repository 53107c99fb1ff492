package fake_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/mac"
)

// What the contract can't ask of a real kernel in a namespace.

var errPlanned = errors.New("planned")

const dev = "flannel.1"

func vtep() dataplane.Link {
	return dataplane.Link{
		VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Parent: "up0", MTU: 1450, Up: true,
		MAC: mac.Addr{2, 0, 0, 0, 0, 1},
	}
}

func entry(n byte) (dataplane.FDBKey, netip.Addr) {
	return dataplane.FDBKey{Link: dev, MAC: mac.Addr{2, 0, 0, 0, 1, n}}, netip.AddrFrom4([4]byte{192, 0, 2, n})
}

func want(n byte) dataplane.State {
	s := dataplane.State{Links: map[string]dataplane.Link{dev: vtep()}, FDB: map[dataplane.FDBKey]netip.Addr{}}
	for i := byte(2); i < 2+n; i++ {
		k, v := entry(i)
		s.FDB[k] = v
	}
	return s
}

func plan(t *testing.T, k *fake.Kernel, s dataplane.State) dataplane.Plan {
	t.Helper()
	have, err := k.Observe(t.Context(), dataplane.Scope{All: true, Domain: dataplane.Domain{Links: want(0).Links}})
	if err != nil {
		t.Fatal(err)
	}
	return dataplane.Diff(s, have)
}

// start gives a kernel with a device and n entries of its FDB.
func start(t *testing.T, n byte) *fake.Kernel {
	t.Helper()
	k := fake.New()
	if err := k.Put(dataplane.State{Links: map[string]dataplane.Link{"up0": {MTU: 1500, Up: true}}}); err != nil {
		t.Fatal(err)
	}
	if failed := k.Apply(t.Context(), plan(t, k, want(n))); len(failed) > 0 {
		t.Fatal(failed)
	}
	return k
}

func TestLearnedEntriesAreNobodys(t *testing.T) {
	k := start(t, 1)
	if err := k.Learn(dev, mac.Addr{2, 0, 0, 0, 9, 9}, netip.MustParseAddr("192.0.2.9")); err != nil {
		t.Fatal(err)
	}
	if p := plan(t, k, want(1)); !p.Empty() {
		t.Errorf("want nothing to do, have:\n%s", p)
	}
	// An entry of ours takes the place of a learned one.
	key, dst := entry(2)
	if err := k.Learn(dev, key.MAC, netip.MustParseAddr("192.0.2.9")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		k.Apply(t.Context(), dataplane.Plan{Ops: []dataplane.Op{
			{Verb: dataplane.Create, Kind: dataplane.KindFDB, Key: key, New: dst},
		}})
		if p := plan(t, k, want(1)); !p.Empty() {
			t.Errorf("want nothing to do, have:\n%s", p)
		}
	}
}

func TestOwnWritesAreNotEchoed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := start(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		scopes, ended := make(chan dataplane.Scope, 100), make(chan error)
		go func() { ended <- k.Watch(ctx, scopes) }()
		synctest.Wait()
		if first := <-scopes; !first.All {
			t.Errorf("the first scope: %+v", first)
		}
		k.Apply(t.Context(), plan(t, k, want(3)))
		synctest.Wait()
		if len(scopes) > 0 {
			t.Errorf("our own writes came back: %+v", <-scopes)
		}
		k.BreakWatch(errPlanned)
		if err := <-ended; !errors.Is(err, errPlanned) {
			t.Errorf("want the planned error, have %v", err)
		}
		cancel()
	})
}

func TestPlannedFailures(t *testing.T) {
	k := start(t, 0)
	before := k.Writes()
	k.FailNext(2, errPlanned)
	p := plan(t, k, want(4))
	failed := k.Apply(t.Context(), p)
	if len(failed) != 2 || !errors.Is(failed[1], errPlanned) {
		t.Errorf("want two planned failures, have %v", failed)
	}
	left := plan(t, k, want(4))
	if diff := cmp.Diff(dataplane.Plan{Ops: p.Ops[:2]}.String(), left.String()); diff != "" {
		t.Errorf("what is left (-want +have):\n%s", diff)
	}
	k.FailOps(func(op dataplane.Op) error {
		if op.Key == p.Ops[0].Key {
			return errPlanned
		}
		return nil
	})
	if failed := k.Apply(t.Context(), left); len(failed) != 1 || failed[0].Op.Key != p.Ops[0].Key {
		t.Errorf("want the first to fail, have %v", failed)
	}
	if n := k.Writes() - before; n != 4+2 {
		t.Errorf("want 6 writes counted, have %d", n)
	}
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := start(t, 0)
		crashed := k.CrashAfter(3)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan []*dataplane.OpError)
		go func() { done <- k.Apply(ctx, plan(t, k, want(5))) }()
		<-crashed
		synctest.Wait()
		select {
		case <-done:
			t.Error("Apply came back from the dead")
		default:
		}
		cancel()
		<-done
		k = k.Restarted()
		if p := plan(t, k, want(5)); len(p.Ops) != 2 {
			t.Errorf("want two ops left, have:\n%s", p)
		}
		k.Apply(t.Context(), plan(t, k, want(5)))
		if p := plan(t, k, want(5)); !p.Empty() {
			t.Errorf("it crashes more than once:\n%s", p)
		}
	})
}
