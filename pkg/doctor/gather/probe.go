package gather

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/linux/probe"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
)

// closedPort is one where nobody listens: a refusal is an answer.
const closedPort = 1

// probe sends packets to some peers, all at once, and asks whether somebody
// else has our address.
func (o Options) probe(ctx context.Context, f *doctor.Facts) {
	var jobs []doctor.Probe
	for _, p := range f.Peers {
		if l, ok := tunnelOf(*f, p); ok && l.Up && len(jobs) < o.Peers {
			jobs = append(jobs, doctor.Probe{Peer: p, Size: l.MTU})
		}
	}
	if o.Peers > 0 {
		f.Host.Claimed = o.claimed(ctx, *f)
	}
	stop := watch(*f, jobs)
	var all sync.WaitGroup
	for i := range jobs {
		all.Go(func() { o.send(ctx, *f, &jobs[i]) })
	}
	all.Wait()
	stop(jobs)
	f.Probes = jobs
}

func tunnelOf(f doctor.Facts, p doctor.Member) (tables.Link, bool) {
	for _, l := range f.Tables.Links {
		v := l.VXLAN
		if v != nil && v.VNI == f.Overlay.VNI && v.Port == f.Overlay.Port && v.Local.Is6() == p.Subnet.Addr().Is6() {
			return l, true
		}
	}
	return tables.Link{}, false
}

// watch counts the VXLAN packets of the peers; what it gives ends that and
// writes the counts down. Where nftables can't, nothing was heard.
func watch(f doctor.Facts, jobs []doctor.Probe) func([]doctor.Probe) {
	var counters []*probe.Arrivals
	for _, ipv6 := range []bool{false, true} {
		var from []netip.Addr
		for _, j := range jobs {
			if j.Peer.Public.Is6() == ipv6 && !slices.Contains(from, j.Peer.Public) {
				from = append(from, j.Peer.Public)
			}
		}
		if len(from) == 0 {
			continue
		}
		if a, err := probe.Watch(f.Overlay.Port, from); err == nil {
			counters = append(counters, a)
		}
	}
	return func(jobs []doctor.Probe) {
		for _, c := range counters {
			heard, err := c.Read()
			for i := range jobs {
				if n, ok := heard[jobs[i].Peer.Public]; ok && err == nil {
					jobs[i].Heard = n
				}
			}
			c.Close()
		}
	}
}

// send tries one peer in every way, one after the other where the later ones
// need what the earlier ones learn.
func (o Options) send(ctx context.Context, f doctor.Facts, p *doctor.Probe) {
	inner := p.Peer.Tunnel()
	var all sync.WaitGroup
	try := func(into *bool, flow probe.Flow) {
		all.Go(func() { *into = o.answers(ctx, flow) })
	}
	try(&p.Underlay, probe.Flow{Dst: p.Peer.Public, Proto: "icmp"})
	try(&p.Small, probe.Flow{Dst: inner, Proto: "icmp"})
	try(&p.Large, probe.Flow{Dst: inner, Proto: "icmp", Size: p.Size})
	try(&p.TCP, probe.Flow{Dst: inner, Proto: "tcp", Port: closedPort})
	all.Go(func() {
		found, ok := f.Tables.Lookup(tables.Ask{Dst: inner})
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, o.Wait)
		defer cancel()
		flow := probe.Flow{Src: f.Tables.Source(found.Route, inner), Dst: inner, Proto: "tcp", Port: closedPort}
		a, err := probe.RawSYN(ctx, flow)
		p.RawTCP = err == nil && a.Came()
	})
	all.Wait()
}

// answers tries twice: one lost packet is no fault.
func (o Options) answers(ctx context.Context, f probe.Flow) bool {
	for _, patience := range []time.Duration{o.Wait / 4, o.Wait * 3 / 4} {
		s, err := probe.Open(f)
		if err != nil {
			return false
		}
		once, cancel := context.WithTimeout(ctx, patience)
		a, err := s.Send(once)
		cancel()
		s.Close()
		if err == nil && a.Came() {
			return true
		}
	}
	return false
}

// claimed asks for the addresses that the tunnels send from.
func (o Options) claimed(ctx context.Context, f doctor.Facts) map[netip.Addr]mac.Addr {
	out := map[netip.Addr]mac.Addr{}
	for _, l := range f.Tables.Links {
		if l.VXLAN == nil || !l.VXLAN.Local.Is4() {
			continue
		}
		parent, ok := f.Tables.Link(l.VXLAN.Parent)
		if !ok || !parent.Up {
			continue
		}
		once, cancel := context.WithTimeout(ctx, o.Wait/4)
		who, err := probe.Claimed(once, parent.Name, l.VXLAN.Local)
		if cancel(); err == nil && !who.IsZero() {
			out[l.VXLAN.Local] = who
		}
	}
	return out
}
