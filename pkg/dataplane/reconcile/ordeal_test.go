package reconcile_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// TestOrdeal changes everything at random, for many steps, on a kernel of which
// 1 to 20 % of all reads and writes fail: ours and what is foreign, what we want,
// the process itself. Whenever the world rests a while, the kernel must be what
// we want, beside all that is foreign; the errors go on meanwhile. Every other
// run has no audit that would find what was forgotten.
//
// WEFT_STEPS says how many steps in all (`make soak`: a million), WEFT_SEED
// which run to repeat.
func TestOrdeal(t *testing.T) {
	const runs = 20
	first := number(t, "WEFT_SEED", uint64(time.Now().UnixNano()))
	steps := int(number(t, "WEFT_STEPS", 10_000)) / runs
	for i := range uint64(runs) {
		seed, percent, audit := first+i, 1+int(i), []time.Duration{time.Minute, day}[i%2]
		t.Run(fmt.Sprintf("%d percent of errors", percent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrdeal(t, seed, percent, audit)
				for n := range steps {
					o.step()
					if n%restEvery == restEvery-1 || n == steps-1 {
						o.rest(n)
					}
					if t.Failed() {
						t.Fatalf("WEFT_SEED=%d WEFT_STEPS=%d: the last steps were\n%s", first, runs*steps,
							strings.Join(o.told[max(0, len(o.told)-restEvery):], "\n"))
					}
				}
				t.Logf("seed %d: %d steps, %d writes, %d reads, %d errors", seed, steps, o.writes, o.reads, o.failures)
			})
		})
	}
}

// restEvery is the number of steps between two looks at the whole.
const restEvery = 50

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// ordeal is one run.
type ordeal struct {
	t        *testing.T
	dice     *rand.Rand // of the steps
	faults   *rand.Rand // of the errors; under the kernel's lock
	percent  int
	audit    time.Duration // day: no audit finds what was forgotten
	failures int

	k             *fake.Kernel
	life          *life
	peers         []byte
	foreign       dataplane.State // beside that of foreignWorld
	usurpers      map[dataplane.RouteKey]dataplane.Route
	told          []string
	reads, writes int // of kernels before
}

func newOrdeal(t *testing.T, seed uint64, percent int, audit time.Duration) *ordeal {
	o := &ordeal{
		t: t, percent: percent, audit: audit, k: foreignWorld(t), usurpers: map[dataplane.RouteKey]dataplane.Route{},
		dice:   rand.New(rand.NewPCG(seed, 1)), //nolint:gosec // repeatable
		faults: rand.New(rand.NewPCG(seed, 2)), //nolint:gosec // repeatable
	}
	o.foreign.Routes = map[dataplane.RouteKey]dataplane.Route{}
	o.begin()
	return o
}

const (
	manyPeers = 12 // 2 and up
	// contested is a peer on whose IPv4 subnet stood a foreign route before weft came.
	contested = 5
)

// foreignWorld is a host with more than weft on it.
func foreignWorld(t *testing.T) *fake.Kernel {
	t.Helper()
	k := fake.New()
	must(t, k.Put(uplinkState()))
	d := devices()[0]
	must(t, k.Put(dataplane.State{
		Links: map[string]dataplane.Link{"other.7": {
			VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.0.2.1"), MAC: mac.Addr{2, 7}, MTU: 1400, Up: true,
		}},
		Addrs: map[dataplane.AddrKey]struct{}{{Link: "other.7", Prefix: netip.MustParsePrefix("10.7.0.1/24")}: {}},
		FDB:   map[dataplane.FDBKey]netip.Addr{{Link: "other.7", MAC: mac.Addr{2, 7, 1}}: d.vtep(7)},
		Neighs: map[dataplane.NeighKey]mac.Addr{
			{Link: "other.7", IP: netip.MustParseAddr("10.7.0.2")}: {2, 7, 1},
			{Link: "up0", IP: netip.MustParseAddr("192.0.2.9")}:    {2, 7, 2},
		},
		Routes: map[dataplane.RouteKey]dataplane.Route{
			d.routeKey(contested):                                             {Link: "other.7"},
			{Prefix: netip.MustParsePrefix("10.99.0.0/16")}:                   {Link: "other.7"},
			{Prefix: netip.MustParsePrefix("10.42.2.0/24"), Table: 77}:        {Link: "up0"},
			{Prefix: netip.MustParsePrefix("2001:db8:9::/48"), Metric: 1024}:  {Link: "other.7"},
			{Prefix: netip.MustParsePrefix("10.42.128.0/17")}:                 {Link: "other.7"},
			{Prefix: netip.MustParsePrefix("fd00:42:0:8000::/52"), Metric: 9}: {Link: "other.7"},
		},
	}))
	k.InsertRule(ruleset.Key{Table: "other", Chain: "forward"})
	return k
}

func uplinkState() dataplane.State {
	return dataplane.State{
		Links: map[string]dataplane.Link{"up0": {MTU: 1500, Up: true, MAC: mac.Addr{2, 0xa}}},
		Addrs: map[dataplane.AddrKey]struct{}{
			{Link: "up0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}:   {},
			{Link: "up0", Prefix: netip.MustParsePrefix("2001:db8::1/64")}: {},
		},
	}
}

// begin starts a process on the kernel that is there.
func (o *ordeal) begin() {
	o.k.FailOps(func(dataplane.Op) error { return o.fails() })
	o.k.LoseAnswers(func(dataplane.Op) error { return o.fails() })
	o.k.FailDumps(o.fails)
	// Every layer is Set but "peers", which comes in a moment.
	o.life = live(o.t, o.k, reconcile.Options{Layers: []string{"base", "peers"}, Audit: o.audit}, baseLayer(), nil)
	o.life.Set(reconcile.Layer{Name: "peers", Fragments: fragments(o.peers...)})
}

// fails is what the kernel answers when it has a bad moment.
func (o *ordeal) fails() error {
	errs := []error{
		syscall.EINTR, syscall.ENOBUFS, syscall.EBUSY, syscall.EAGAIN, syscall.ENOMEM,
		syscall.EEXIST, fmt.Errorf("%w: %w", dataplane.ErrOccupied, syscall.EEXIST),
	}
	if o.faults.IntN(100) >= o.percent {
		return nil
	}
	o.failures++
	return errs[o.faults.IntN(len(errs))]
}

// step is one thing that somebody does, and a while.
func (o *ordeal) step() {
	all := o.deeds()
	d := all[o.dice.IntN(len(all))]
	o.tell("%s", d.name)
	d.do()
	pauses := []time.Duration{0, 0, time.Microsecond, time.Millisecond, 30 * time.Millisecond, time.Second}
	pass(pauses[o.dice.IntN(len(pauses))])
}

func (o *ordeal) tell(format string, args ...any) {
	o.told = append(o.told, fmt.Sprintf(format, args...))
}

// rest lets the world alone. All must be well soon, in spite of retries and
// audits that fail in their turn.
func (o *ordeal) rest(n int) {
	o.t.Helper()
	o.k.Mute(false)
	const patience = 30 // minutes
	for minute := 0; ; minute++ {
		o.dismiss()
		diff := cmp.Diff(o.expected(), o.k.Dump())
		if diff == "" {
			diff = cmp.Diff(base().Sysctls, o.forwarding())
		}
		if diff == "" {
			return
		}
		if minute == patience {
			o.t.Errorf("after step %d and %d minutes of rest (-want +have):\n%s", n, minute, diff)
			return
		}
		pass(time.Minute)
	}
}

// dismiss removes the routes that somebody put on our keys and that weft left
// alone, as an operator does who reads of a conflict.
func (o *ordeal) dismiss() {
	for key := range o.usurpers {
		err := o.k.Delete(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{key: {}}})
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			o.t.Error(err)
		}
	}
	clear(o.usurpers)
}

// expected is a kernel on which nothing ever went wrong.
func (o *ordeal) expected() string {
	k := foreignWorld(o.t)
	must(o.t, k.Put(o.foreign))
	ours := want(o.peers...)
	delete(ours.Routes, devices()[0].routeKey(contested))
	put(o.t, k, ours)
	return k.Dump()
}

// forwarding reads the sysctls, whatever the kernel's mood.
func (o *ordeal) forwarding() map[string]string {
	for {
		have, err := o.k.Observe(o.t.Context(), dataplane.Scope{All: true, Domain: domain()})
		if err == nil {
			return have.Have.Sysctls
		}
	}
}

// somePeers draws from all that there can be.
func (o *ordeal) somePeers() []byte {
	var out []byte
	chance := 1 + o.dice.IntN(4)
	for n := byte(2); n < 2+manyPeers; n++ {
		if o.dice.IntN(4) < chance {
			out = append(out, n)
		}
	}
	return out
}

func (o *ordeal) device() device { return devices()[o.dice.IntN(2)] }

func (o *ordeal) anyPeer() byte { return 2 + byte(o.dice.IntN(manyPeers)) }

// do is a world's call of which the kernel may think what it likes: it may be
// about something that is not there at the moment.
func (o *ordeal) do(call func(dataplane.State) error, s dataplane.State) {
	if err := call(s); err != nil {
		o.tell("  %v", err)
	}
}

// some leaves each entry of what stands on links in with an even chance.
func (o *ordeal) some(s dataplane.State) dataplane.State {
	var out dataplane.State
	out.Merge(s)
	for _, key := range sorted(maps.Keys(out.FDB)) {
		if o.dice.IntN(2) == 0 {
			delete(out.FDB, key)
		}
	}
	for _, key := range sorted(maps.Keys(out.Neighs)) {
		if o.dice.IntN(2) == 0 {
			delete(out.Neighs, key)
		}
	}
	for _, key := range sorted(maps.Keys(out.Routes)) {
		if o.dice.IntN(2) == 0 {
			delete(out.Routes, key)
		}
	}
	return out
}
