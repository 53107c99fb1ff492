package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/subnet"
)

// patience is how long a store may take for anything before the test fails.
const patience = 20 * time.Second

const (
	single = `{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}`
	dual   = `{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`
	six    = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`
)

// Run holds a store to its contract. fresh is called once for each case.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	for _, group := range [][]testcase{watchCases(), acquireCases(), leaseCases()} {
		for _, tc := range group {
			t.Run(tc.name, func(t *testing.T) {
				h := fresh(t)
				if tc.needs != nil && !tc.needs(h) {
					t.Skip("the store can't do what this case is about: a field of its Harness is nil, or it gives no subnets out")
				}
				tc.run(t, h)
			})
		}
	}
}

// testcase is one clause of the contract.
type testcase struct {
	name  string
	run   func(t *testing.T, h Harness)
	needs func(h Harness) bool // nil: nothing
}

// timeout is the context of one test, which no store may outlast.
func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// configure sets a valid configuration, and gives it parsed.
func configure(t *testing.T, h Harness, raw string) subnet.Config {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	h.SetConfig(t, raw)
	return cfg
}

// claim is that of node n, 1 to 254: with addresses and backend data of its own.
func claim(cfg subnet.Config, n int) subnet.Claim {
	c := subnet.Claim{Config: cfg, Node: fmt.Sprintf("node-%d", n), Backend: cfg.Backend}
	for i, network := range cfg.Networks {
		public := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))
		if network.Prefix.Addr().Is4() {
			public = netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n))
		}
		c.Shares = append(c.Shares, subnet.Share{Public: public, Data: data(fmt.Sprintf("02:00:00:00:%02x:%02x", i, n))})
	}
	return c
}

// data is what flannel's vxlan backend announces.
func data(mac string) json.RawMessage {
	return json.RawMessage(`{"VNI":1,"VtepMAC":"` + mac + `"}`)
}

// again is the claim of a node that has restarted, with its state file.
func again(c subnet.Claim, l subnet.Lease) subnet.Claim {
	c.ID, c.Created = l.ID, l.Created
	return c
}

// acquire must succeed, and give what was claimed.
func acquire(t *testing.T, h Harness, s subnet.Store, c subnet.Claim) subnet.Lease {
	t.Helper()
	if h.Give != nil {
		h.Give(t, c)
	}
	l, err := s.Acquire(timeout(t), c)
	if err != nil {
		t.Fatalf("acquire for %s: %v", c.Node, err)
	}
	if l.ID == "" || l.Created <= 0 || l.Revision <= 0 || l.Backend != c.Backend {
		t.Errorf("lease %+v: want an ID, a Created, a Revision and backend %q", l, c.Backend)
	}
	if !subnet.Compatible(c.Config, l) {
		t.Fatalf("lease %v doesn't fit the networks %+v", l.Shares, c.Config.Networks)
	}
	want := slices.Clone(c.Shares)
	for i := range want {
		want[i].Subnet = l.Shares[i].Subnet
	}
	if diff := cmp.Diff(want, l.Shares, content()); diff != "" {
		t.Errorf("shares of the lease (-claimed +have):\n%s", diff)
	}
	return l
}

// content compares leases by what the contract says of them: data as JSON. A
// store may not know the node's name, and an expiry moves.
func content() cmp.Options {
	return cmp.Options{
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
		cmpopts.IgnoreFields(subnet.Lease{}, "Node", "Expires"),
		cmp.Comparer(func(a, b json.RawMessage) bool {
			var left, right any
			if len(a) == 0 || len(b) == 0 {
				return len(a) == len(b)
			}
			return json.Unmarshal(a, &left) == nil && json.Unmarshal(b, &right) == nil && reflect.DeepEqual(left, right)
		}),
	}
}

// watching runs Watch in the background of a test.
type watching struct {
	t         *testing.T
	snapshots chan subnet.Snapshot
	last      subnet.Snapshot
}

// watch starts one, and at the end of the test checks that it ends as it must.
func watch(t *testing.T, s subnet.Store) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{t: t, snapshots: make(chan subnet.Snapshot)}
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, w.snapshots) }()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, done, "Watch to end with its context"); !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: want %v, have %v", context.Canceled, err)
		}
		select {
		case _, open := <-w.snapshots:
			if !open {
				t.Error("Watch closed the caller's channel")
			}
		default:
		}
	})
	return w
}

// next gives the next snapshot.
func (w *watching) next() subnet.Snapshot {
	w.t.Helper()
	before := w.last
	w.last = wait(w.t, w.snapshots, "a snapshot")
	if w.last.Epoch == "" || before.Epoch != "" && w.last.Epoch != before.Epoch {
		w.t.Errorf("epoch: have %q after %q, though the store is the same", w.last.Epoch, before.Epoch)
	}
	if w.last.Revision < before.Revision {
		w.t.Errorf("revision: have %d after %d", w.last.Revision, before.Revision)
	}
	if !slices.IsSortedFunc(w.last.Leases, func(a, b subnet.Lease) int { return int(a.Created - b.Created) }) {
		w.t.Errorf("leases are not ordered by Created: %+v", w.last.Leases)
	}
	return w.last
}

// until reads snapshots until one is as wanted.
func (w *watching) until(what string, wanted func(subnet.Snapshot) bool) subnet.Snapshot {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if s := w.next(); wanted(s) {
			return s
		}
	}
	w.t.Fatalf("no snapshot with %s came; the last one: %+v", what, w.last)
	return subnet.Snapshot{}
}

// wait receives, or fails the test after a while.
func wait[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
	}
	panic("unreachable")
}

// has reports whether the snapshot has a lease with these contents.
func has(s subnet.Snapshot, l subnet.Lease) bool {
	return slices.ContainsFunc(s.Leases, func(have subnet.Lease) bool { return cmp.Equal(l, have, content()) })
}
