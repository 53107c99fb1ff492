// Package network joins the store, the backend and the loop into one node.
//
//	store.Watch ─→ Believe ─→ Admit ─→ Backend ─→ layers ─→ reconcile.Loop ─→ kernel
//	       ▲                     ▲                                 │
//	   lease keeper           uplink, own lease                  Rounds ─→ ready, subnet.env, sd_notify
//
// It owns the order in which a node comes up, what readiness means, the files
// that outlive the process, and the local control socket. It decides nothing
// about subnets, entries or rules: those are pure packages below it.
package network

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/commands/runner"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/health"
	"github.com/weftnet/weft/pkg/metrics"
	"github.com/weftnet/weft/pkg/version"
	"github.com/weftnet/weft/subnet"
)

// Options are the parts and the settings of a Node.
type Options struct {
	Store    subnet.Store
	Kernel   dataplane.Kernel
	Backends map[string]backend.Backend // by the type that a configuration names
	Health   *health.State
	Log      logrus.FieldLogger

	Wish        uplink.Wish
	Masquerade  bool // --ip-masq
	Forward     bool // --iptables-forward-rules
	Blackhole   bool // --ip-blackhole-route
	FullyRandom bool
	Tunnel      TunnelOptions
	Checksums   checksum.Options
	// Pods is the host's side of pods' attachments, which is mended by the
	// records in Attachments; nil leaves them alone.
	Pods        PodKernel
	Attachments attachment.Dir
	SubnetFile  string // subnet.env
	StateDir    string // our lease and the last snapshot; "" keeps none
	Socket      string // control socket; "" for none
	// Pings opens what the paths to peers are probed with, one probe in each
	// ProbeInterval; 0 probes nothing.
	Pings         func() (probe.Pinger, error)
	ProbeInterval time.Duration
	// StoreTook gives how long requests to the store took, by what they asked
	// for; nil: not known.
	StoreTook func() map[string]metrics.Timed
	// Commands runs the programs of a backend.Commander; nil if none of the
	// backends is one.
	Commands *runner.Runner
}

// Node is one member of the overlay.
type Node struct {
	opts  Options
	loop  *reconcile.Loop
	files files
	// random is this process's entropy for what a backend must invent.
	random [16]byte

	view   view
	admit  subnet.Admitter
	pieces pieces
	tasks  tasks // that programs are to do
	said   said
	told   engine // what was logged of it already

	toldTunnel toldTunnel

	poke chan struct{} // a round ended: look at readiness and facts
	asks chan func()   // questions for steer, which alone knows the view

	events *events.Ring
	probes probing
	sums   checksums

	self   selfStore     // the store, if this node has an object in it; or nil
	turned chan struct{} // readiness came or went

	started time.Time

	mu     sync.Mutex
	ledger ledger
	status Status
	ready  bool

	counting []ruleset.Key // chains that count what they drop
}

// view is what the node knows now. Only steer touches it.
type view struct {
	believed  subnet.Snapshot
	lingering subnet.Lingering
	doubted   time.Time // since when the store's word is not taken; zero: it is
	kept      int       // leases that are kept against its word
	confirmed bool      // the store itself has spoken since we started
	heard     time.Time // when it spoke last
	facts     dataplane.Facts
	// asked are the peers whose paths are in facts, if the backend uses paths, and may
	// be others that left.
	asked    map[netip.Addr]bool
	uplink   backend.Uplink
	public   []netip.Addr // what the uplink was chosen with
	lease    subnet.Lease // ours; zero while there is none
	admitted admitted
	claimed  subnet.Claim // what the lease keeper was told last
	changed  bool         // something above changed: apply it
	saved    origin       // of the lease from the disk, until the host was read
	rejudge  bool         // apply ran, or the host was read: look whose our subnets are
}

// New makes a node; Run starts it.
func New(opts Options) *Node {
	n := &Node{
		opts:  opts,
		files: files{dir: opts.StateDir},
		poke:  make(chan struct{}, 1),
		asks:  make(chan func()),

		events: events.New(eventsKept),
		probes: probing{stale: make(chan struct{}, 1)},
		turned: make(chan struct{}, 1),
	}
	n.sums.opts = opts.Checksums
	n.ledger.complaints = complaints{}
	n.ledger.commands = map[string]string{}
	n.self, _ = opts.Store.(selfStore)
	if s, ok := opts.Store.(outspoken); ok {
		s.OnOutage(n.onOutage)
	}
	n.pieces.door.wish = opts.Tunnel
	_, _ = rand.Read(n.random[:]) // never fails (crypto/rand, Go 1.24)
	n.loop = reconcile.New(opts.Kernel, reconcile.Options{
		Layers:  []string{layerBase, layerPeers, layerRules, layerTunnel, layerConfirmed},
		OnRound: n.onRound,
		OnFacts: n.onFacts,
	})
	return n
}

// Run brings the node up and keeps it so until ctx ends. It returns nil then;
// everything in the kernel stays as it is, so that packets keep flowing. Only the
// filter on the tunnel goes: it would keep out nodes that come later.
func (n *Node) Run(ctx context.Context) error {
	n.started = time.Now()
	n.happened(events.Started, "", version.Short())
	n.mu.Lock()
	n.ledger.factsDue = true
	n.mu.Unlock()
	for _, c := range []string{conditionUplink, conditionLease, conditionDataplane, conditionFile} {
		n.opts.Health.Set(c, errors.New("not yet"))
	}
	snapshots := make(chan subnet.Snapshot)
	claims := make(chan subnet.Claim)
	leases := make(chan subnet.Lease)
	k := keeper{store: n.opts.Store, log: n.opts.Log, wait: n.storeWait, fits: n.fits}

	g, ctx := errgroup.WithContext(ctx)
	n.opts.Health.Watch("the loop that programs the kernel", func() { _ = n.loop.Turn(ctx) })
	n.opts.Health.Watch("the part that decides", func() { _ = n.ask(ctx, func() {}) })
	g.Go(func() error { return n.loop.Run(ctx) })
	g.Go(func() error { return n.feedWatchdog(ctx) })
	g.Go(func() error { return n.watchStore(ctx, snapshots) })
	g.Go(func() error { return k.run(ctx, claims, leases) })
	g.Go(func() error { return n.steer(ctx, snapshots, claims, leases) })
	if n.opts.Socket != "" {
		g.Go(func() error { return n.serveControl(ctx) })
	}
	if n.opts.ProbeInterval > 0 {
		g.Go(func() error { return n.probePeers(ctx) })
	}
	if n.self != nil {
		g.Go(func() error { return n.tellStore(ctx) })
	}
	if n.opts.Pods != nil && n.opts.Attachments != "" {
		g.Go(func() error { return n.mendPods(ctx) })
	}
	if n.opts.Commands != nil {
		g.Go(func() error { return n.opts.Commands.Run(ctx, n.onCommand) })
	}
	err := g.Wait()
	n.openDoor()
	n.notifyStopping()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// LookAgain has the node look at its readiness anew: a condition that is not
// its own has come or gone. It doesn't block.
func (n *Node) LookAgain() {
	select {
	case n.poke <- struct{}{}:
	default: // it is going to
	}
}

const (
	patience  = 2 * time.Second // a start may take so long before the log says what it waits for
	doubtTick = time.Second     // how often a doubt is looked at again
	saveDelay = 5 * time.Second // snapshots are saved at most this often
)

// steer is the one goroutine that decides.
func (n *Node) steer(ctx context.Context, snapshots <-chan subnet.Snapshot,
	claims chan<- subnet.Claim, leases <-chan subnet.Lease,
) error {
	tick := time.NewTimer(doubtTick)
	defer tick.Stop()
	var last *subnet.Snapshot // newest from the store, believed or not
	saver := saver{files: n.files, log: n.opts.Log}
	defer saver.flush()
	n.restore()
	n.restoreChecksums()
	for {
		n.refreshFacts(ctx)
		for n.view.changed {
			n.view.changed, n.view.rejudge = false, true
			n.apply(ctx)
		}
		n.judgeSubnet()
		n.judgeReadiness()
		saver.maybeSave(n.opts.Health.Ready() == nil)
		claim, toClaim := n.nextClaim()
		var offer chan<- subnet.Claim
		if toClaim {
			offer = claims
		}
		tick.Reset(n.nextTick(&saver))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case offer <- claim:
			n.view.claimed = claim
		case s := <-snapshots:
			last = &s
			n.hear(s)
			saver.note(n.view.believed, !n.view.doubted.IsZero())
		case l := <-leases:
			n.adopt(l)
		case <-n.poke:
		case answer := <-n.asks:
			answer()
		case <-tick.C:
			n.lookAgain()
			n.view.changed = n.view.lingering.Over(time.Now()) || n.view.changed
			if last != nil && !n.view.doubted.IsZero() {
				n.hear(*last)
			}
		}
	}
}

// lookAgain makes a node that can't serve pods try everything anew: what it
// waits for may be there now.
func (n *Node) lookAgain() {
	if n.opts.Health.Ready() == nil {
		return
	}
	n.view.changed = true
	n.mu.Lock()
	n.ledger.factsDue = true
	n.mu.Unlock()
}

// nextTick is when steer has something to do by itself. An idle node that is
// ready, believes its store and has saved its snapshot does nothing.
func (n *Node) nextTick(s *saver) time.Duration {
	until := n.view.lingering.Until()
	switch {
	case !until.IsZero():
		return time.Until(until)
	case !n.view.doubted.IsZero() || n.opts.Health.Ready() != nil:
		return doubtTick
	case s.pending != nil:
		return saveDelay
	}
	return time.Hour
}

// adopt takes the lease that the keeper got.
func (n *Node) adopt(l subnet.Lease) {
	if l.ID != n.view.lease.ID || l.Created != n.view.lease.Created {
		n.happened(events.LeaseTaken, l.ID, "")
	}
	n.tellMovedOn(n.view.lease, l)
	n.view.lease, n.view.changed = l, true
	if err := n.files.saveLease(l, n.here()); err != nil {
		n.opts.Log.WithError(err).Warn("our lease is not saved; after a reboot this node may get another subnet")
	}
}

// refreshFacts reads the host and chooses the uplink.
func (n *Node) refreshFacts(ctx context.Context) {
	if len(n.view.believed.Config.Networks) == 0 {
		n.waitFor("configuration", n.noConfig())
		return
	}
	wish := n.wish()
	due := n.takeFactsDue() || !slices.Equal(wish.Public, n.view.public)
	if !due && n.view.uplink.Iface != "" {
		return
	}
	if n.view.asked != nil { // not about those that left
		n.view.asked = publicOf(n.view.admitted.ok)
	}
	facts, err := n.readFacts(ctx)
	if ctx.Err() != nil {
		return // we are stopping, and nothing is known about the host
	}
	if err != nil {
		n.waitFor("host", err)
		return
	}
	up, err := uplink.Pick(facts, n.view.believed.Config, wish)
	if err != nil {
		n.waitFor("uplink", err)
		return
	}
	n.view.changed = n.view.changed || !reflect.DeepEqual(up, n.view.uplink) ||
		!maps.Equal(facts.Paths, n.view.facts.Paths) || !reflect.DeepEqual(facts.Firewall, n.view.facts.Firewall)
	n.tellMoved(facts)
	n.tellUplink(up)
	n.disown(facts, up)
	n.view.rejudge = true
	n.view.facts, n.view.uplink, n.view.public = facts, up, wish.Public
	n.opts.Health.Set(conditionUplink, nil)
}

func (n *Node) takeFactsDue() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	due := n.ledger.factsDue
	n.ledger.factsDue = false
	return due
}

// noConfig says why there is no configuration.
func (n *Node) noConfig() error {
	silent, empty := n.storeAdvice()
	if !n.view.confirmed {
		return silent
	}
	return empty
}

// waitFor records what the node waits for, and logs it once, unless it is what
// every start waits for a moment.
func (n *Node) waitFor(what string, err error) {
	n.opts.Health.Set(conditionUplink, err)
	if time.Since(n.started) < patience {
		return
	}
	n.once(what+err.Error(), func(log logrus.FieldLogger) {
		log.WithError(err).WithField("for", what).Warn("waiting")
	})
}

// storeWait is told by the lease keeper why there is no lease yet.
func (n *Node) storeWait(err error) { n.opts.Health.Set(conditionLease, err) }

// host is what a backend decides over.
func (n *Node) host() backend.Host {
	return backend.Host{
		Config: n.view.believed.Config,
		Uplink: n.view.uplink,
		Facts:  n.view.facts,
		Lease:  n.view.lease,
		Random: n.random,
	}
}
