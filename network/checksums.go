package network

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/offload"
)

// checksums is what is known of the tunnel's devices, by family: IPv4, IPv6.
type checksums struct {
	opts checksum.Options

	mu      sync.Mutex
	judges  [2]checksum.Judge
	running [2]bool
	told    [2]bool // convicted, as far as was told
	devices [2]string
	uplink  string // that the verdicts are about
}

// wishes are what devices shall do, by family.
type wishes [2]offload.Setting

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

const (
	checksumFile = "checksums.json"
	knockWait    = 500 * time.Millisecond
	compareWait  = time.Second
)

// savedChecksums are convictions, by family.
type savedChecksums struct {
	Uplink   string                   `json:"uplink"`
	Verdicts map[int]checksum.Verdict `json:"verdicts"`
}

func (s *checksums) wishes() (w wishes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range w {
		switch s.opts.Mode {
		case checksum.On:
			w[i] = offload.On
		case checksum.Off:
			w[i] = offload.Off
		default:
			w[i] = s.judges[i].Wish()
		}
	}
	return w
}

// set writes the wishes into what a backend wants.
func (w wishes) set(base *dataplane.State) {
	links := maps.Clone(base.Links)
	for name, l := range links {
		l.TXChecksum = w[familyOf(l.Local)]
		links[name] = l
	}
	base.Links = links
}

// stand says which devices there are, and on what. What was found out about
// another network card doesn't count.
func (s *checksums) stand(uplink string, links map[string]dataplane.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = [2]string{}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		s.devices[familyOf(links[name].Local)] = name
	}
	if s.uplink != "" && s.uplink != uplink {
		for i := range s.judges {
			s.judges[i].Reconsider(time.Now())
		}
	}
	s.uplink = uplink
}

func (s *checksums) meet(targets []probe.Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.judges {
		s.judges[i].Meet(func(peer netip.Addr) bool {
			return slices.ContainsFunc(targets, func(t probe.Target) bool { return t.Overlay == peer && !t.Direct })
		})
	}
}

func (s *checksums) takes(peer netip.Addr) bool {
	if !s.opts.Auto() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.judges[familyOf(peer)].Takes(peer, time.Now())
}

// sendProbe sends a probe, or in its place a datagram whose checksum is left to
// the device.
func (n *Node) sendProbe(ctx context.Context, g *errgroup.Group, pinger probe.Pinger, p probe.Probe) {
	if !p.Spare || !n.sums.takes(p.To) {
		// That there is no way, as while the device is away, is a lost probe.
		_ = pinger.Send(p.To, p.Seq, p.Size)
		return
	}
	g.Go(func() error {
		knock, stop := context.WithTimeout(ctx, knockWait)
		defer stop()
		answered, err := n.sums.opts.Knock(knock, p.To, false)
		now := time.Now()
		if answered {
			n.heardProbe(p.Seq, now)
			return nil
		}
		n.probes.withdraw(p.Seq, now)
		if err == nil && ctx.Err() == nil {
			n.sums.missed(p.To, now)
		}
		return nil
	})
}

func (s *checksums) missed(peer netip.Addr, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judges[familyOf(peer)].Answered(peer, false, now)
}

// compareChecksums begins with what is due.
func (n *Node) compareChecksums(ctx context.Context, g *errgroup.Group) {
	if !n.sums.opts.Auto() {
		return
	}
	n.sums.mu.Lock()
	defer n.sums.mu.Unlock()
	for i := range n.sums.judges {
		if n.sums.running[i] || !n.sums.judges[i].Due(time.Now()) {
			continue
		}
		n.sums.running[i] = true
		g.Go(func() error {
			defer n.sums.stopped(i)
			n.compareFamily(ctx, i)
			return nil
		})
	}
}

func (s *checksums) stopped(family int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[family] = false
}

// compareFamily compares until it is known what is true.
func (n *Node) compareFamily(ctx context.Context, family int) {
	for ctx.Err() == nil {
		n.sums.mu.Lock()
		before := n.sums.judges[family].Wish()
		pair, ok, wait := n.sums.judges[family].Next(time.Now())
		n.sums.mu.Unlock()
		if ok {
			outcome := n.sums.both(ctx, pair)
			if ctx.Err() != nil {
				return
			}
			n.sums.mu.Lock()
			n.sums.judges[family].Compared(outcome, time.Now())
			n.sums.mu.Unlock()
		}
		if n.sums.wishes()[family] != before {
			n.switchChecksums(ctx, family)
		}
		if !ok && (wait == 0 || !sleep(ctx, wait)) {
			return
		}
	}
}

// both sends the two datagrams of a comparison.
func (s *checksums) both(ctx context.Context, pair checksum.Pair) (o checksum.Outcome) {
	ctx, stop := context.WithTimeout(ctx, compareWait)
	defer stop()
	var second sync.WaitGroup
	knock := func(finished bool, answered *bool) {
		*answered, _ = s.opts.Knock(ctx, pair.Peer, finished) // not sent is not answered
	}
	order := []func(){func() { knock(false, &o.Left) }, func() { knock(true, &o.Finished) }}
	if pair.FinishedFirst {
		slices.Reverse(order)
	}
	for _, send := range order {
		second.Go(send)
	}
	second.Wait()
	return o
}

// switchChecksums has the device made as it is wanted now, keeps the verdict for
// the next process, and tells of it.
func (n *Node) switchChecksums(ctx context.Context, family int) {
	n.sums.mu.Lock()
	v, convicted := n.sums.judges[family].Verdict()
	trying := n.sums.judges[family].Wish() == offload.On
	device, was := n.sums.devices[family], n.sums.told[family]
	n.sums.told[family] = convicted
	saved := n.sums.saved()
	n.sums.mu.Unlock()
	if err := n.files.saveChecksums(saved); err != nil {
		n.opts.Log.WithError(err).Warn("that checksum offload is broken is not saved; a restart finds it out anew")
	}
	_ = n.ask(ctx, func() { n.view.changed = true }) // an error is that we stop
	log := n.opts.Log.WithField("device", device)
	switch {
	case convicted && trying:
		log.Info("checksum offload is switched on again for a try")
	case convicted && was:
		log.WithField("again", v.Again).Info("checksum offload is still broken")
	case convicted:
		log.WithFields(logrus.Fields{"peer": v.Peer, "again": v.Again}).
			Warn("the network card breaks checksums of what the tunnel carries: checksum offload is switched off")
		n.happened(events.ChecksumsOff, device, verdictText(v))
	case was:
		log.Info("packets pass with checksum offload again: it stays on")
		n.happened(events.ChecksumsOn, device, "")
	}
}

func verdictText(v checksum.Verdict) string {
	who := "a peer that is gone"
	if v.Peer.IsValid() {
		who = v.Peer.String()
	}
	return who + " answers packets with a finished checksum, and none whose checksum the device must compute"
}

// saved needs s.mu.
func (s *checksums) saved() savedChecksums {
	out := savedChecksums{Uplink: s.uplink, Verdicts: map[int]checksum.Verdict{}}
	for i := range s.judges {
		if v, ok := s.judges[i].Verdict(); ok {
			out.Verdicts[i] = v
		}
	}
	return out
}

func (f files) saveChecksums(s savedChecksums) error {
	return f.save(checksumFile, func() ([]byte, error) { return json.Marshal(s) })
}

// restoreChecksums goes on with what an earlier process has found out.
func (n *Node) restoreChecksums() {
	s := &n.sums
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.judges {
		s.judges[i].Jitter = rand.Float64() //nolint:gosec // spreads tries
	}
	var saved savedChecksums
	if n.files.dir == "" || !s.opts.Auto() {
		return
	}
	err := n.files.read(checksumFile, func(body []byte) error { return json.Unmarshal(body, &saved) })
	if err != nil {
		n.opts.Log.WithError(err).Warn("saved state is left out: whether checksum offload works is found out anew")
		return
	}
	s.uplink = saved.Uplink
	for i, v := range saved.Verdicts {
		if i >= 0 && i < len(s.judges) {
			s.judges[i].Restore(v)
			s.told[i] = true
		}
	}
}

// status is of devices that we have a word about.
func (s *checksums) status() (out []checksum.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, device := range s.devices {
		v, convicted := s.judges[i].Verdict()
		switch {
		case device == "":
		case s.opts.Mode == checksum.Off:
			out = append(out, checksum.Status{Device: device, Reason: "--vxlan-checksum-offload is off"})
		case convicted && s.opts.Auto():
			out = append(out, checksum.Status{Device: device, Reason: verdictText(v), Since: v.Since, Again: v.Again})
		}
	}
	return out
}

// metric is whether a device is in the status, for each.
func (s *checksums) metric() map[string]bool {
	out := map[string]bool{}
	s.mu.Lock()
	for _, device := range s.devices {
		if device != "" {
			out[device] = false
		}
	}
	s.mu.Unlock()
	for _, one := range s.status() {
		out[one.Device] = true
	}
	return out
}
