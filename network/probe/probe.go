// Package probe decides which path to a peer is probed when, and what the
// answers mean. Pure: it sends nothing, and is told the time.
//
//	targets ─→ sweep ──────────┐
//	              │ lost       ├─→ Next: at most so many probes a tick ─→ Heard, or lost after a second
//	              └→ suspects ─┘                                             │
//	                     ▲───────────────────────────────────────────────────┘
//
// It owns the rate, which does not depend on how many peers there are, the
// closer look at a peer whose probe was lost, and the verdict.
package probe

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Target is a path to a peer, one for each address family.
type Target struct {
	ID       string     // of the peer's lease
	Overlay  netip.Addr // of the peer's VTEP, reached through the overlay
	Underlay netip.Addr // of the peer itself
	MTU      int        // bytes of the largest IP packet that the overlay takes
	Direct   bool       // packets to its pods go beside the tunnel
}

// Probe is one packet to send.
type Probe struct {
	Seq  uint32
	To   netip.Addr
	Size int // bytes of the IP packet; 0: a small one
	// Spare: the path is well, and another packet that the peer answers may be
	// sent instead, if Heard or Withdraw is told of it.
	Spare bool
}

// Pinger sends echo requests and hears the answers.
type Pinger interface {
	// Send sends one, in an IP packet of so many bytes; 0: a small one.
	Send(to netip.Addr, seq uint32, size int) error
	// Listen tells of each answer until ctx ends, and gives the Pinger up then;
	// it returns ctx.Err(), or why it can't go on.
	Listen(ctx context.Context, heard func(seq uint32, at time.Time)) error
}

// State is what is known of a path.
type State string

// The states of a path.
const (
	Unknown      State = "unknown"       // not probed yet
	OK           State = "ok"            // answers
	Lossy        State = "lossy"         // answers, and some probes were lost lately
	BlackHole    State = "mtu"           // small packets arrive, full-sized ones do not
	OverlayDown  State = "overlay-down"  // the node answers at its own address, and not through the overlay
	UnderlayDown State = "underlay-down" // it doesn't answer at its own address either, and did before
	Down         State = "down"          // it never answered at its own address, so that nothing can be told apart
)

// Status is what there is to tell of a path.
type Status struct {
	Target
	State State
	RTT   time.Duration // of the newest answer through the overlay; 0: none yet
	Loss  float64       // part of the newest small probes, up to 16, that were lost
	Since time.Time     // of State
}

// Change is a path whose state is another one than before.
type Change struct {
	Status
	From State
}

const (
	patience = time.Second     // a probe that is not answered so soon is lost
	again    = time.Second     // until a suspect is probed again
	lostTo   = 3               // small probes in a row until a path is down
	revisit  = 5 * time.Second // a path is not probed more often, unless it is a suspect
	downtime = 5 * time.Second // until a path that is down is probed again
	tick     = 500 * time.Millisecond
	rare     = 8 // every so many visits the full size and the underlay are probed too
)

type flight struct {
	path *path
	sort sort
	sent time.Time
}

type sort uint8

const (
	small sort = iota
	big
	underlay
)

// Counts are what was sent and lost since the start.
type Counts struct {
	Sent, Lost           uint64 // through the overlay
	UnderSent, UnderLost uint64
	Sweep                time.Duration // how long the last whole sweep took
}

// Prober decides. Not safe for concurrent use. Make it with New.
type Prober struct {
	interval time.Duration
	credit   time.Duration // what may be spent, an interval a probe; below zero after a visit that took more
	last     time.Time     // of Next
	paths    []*path
	at       int // where the sweep is
	began    time.Time
	suspects []*path // those that were looked at last are at the end
	flying   map[uint32]flight
	order    []uint32 // of flying, oldest first; some may have landed
	seq      uint32
	counts   Counts
}

// New makes a Prober that sends no more than one probe each interval, on
// average; the least interval is a millisecond.
func New(interval time.Duration) *Prober {
	return &Prober{interval: max(interval, time.Millisecond), flying: map[uint32]flight{}}
}

// SetTargets says which paths there are. What is known of those that stay is
// kept. Only the part of the list that is not as it was costs more than a look.
func (p *Prober) SetTargets(targets []Target, now time.Time) {
	from, oldTo, newTo := 0, len(p.paths), len(targets)
	for from < min(oldTo, newTo) && p.paths[from].target == targets[from] {
		from++
	}
	for oldTo > from && newTo > from && p.paths[oldTo-1].target == targets[newTo-1] {
		oldTo, newTo = oldTo-1, newTo-1
	}
	was := make(map[Target]*path, oldTo-from)
	for _, one := range p.paths[from:oldTo] {
		was[one.target] = one
	}
	next := make([]*path, 0, newTo-from)
	for i, t := range targets[from:newTo] {
		one := was[t]
		if one == nil {
			one = &path{target: t, state: Unknown, since: now, visits: uint32((from + i) % rare)} //nolint:gosec // small
		}
		delete(was, t)
		next = append(next, one)
	}
	p.paths = slices.Replace(p.paths, from, oldTo, next...)
	for seq, f := range p.flying {
		if was[f.path.target] != nil {
			delete(p.flying, seq)
		}
	}
	kept := p.suspects[:0]
	for _, s := range p.suspects {
		if was[s.target] == nil {
			kept = append(kept, s)
		}
	}
	p.suspects = kept
	p.at = min(p.at, len(p.paths))
}

// Next gives the probes to send now, and the paths whose state has changed as
// probes were lost. Wait is until when there is nothing to do; 0: there is never
// anything.
func (p *Prober) Next(now time.Time) (send []Probe, changed []Change, wait time.Duration) {
	changed = p.expire(now)
	if p.began.IsZero() {
		p.began = now
	}
	left := p.allowance(now)
	send = p.look(now, (left+1)/2)
	send = append(send, p.sweep(now, left-len(send))...)
	send = append(send, p.look(now, left-len(send))...)
	p.credit -= time.Duration(len(send)) * p.interval
	return send, changed, p.pause(now)
}

// allowance is how many probes may be sent now.
func (p *Prober) allowance(now time.Time) int {
	most := max(tick, p.interval)
	if p.credit = min(p.credit+now.Sub(p.last), most); p.last.IsZero() {
		p.credit = most
	}
	p.last = now
	return max(0, int(p.credit/p.interval))
}

// look has a closer look at suspects until so many probes are spent: first at those
// of which it is not known yet whether they are down.
func (p *Prober) look(now time.Time, spend int) (send []Probe) {
	p.suspects = slices.DeleteFunc(p.suspects, func(one *path) bool {
		one.suspect = !one.due.IsZero()
		return !one.suspect
	})
	for _, down := range []bool{false, true} {
		kept, seen := p.suspects[:0], []*path(nil)
		for _, one := range p.suspects {
			if len(send) >= spend || now.Before(one.due) || down != (one.misses >= lostTo) {
				kept = append(kept, one)
				continue
			}
			one.due = now.Add(again)
			if down {
				one.due = now.Add(downtime)
			}
			send = append(send, p.probe(one, small, now), p.probe(one, underlay, now))
			seen = append(seen, one)
		}
		p.suspects = append(kept, seen...)
	}
	return send
}

// sweep visits the next paths, but for suspects, until so many probes are spent.
func (p *Prober) sweep(now time.Time, spend int) (send []Probe) {
	for n := 0; n < len(p.paths) && len(send) < spend; n++ {
		if p.at >= len(p.paths) {
			p.at, p.counts.Sweep, p.began = 0, now.Sub(p.began), now
		}
		one := p.paths[p.at]
		if one.due.IsZero() {
			if now.Sub(one.visited) < revisit {
				break
			}
			send = append(send, p.visit(one, now)...)
		}
		p.at++
	}
	return send
}

// pause is until when there is nothing to do: a tick while answers are waited for
// or something is due, else until the sweep goes on.
func (p *Prober) pause(now time.Time) time.Duration {
	switch {
	case len(p.paths) == 0:
		return 0
	case len(p.flying)+len(p.suspects) > 0:
		return tick
	}
	return max(tick, p.paths[p.at%len(p.paths)].visited.Add(revisit).Sub(now))
}

// visit probes a path in the course of a sweep.
func (p *Prober) visit(one *path, now time.Time) []Probe {
	send := []Probe{p.probe(one, small, now)}
	send[0].Spare = one.state == OK && one.history == 0 && !one.target.Direct
	if one.visits%rare == 0 {
		send = append(send, p.probe(one, big, now), p.probe(one, underlay, now))
	}
	one.visits++
	return send
}

func (p *Prober) probe(one *path, s sort, now time.Time) Probe {
	p.seq++
	probe := Probe{Seq: p.seq, To: one.target.Overlay}
	switch s {
	case big:
		probe.Size = one.target.MTU
		p.counts.Sent++
	case underlay:
		probe.To = one.target.Underlay
		p.counts.UnderSent++
	default:
		p.counts.Sent++
	}
	one.visited = now
	p.flying[p.seq] = flight{path: one, sort: s, sent: now}
	p.order = append(p.order, p.seq)
	return probe
}

// expire takes what was not answered in time for lost.
func (p *Prober) expire(now time.Time) (changed []Change) {
	for len(p.order) > 0 {
		f, flying := p.flying[p.order[0]]
		if flying && now.Sub(f.sent) < patience {
			break
		}
		if flying {
			delete(p.flying, p.order[0])
			changed = append(changed, p.lost(f, now)...)
		}
		p.order = p.order[1:]
	}
	return changed
}

// Heard takes the answer to a probe. It gives the time that it took, 0 for one
// that nobody waits for any more, and the change that it made.
func (p *Prober) Heard(seq uint32, now time.Time) (took time.Duration, changed []Change) {
	f, flying := p.flying[seq]
	if !flying {
		return 0, nil
	}
	delete(p.flying, seq)
	one := f.path
	took = now.Sub(f.sent)
	switch f.sort {
	case small:
		if one.rtt == 0 {
			one.history, one.known = 0, 0 // the peer was not there yet
		}
		one.note(false)
		one.misses, one.rtt = 0, took
		one.due = time.Time{}
	case big:
		one.bigMiss = 0
	case underlay:
		one.under = there
		took = 0 // not through the overlay
	}
	return took, one.judge(now)
}

// Withdraw takes it that another packet was sent than the Spare probe, and was
// not answered: that says nothing, and the path gets its probe at once.
func (p *Prober) Withdraw(seq uint32, now time.Time) {
	f, flying := p.flying[seq]
	delete(p.flying, seq)
	if flying {
		p.suspectsNow(f.path, now)
	}
}

// suspectsNow has a path looked at more closely.
func (p *Prober) suspectsNow(one *path, now time.Time) {
	if one.due.IsZero() {
		one.due = now
	}
	if !one.suspect {
		one.suspect = true
		p.suspects = append(p.suspects, one)
	}
}

func (p *Prober) lost(f flight, now time.Time) []Change {
	one := f.path
	switch f.sort {
	case small:
		p.counts.Lost++
		one.note(true)
		one.misses = min(one.misses+1, lostTo)
		p.suspectsNow(one, now)
	case big:
		p.counts.Lost++
		one.bigMiss = min(one.bigMiss+1, 2)
		if one.bigMiss == 1 && one.misses == 0 {
			one.visits -= one.visits % rare // the next visit looks again
		}
	case underlay:
		p.counts.UnderLost++
		if one.under == there {
			one.under = missing
		}
	}
	return one.judge(now)
}

// Each gives what is known of every path.
func (p *Prober) Each(yield func(Status) bool) {
	for _, one := range p.paths {
		if !yield(one.status()) {
			return
		}
	}
}

// Counts are what was sent and lost.
func (p *Prober) Counts() Counts { return p.counts }
