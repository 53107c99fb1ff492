package subnet_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

// crowd is a cluster in which leases come, go, change and clash.
type crowd struct {
	random *rand.Rand
	cfg    subnet.Config
	own    subnet.Lease
	all    []subnet.Lease
	clock  int64
	spread int // how much subnets overlap
}

func (c *crowd) lease(id string, created int64) subnet.Lease {
	l := lease(id, created)
	for _, n := range c.cfg.Networks {
		if c.random.IntN(8) == 0 {
			continue
		}
		public := "192.0.2.%d"
		if n.Prefix.Addr().Is6() {
			public = "2001:db8::%d"
		}
		share := share(randomPrefix(c.random, n, c.spread).String(), fmt.Sprintf(public, c.random.IntN(200)), "")
		l.Shares = append(l.Shares, share)
	}
	if c.random.IntN(10) == 0 {
		l.Backend = "host-gw"
	}
	return l
}

// step makes a new list that shares what it can with the one before, as a
// store does.
func (c *crowd) step(t *testing.T) {
	c.all = slices.Clone(c.all)
	c.clock++
	at := 0
	if len(c.all) > 0 {
		at = c.random.IntN(len(c.all))
	}
	switch kind := c.random.IntN(20); {
	case kind < 8 || len(c.all) == 0:
		c.all = append(c.all, c.lease(fmt.Sprint("n", c.clock), c.clock))
	case kind < 12:
		c.all = slices.Delete(c.all, at, at+1)
	case kind < 15:
		c.all[at] = c.lease(c.all[at].ID, c.all[at].Created)
		c.all[at].Revision = c.clock
	case kind < 16: // as good as new: read again from a store
		for i := range c.all {
			c.all[i].Shares = slices.Clone(c.all[i].Shares)
		}
	case kind < 17: // the same subnets, which is no clash
		c.all[at].Revision, c.all[at].Node = c.clock, fmt.Sprint("renamed", c.clock)
	case kind < 18:
		c.own = c.lease("us", 1)
		c.own.Backend = "vxlan"
	case kind < 19:
		c.cfg = parse(t, `{"Network":"10.5.0.0/24"}`)
	default:
		c.cfg = parse(t, `{"Network":"10.5.0.0/24","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}`)
	}
}

// Whatever the history, the result is that of Admit.
func FuzzAdmitter(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(100), uint8(seed%7))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps, spread uint8) {
		c := crowd{
			random: rand.New(rand.NewPCG(seed, 1)), clock: 10, spread: int(spread % 64),
			cfg: parse(t, `{"Network":"10.5.0.0/24","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}`),
			own: lease("us", 3, share("10.5.0.64/26", "192.0.2.1", ""), share("fd00:5:0:1::/64", "2001:db8::1", "")),
		}
		c.all = []subnet.Lease{c.own}
		var a subnet.Admitter
		for range steps {
			for range 1 + c.random.IntN(3) {
				c.step(t)
			}
			ok, no := a.Admit(c.cfg, c.own, c.all)
			wantOK, wantNo := subnet.Admit(c.cfg, c.own, c.all)
			if !slices.EqualFunc(wantOK, ok, same) || !slices.Equal(wantNo, no) {
				t.Fatalf("after %d changes (-Admit +Admitter):\n%s", c.clock-10,
					cmp.Diff([]any{wantOK, wantNo}, []any{ok, no}, plain))
			}
		}
	})
}

func same(a, b subnet.Lease) bool { return reflect.DeepEqual(a, b) }

// A change that concerns nobody else makes no new index: Admit needs some 75
// allocations for this.
func TestAdmitterFollowsAChangeCheaply(t *testing.T) {
	cfg, all := large(t)
	own, snapshots := all[77], toggled(all)
	var a subnet.Admitter
	n := 0
	allocations := testing.AllocsPerRun(12, func() {
		a.Admit(cfg, own, snapshots[n%3])
		n++
	})
	if allocations > 10 {
		t.Errorf("%v allocations for one change", allocations)
	}
}

// large is a dual-stack cluster of 10,000 nodes.
func large(tb testing.TB) (subnet.Config, []subnet.Lease) {
	tb.Helper()
	var all []subnet.Lease
	for i := range 10_000 {
		high, low := byte(i>>8), byte(i)
		all = append(all, lease(fmt.Sprint("n", i), int64(i+1),
			share(fmt.Sprintf("10.%d.%d.0/24", high, low), fmt.Sprintf("192.168.%d.%d", high, low), ""),
			share(fmt.Sprintf("fd00:5:0:%x::/64", i), fmt.Sprintf("2001:db8::%x", i+1), "")))
	}
	return parse(tb, `{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00:5::/32"}`), all
}

// toggled are snapshots of which each differs from the next by one lease.
func toggled(all []subnet.Lease) [3][]subnet.Lease {
	without := slices.Delete(slices.Clone(all), 5000, 5001)
	changed := slices.Clone(all)
	changed[5000].Shares = slices.Clone(all[5000].Shares)
	changed[5000].Shares[0].Data = []byte(`{"VNI":1}`)
	return [3][]subnet.Lease{all, without, changed}
}

func BenchmarkAdmitter(b *testing.B) {
	cfg, all := large(b)
	own, snapshots := all[77], toggled(all)
	var a subnet.Admitter
	for n := 0; b.Loop(); n++ {
		if ok, no := a.Admit(cfg, own, snapshots[n%3]); len(ok) < len(all)-2 {
			b.Fatalf("%d admitted, refused: %v", len(ok), no)
		}
	}
}

func BenchmarkBelieve(b *testing.B) {
	cfg, all := large(b)
	snapshots := toggled(all)
	prev := subnet.Snapshot{Epoch: "a", Config: cfg, Leases: all}
	for n := 0; b.Loop(); n++ {
		next := prev
		next.Leases = snapshots[n%3]
		var doubts []subnet.Doubt
		if prev, doubts = subnet.Believe(prev, next, 0); len(doubts) > 0 {
			b.Fatal(doubts)
		}
	}
}
