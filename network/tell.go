package network

import (
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/subnet"
)

// What happened, for `weftctl events`. Each event costs what caused it; a quiet
// node has none.

// eventsKept is how many a node remembers.
const eventsKept = 512

// outspoken is a store that tells when it is away, with an error, and when it
// is back, with nil. The function must not block.
type outspoken interface{ OnOutage(tell func(error)) }

func (n *Node) happened(kind events.Kind, subject, detail string) {
	n.events.Add(time.Now(), events.Event{Kind: kind, Subject: subject, Detail: detail})
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (n *Node) onOutage(err error) {
	n.updateStatus(func(s *Status) {
		s.Store.note(err, time.Now())
		if err != nil {
			n.ledger.tally.outages++
		}
	})
	if err != nil {
		n.happened(events.StoreLost, "", oneLine(err))
		return
	}
	n.happened(events.StoreBack, "", "")
}

// tellDoubt tells of a doubt that begins or ends; since is that of before.
func (n *Node) tellDoubt(since time.Time, doubts []subnet.Doubt) {
	switch {
	case since.IsZero() && len(doubts) > 0:
		n.happened(events.StoreDoubted, "", doubts[0].Reason)
	case !since.IsZero() && len(doubts) == 0:
		n.happened(events.StoreConfirmed, "", "")
	}
}

// tellUplink tells of another interface or address than before.
func (n *Node) tellUplink(next backend.Uplink) {
	was := n.view.uplink
	if was.Iface == next.Iface && slices.Equal(was.Local, next.Local) && slices.Equal(was.Public, next.Public) {
		return
	}
	n.happened(events.UplinkChosen, next.Iface, joined(next.Local))
}

// turnover is which peers came, changed and left.
type turnover struct{ came, changed, left events.Few }

// note compares what was made for a lease before, nil for nothing, with what it
// is now. That the host has changed is nothing of the peer's.
func (t *turnover) note(old *piece, l *subnet.Lease) {
	switch {
	case old == nil:
		t.came.Note(l.ID, peerName(*l))
	case old.revision != stale:
		t.changed.Note(l.ID, peerName(*l))
	}
}

// take gives the events since it was called last.
func (t *turnover) take() (out []events.Event) {
	t.came.Kind, t.changed.Kind, t.left.Kind = events.PeerCame, events.PeerChanged, events.PeerLeft
	out = slices.Concat(t.left.Events(), t.changed.Events(), t.came.Events())
	*t = turnover{}
	return out
}

// tellPeers tells which peers came, changed and left, and which are skipped and
// were not, or for another reason.
func (n *Node) tellPeers(skipped []subnet.Skipped) {
	now, before := time.Now(), n.view.admitted.skipped
	moves := n.pieces.turnover.take()
	if len(moves) > 0 {
		n.mu.Lock()
		n.ledger.tally.heard = n.view.heard
		n.mu.Unlock()
		n.probes.renew()
	}
	if slices.Equal(skipped, before) && (len(skipped) == 0 || len(moves) == 0) {
		n.events.Add(now, moves...)
		return
	}
	was, is := reasons(before), reasons(skipped)
	moves = slices.DeleteFunc(moves, func(e events.Event) bool {
		if e.Kind == events.PeerLeft {
			return was[e.Subject] != ""
		}
		return is[e.Subject] != "" // it neither came nor changed
	})
	fresh, free := events.Few{Kind: events.PeerSkipped}, events.Few{Kind: events.PeerCame}
	for _, s := range skipped {
		if was[s.ID] != is[s.ID] {
			fresh.Note(s.ID, is[s.ID])
		}
	}
	for _, e := range moves {
		delete(was, e.Subject) // is told
	}
	for i := range n.pieces.peers {
		if id := n.pieces.peers[i].id; was[id] != "" && is[id] == "" {
			free.Note(id, "")
		}
	}
	n.events.Add(now, slices.Concat(moves, free.Events(), fresh.Events())...)
}

// reasons are why leases don't count, by lease.
func reasons(skipped []subnet.Skipped) map[string]string {
	out := make(map[string]string, len(skipped))
	for _, s := range skipped {
		out[s.ID] = s.Field + " " + s.Reason
	}
	return out
}

// tellRound tells what the loop has repaired, and what it can't write. The blows
// of a fight are left out: there are a few a second.
func (n *Node) tellRound(
	r reconcile.Round, fought bool, fights []reconcile.Fight, refused []*dataplane.OpError, conflicts []dataplane.Op,
) {
	var out []events.Event
	if !fought {
		out = repairs(r)
	}
	few := events.Few{Kind: events.Fight}
	for _, f := range fights {
		few.Note(f.Entry, f.By)
	}
	out = append(out, few.Events()...)
	few = events.Few{Kind: events.Refused}
	for _, f := range refused {
		few.Note(f.Op.Entry(), oneLine(f.Err))
	}
	out = append(out, few.Events()...)
	few = events.Few{Kind: events.Conflict}
	for _, op := range conflicts {
		few.Note(op.Entry(), conflictText(op))
	}
	n.events.Add(time.Now(), append(out, few.Events()...)...)
}

// wrong says what an op has put right.
func wrong(op dataplane.Op) string {
	switch op.Verb {
	case dataplane.Create:
		return "was missing"
	case dataplane.Delete:
		return "was not wanted"
	}
	return "was changed; now " + strings.TrimPrefix(op.String(), "~ ")
}

// repairs names the entries that a round has repaired if it did nothing else
// and they are few, else their number by kind.
func repairs(r reconcile.Round) (out []events.Event) {
	const named = 6
	if r.Repaired == len(r.Applied.Ops) && r.Repaired <= named {
		few := events.Few{Kind: events.Repaired}
		for _, op := range r.Applied.Ops {
			few.Note(op.Entry(), wrong(op))
		}
		return few.Events()
	}
	for kind, count := range r.Mended {
		out = append(out, events.Event{Kind: events.Repaired, Subject: kind.String(), Count: count})
	}
	slices.SortFunc(out, func(a, b events.Event) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}
