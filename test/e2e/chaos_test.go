package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/topology"
)

const (
	chaosNodes = 6
	// quietFrom is the first of the nodes to whose data path nobody does anything.
	// All else happens to them as well: kill -9, a store that hangs or forgets,
	// hostile leases, peers that come and go. Between them no packet may be lost.
	quietFrom = 4
	// chaosGrace is the time in which a broken data path must be whole again, on a
	// machine that has much else to do.
	chaosGrace = 2 * time.Second
)

// TestChaos lets everything happen at once, by chance, for a while, and wants in
// the end that every kernel holds what the leases say, that what is foreign was
// not touched, that all pods reach each other, and that no packet was lost but
// where somebody had just broken the path of that very node.
//
// With PEERS=2000 there are so many others in the store beside the six.
//
//	make chaos SEED=… MINUTES=… PEERS=…
func TestChaos(t *testing.T) {
	seed, length := uint64(time.Now().UnixNano()), 15*time.Second
	if text := os.Getenv("WEFT_CHAOS_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("WEFT_CHAOS_SEED=%q: want a number", text)
		}
		seed = n
	}
	if text := os.Getenv("WEFT_CHAOS_MINUTES"); text != "" {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n <= 0 {
			t.Fatalf("WEFT_CHAOS_MINUTES=%q: want a number of minutes", text)
		}
		length = time.Duration(n * float64(time.Minute))
	}
	crowd := 0
	if text := os.Getenv("WEFT_CHAOS_PEERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxCrowd {
			t.Fatalf("WEFT_CHAOS_PEERS=%q: want a number of at most %d", text, maxCrowd)
		}
		crowd = n
	}
	x := newChaos(t, crowd)
	steps := schedule(seed, x.lanes(), length)
	command := fmt.Sprintf("make chaos SEED=%d MINUTES=%.2f PEERS=%d", seed, length.Minutes(), crowd)
	t.Logf("%s: %d steps", command, len(steps))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what happened, %s:\n%s", command, strings.Join(x.told, "\n"))
		}
	})
	meters := x.startMeters()
	var taken []func() []holder
	for _, d := range x.daemons {
		taken = append(taken, watchTaken(d))
	}
	x.play(steps)
	x.settle()
	for i, stop := range taken {
		x.taken[i] = stop()
	}
	x.judge(meters)
}

// chaos is one run.
type chaos struct {
	*cluster
	t       *testing.T
	crowd   int // leases of nodes that are only told of
	daemons []*daemon
	mirrors []*mirror
	pods    []*topology.Pod
	foreign [][]string // of each node, before
	began   time.Time
	told    []string
	broken  [chaosNodes][]window // times in which somebody broke a node's data path
	away    [chaosNodes][]window // times in which its daemon, or the store, was away
	taken   [chaosNodes][]holder // times in which its daemon told whose routes it leaves alone
	present [chaosNodes]bool     // its daemon runs
	count   map[string]int
}

// maxCrowd leases have a place in the network beside those of the nodes.
const maxCrowd = 4096

func newChaos(t *testing.T, crowd int) *chaos {
	x := &chaos{
		cluster: newCluster(t, chaosNodes, underlay4, underlay6), t: t, crowd: crowd, count: map[string]int{},
	}
	x.newStore(`{"EnableNFTables":true,"EnableIPv6":true,"Network":"10.32.0.0/11","SubnetLen":24,` +
		`"IPv6Network":"fd00:42::/48","SubnetMin":"10.42.1.0","SubnetMax":"10.42.199.0","IPv6SubnetMin":"fd00:42:0:1000::",` +
		`"IPv6SubnetMax":"fd00:42:0:7fff::","Backend":{"Type":"vxlan"}}`)
	x.putLeases(crowd, crowdLease)
	for i, n := range x.Nodes {
		x.daemons = append(x.daemons, x.daemon(i).start())
		x.mirrors = append(x.mirrors, newMirror(t, n))
		x.mirrors[i].network = netip.MustParsePrefix("10.32.0.0/11")
		x.seedForeign(i)
	}
	for i, d := range x.daemons {
		d.awaitReady(chaosNodes - 1 + crowd)
		x.pods = append(x.pods, x.pod(x.Nodes[i], "a"))
	}
	for i, d := range x.daemons {
		d.awaitPlanEmpty()
		if err := d.asModelled(x.mirrors[i], x.etcdURL()); err != nil {
			t.Fatal(err)
		}
		x.foreign = append(x.foreign, x.mirrors[i].foreign(t))
	}
	for i := range x.present {
		x.present[i] = true
	}
	x.began = time.Now()
	return x
}

// meter is a stream and the nodes that it runs between.
type meter struct {
	*stream
	from, to int
	addr     netip.Addr
}

// startMeters has full streams between the quiet nodes, and thin ones elsewhere.
func (x *chaos) startMeters() (out []meter) {
	const thin = 100
	start := func(rate, from, to int) {
		for _, addr := range x.pods[to].Addrs {
			s := startStreamOf(x.t, rate, &x.pods[from].Namespace, &x.pods[to].Namespace, addr)
			out = append(out, meter{s, from, to, addr})
		}
	}
	start(streamRate, quietFrom, quietFrom+1)
	start(streamRate, quietFrom+1, quietFrom)
	for i := range quietFrom {
		start(thin, i, (i+1)%quietFrom)
		start(thin, quietFrom+i%2, i)
	}
	return out
}

// event is a step's beginning or its end.
type event struct {
	at   time.Duration
	what string
	do   func()
}

// play does the steps, and undoes each when its time is over.
func (x *chaos) play(steps []step) {
	x.began = time.Now()
	var ends []event
	wait := func(until time.Duration) {
		for {
			next := -1
			for i, e := range ends {
				if e.at <= until && (next < 0 || e.at < ends[next].at) {
					next = i
				}
			}
			if next < 0 {
				break
			}
			e := ends[next]
			ends = append(ends[:next], ends[next+1:]...)
			<-time.After(e.at - time.Since(x.began))
			x.tell("over: %s", e.what)
			e.do()
		}
		if pause := until - time.Since(x.began); until < time.Hour && pause > 0 {
			<-time.After(pause)
		}
	}
	for _, s := range steps {
		wait(s.at)
		x.tell("%s", s)
		x.count[s.deed]++
		if undo := x.do(s); undo != nil {
			ends = append(ends, event{s.at + s.lasts, fmt.Sprintf("%s, node %d", s.deed, s.node+1), undo})
		}
		if x.t.Failed() {
			break
		}
	}
	wait(time.Hour)
}

func (x *chaos) tell(format string, args ...any) {
	now := time.Since(x.began).Round(time.Millisecond)
	x.told = append(x.told, fmt.Sprintf("%9s  ", now)+fmt.Sprintf(format, args...))
}

// note records what was of no avail: nothing to disturb there, at this moment.
func (x *chaos) note(err error) {
	if err != nil {
		x.tell("    %v", err)
	}
}

// settle waits until the cluster is at rest and every kernel as modelled.
func (x *chaos) settle() {
	x.t.Helper()
	const patience = 90 * time.Second // a doubt takes 30 s, an audit a minute
	rested := time.Now()
	var removed [chaosNodes]int
	for i := range x.daemons { // all at first, as a node may have to wait for long
		removed[i] = x.dismiss(i)
	}
	for i, d := range x.daemons {
		removed[i] += x.dismiss(i) // what a daemon that had just begun didn't tell
		x.t.Logf("node %d: %d routes of others stood where a route of ours belongs, and were taken away", i+1, removed[i])
		eventually(x.t, patience, func() error {
			s, err := d.status()
			if err == nil && (!s.Ready || s.Peers != chaosNodes-1+x.crowd) {
				err = fmt.Errorf("node %d: ready %v %v, %d peers", i+1, s.Ready, s.Reasons, s.Peers)
			}
			if err == nil {
				err = d.asModelled(x.mirrors[i], x.etcdURL())
			}
			return err
		})
	}
	x.t.Logf("at rest after %s", time.Since(rested).Round(time.Millisecond))
}

// dismiss removes the routes that somebody put in the place of ours while no
// daemon was there to see it: weft leaves them alone and tells, and an operator
// does this.
func (x *chaos) dismiss(node int) (removed int) {
	x.t.Helper()
	m := x.mirrors[node]
	var plan network.PlanReply
	eventually(x.t, 10*time.Second, func() error {
		plan = network.PlanReply{}
		return x.daemons[node].ask("/v1/plan", &plan)
	})
	routes, err := m.clusterRoutes()
	if err != nil {
		x.t.Fatal(err)
	}
	for _, r := range routes {
		told := func(conflict string) bool { return strings.Contains(conflict, r.Dst.String()) }
		// One in front of ours is not even told: ours stands.
		before := func(o netlink.Route) bool { return o.Protocol == weftProtocol && o.Dst.String() == r.Dst.String() }
		hidden := len(x.away[node]) > 0 && slices.ContainsFunc(routes, before)
		if r.Protocol != weftProtocol && (hidden || slices.ContainsFunc(plan.Conflicts, told)) {
			x.note(m.RouteDel(&r))
			removed++
		}
	}
	return removed
}

func (x *chaos) judge(meters []meter) {
	x.t.Helper()
	for i, before := range x.foreign {
		if d := cmp.Diff(before, x.mirrors[i].foreign(x.t)); d != "" {
			x.t.Errorf("node %d: what is foreign has changed:\n%s", i+1, d)
		}
	}
	const mtu = 1430
	x.mesh(x.pods, mtu)
	for _, m := range meters {
		m.stop()
	}
	for _, m := range meters {
		lost := m.lost()
		// What one end has broken, a new MAC of its own for one, the other has to follow.
		broken := slices.Concat(x.broken[m.from], x.broken[m.to], onTheWay(x.taken[m.from], m.addr))
		away := slices.Concat(x.away[m.from], x.away[m.to])
		bad := inNone(lost, excused(broken, away, chaosGrace))
		x.t.Logf("stream from %s: %d sent, %d lost, %d of them without an excuse",
			m.name, m.handed.Load(), len(lost), len(bad))
		if len(bad) > 0 {
			first, last := bad[0].Sub(x.began), bad[len(bad)-1].Sub(x.began)
			x.t.Errorf("stream from %s: %d packets lost without an excuse, the first at %s, the last at %s",
				m.name, len(bad), first.Round(time.Millisecond), last.Round(time.Millisecond))
		}
	}
	for _, d := range x.daemons {
		if !alive(d.proc) {
			x.t.Errorf("%s has ended: %v", d.node.Name, d.proc.Err())
		}
	}
	x.t.Logf("what happened, how often: %v", x.count)
}

func alive(p *topology.Process) bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// errNothing is for a disturbance that came to nothing, as another one had been there.
var errNothing = errors.New("nothing to disturb")
