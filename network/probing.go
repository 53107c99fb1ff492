package network

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/metrics"
	"github.com/weftnet/weft/subnet"
)

// probing is what is known of the paths to the peers.
type probing struct {
	stale chan struct{} // the peers are not those that it knows

	mu     sync.Mutex
	prober *probe.Prober // nil: nothing is probed
	off    string        // and why
	rtt    metrics.Histogram
}

// probePeers measures the paths to the peers until ctx ends.
func (n *Node) probePeers(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		pinger, err := n.opts.Pings()
		if err == nil {
			n.probes.turn(n.opts.ProbeInterval, "")
			err = n.probeBy(ctx, pinger)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.probes.turn(0, oneLine(err))
		n.once("probes "+err.Error(), func(log logrus.FieldLogger) {
			log.WithError(err).Warn("the paths to peers are not probed; all else goes on")
		})
		if !sleep(ctx, backoff(attempt)*6) { // up to a minute
			return ctx.Err()
		}
	}
}

// turn begins anew, or with an interval of 0 ends.
func (p *probing) turn(interval time.Duration, off string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prober, p.off = nil, off
	if interval > 0 {
		p.prober = probe.New(interval)
	}
}

func (n *Node) probeBy(ctx context.Context, pinger probe.Pinger) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return pinger.Listen(ctx, n.heardProbe)
	})
	g.Go(func() error {
		timer := time.NewTimer(0)
		defer timer.Stop()
		rest := time.NewTimer(time.Hour)
		defer rest.Stop()
		stale := n.probes.stale
		idle := true // the timer doesn't run
		for n.probes.renew(); ; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-rest.C:
				stale = n.probes.stale
				continue
			case <-stale:
				if err := n.aim(ctx); err != nil {
					return err
				}
				stale = nil
				rest.Reset(aimPause)
				if !idle {
					continue
				}
			case <-timer.C:
			}
			wait := n.probeSome(ctx, g, pinger)
			if idle = wait == 0; !idle {
				timer.Reset(wait)
			}
		}
	})
	return g.Wait()
}

// aimPause is between two looks at who the peers are: each costs a look at all of them,
// while they come and go one by one.
const aimPause = time.Second

// heardProbe takes an answer. It is safe for concurrent use.
func (n *Node) heardProbe(seq uint32, at time.Time) {
	n.probes.mu.Lock()
	took, changed := n.probes.prober.Heard(seq, at)
	if took > 0 {
		n.probes.rtt.Observe(took)
	}
	n.probes.mu.Unlock()
	n.tellPaths(changed)
}

func (p *probing) withdraw(seq uint32, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prober.Withdraw(seq, now)
}

// renew has the peers asked for.
func (p *probing) renew() {
	select {
	case p.stale <- struct{}{}:
	default: // they are going to be
	}
}

// aim asks who the peers are.
func (n *Node) aim(ctx context.Context) error {
	var targets []probe.Target
	err := n.ask(ctx, func() { targets = n.view.admitted.targets(n.pieces.host, n.pieces.links) })
	if err != nil {
		return err
	}
	n.sums.meet(targets)
	n.probes.mu.Lock()
	defer n.probes.mu.Unlock()
	n.probes.prober.SetTargets(targets, time.Now())
	return nil
}

// targets are the peers that have an address inside of the overlay: those of a
// backend with a device of ours, as they have one of the same kind.
func (a *admitted) targets(h backend.Host, links map[string]dataplane.Link) []probe.Target {
	if len(links) == 0 {
		return nil
	}
	left := map[string]bool{}
	for _, s := range a.skipped {
		left[s.ID] = true
	}
	mtu := a.backend.MTU(h)
	user, _ := a.backend.(backend.PathUser)
	shortcuts := user != nil && user.UsesPaths(h.Config)
	out := make([]probe.Target, 0, len(h.Config.Networks)*len(a.ok))
	for i := range a.ok {
		if left[a.ok[i].ID] {
			continue
		}
		for _, share := range a.ok[i].Shares {
			out = append(out, probe.Target{
				ID: a.ok[i].ID, Overlay: share.Subnet.Addr(), Underlay: share.Public, MTU: mtu,
				Direct: shortcuts && a.direct(h, links, &a.ok[i], share),
			})
		}
	}
	return out
}

// direct tells whether the peer's subnet is reached beside the tunnel.
func (a *admitted) direct(
	h backend.Host, links map[string]dataplane.Link, l *subnet.Lease, share subnet.Share,
) bool {
	var state dataplane.State
	err := a.backend.Peer(h, *l, &state)
	return err == nil && pathTo(share, state, links).Way != "tunnel"
}

// probeSome sends what is due, and gives when to come again; 0: not before there
// are other peers.
func (n *Node) probeSome(ctx context.Context, g *errgroup.Group, pinger probe.Pinger) time.Duration {
	n.probes.mu.Lock()
	send, changed, wait := n.probes.prober.Next(time.Now())
	n.probes.mu.Unlock()
	for _, p := range send {
		n.sendProbe(ctx, g, pinger, p)
	}
	n.compareChecksums(ctx, g)
	n.tellPaths(changed)
	return wait
}

// tellPaths tells of paths that broke, and of those that work again. That a probe
// was lost now and then is no news.
func (n *Node) tellPaths(changed []probe.Change) {
	lost, back := events.Few{Kind: events.PeerUnheard}, events.Few{Kind: events.PeerHeard}
	logged := 0
	for _, c := range changed {
		was, is := broken(c.From), broken(c.State)
		if !was && !is {
			continue
		}
		few := &back
		if is {
			few = &lost
		}
		few.Note(c.ID, c.Overlay.String()+" "+string(c.State))
		if logged++; logged > maxLogged {
			continue
		}
		log := n.opts.Log.WithFields(logrus.Fields{"lease": c.ID, "address": c.Overlay, "state": string(c.State)})
		if is {
			log.Warn("a peer doesn't answer probes through the overlay as it should")
		} else {
			log.Info("a peer answers probes through the overlay again")
		}
	}
	n.events.Add(time.Now(), append(lost.Events(), back.Events()...)...)
}

func broken(s probe.State) bool {
	switch s {
	case probe.BlackHole, probe.OverlayDown, probe.UnderlayDown, probe.Down:
		return true
	}
	return false
}

// paths gives what is known of each path, by its address in the overlay.
func (p *probing) paths() map[netip.Addr]probe.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prober == nil {
		return nil
	}
	out := map[netip.Addr]probe.Status{}
	for s := range p.prober.Each {
		out[s.Overlay] = s
	}
	return out
}

// fill counts for the metrics.
func (p *probing) fill(s *metrics.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ProbeRTT = p.rtt; p.prober == nil {
		return
	}
	s.Paths = map[string]int{}
	for one := range p.prober.Each {
		s.Paths[string(one.State)]++
	}
	c := p.prober.Counts()
	s.ProbesSent = map[string]uint64{"overlay": c.Sent, "underlay": c.UnderSent}
	s.ProbesLost = map[string]uint64{"overlay": c.Lost, "underlay": c.UnderLost}
	s.Sweep = c.Sweep
}

// why is why nothing is probed that should be, or "".
func (p *probing) why() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}
