package linux_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/linux"
)

// A batch fails entry by entry, in the kernel's own words.
func TestFailuresInBatches(t *testing.T) {
	h := newHost(t)
	h.settle(links())
	want := links()
	want.Merge(peers(500, false))
	bad := map[dataplane.RouteKey]bool{}
	for key, r := range want.Routes {
		if len(bad) == 50 {
			break
		}
		// Not on the link: the kernel does not know the gateway.
		r.OnLink, bad[key] = false, true
		want.Routes[key] = r
	}
	var order []string
	p := h.plan(want)
	for _, op := range p.Ops {
		if key, ok := op.Key.(dataplane.RouteKey); ok && bad[key] {
			order = append(order, op.Entry())
		}
	}
	var refused []string
	for _, err := range h.Apply(t.Context(), p) {
		refused = append(refused, err.Op.Entry())
		if !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), "invalid gateway") {
			t.Errorf("want the kernel's explanation, have: %v", err)
		}
		key, _ := err.Op.Key.(dataplane.RouteKey)
		delete(want.Routes, key)
	}
	h.same(order, refused)
	if left := h.plan(want); !left.Empty() {
		t.Errorf("what is good is not all there:\n%s", left)
	}
}

// An answer that is lost leaves nothing but doubt: the ops are reported, and the
// next look tells.
func TestLostAnswers(t *testing.T) {
	h := newHost(t)
	h.settle(links())
	h.SetAnswerBuffer(1)
	var p dataplane.Plan
	for key := range peers(100, false).Routes {
		p.Ops = append(p.Ops, dataplane.Op{
			Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: key,
			New: dataplane.Route{Via: key.Prefix.Addr(), Link: dev},
		})
	}
	failed := h.Apply(t.Context(), p)
	lost := 0
	for _, err := range failed {
		if errors.Is(err, linux.ErrNoAnswer) {
			lost++
		}
	}
	if len(failed) != len(p.Ops) || lost == 0 {
		t.Errorf("of %d ops that fail %d are reported, %d of them without an answer", len(p.Ops), len(failed), lost)
	}
	h.SetAnswerBuffer(1 << 20)
	want := links()
	want.Merge(peers(100, false))
	h.settle(want)
}

// A batch of any size is as good as one op at a time.
func TestBatchSizes(t *testing.T) {
	for _, n := range []int{1, 42, 43, 128, 129, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := newHost(t)
			for _, ipv6 := range []bool{false, true} {
				want := links()
				want.Merge(peers(n, ipv6))
				h.settle(want)
				for k := range want.FDB {
					want.FDB[k] = netip.MustParseAddr("192.0.2.99")
				}
				h.settle(want)
				h.settle(links())
			}
		})
	}
}
