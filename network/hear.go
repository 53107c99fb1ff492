package network

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/subnet"
)

// watchStore keeps the store's snapshots coming.
func (n *Node) watchStore(ctx context.Context, to chan<- subnet.Snapshot) error {
	for attempt := 0; ; attempt++ {
		err := n.opts.Store.Watch(ctx, to)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.opts.Log.WithError(err).Warn("watching the store ended; trying again")
		n.mu.Lock()
		n.ledger.tally.watchRestarts++
		n.mu.Unlock()
		if !sleep(ctx, backoff(attempt)) {
			return ctx.Err()
		}
	}
}

// hear takes a snapshot from the store, as far as it is credible.
func (n *Node) hear(s subnet.Snapshot) {
	v := &n.view
	v.heard = time.Now()
	age := time.Duration(0)
	if !v.doubted.IsZero() {
		age = time.Since(v.doubted)
	}
	believed, doubts := subnet.Believe(v.believed, s, age)
	kept := 0
	for _, d := range doubts {
		kept = d.Kept
		n.once("doubt "+d.Reason, func(log logrus.FieldLogger) {
			log.WithFields(logrus.Fields{"reason": d.Reason, "kept": d.Kept, "for": d.Left.Round(time.Second).String()}).
				Warn("the store's content is in doubt; peers that it no longer has stay until it is confirmed")
		})
	}
	n.tellDoubt(v.doubted, doubts)
	switch {
	case len(doubts) == 0:
		v.doubted = time.Time{}
	case v.doubted.IsZero() || kept > v.kept:
		v.doubted = time.Now()
	}
	v.kept = kept
	n.logMalformed(s.Malformed)
	n.configChange(&believed)
	if v.confirmed {
		v.lingering.Note(v.believed.Leases, believed.Leases, time.Now())
	}
	v.believed = believed
	v.confirmed, v.changed = true, true
	n.updateStatus(func(st *Status) { st.Store.fill(s, len(doubts) > 0) })
}

func (n *Node) logMalformed(bad []subnet.Skipped) {
	for _, b := range bad {
		n.once("malformed "+b.String(), func(log logrus.FieldLogger) {
			log.WithFields(logrus.Fields{"entry": b.ID, "field": b.Field, "reason": b.Reason}).
				Warn("an entry of the store can't be read, and is left out until it is mended or gone")
		})
	}
}
