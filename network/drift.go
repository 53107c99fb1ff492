package network

import (
	"maps"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// drift is what others did to our entries. The zero value is ready to use.
type drift struct {
	repaired int                  // entries since the start
	mended   map[string]int       // the same by kind
	seen     map[string]time.Time // entries that somebody keeps changing, and when that was so last
	told     map[string]time.Time // and was logged last
	by       map[string]string    // who does it, where the kernel tells
	// conflicts are wanted entries where something foreign stands, and what to do.
	conflicts map[string]string
}

const (
	// fightEnds is how long an entry counts as fought over when it is left in
	// peace, and fightTold how often the log names it.
	fightEnds = 5 * time.Second
	fightTold = time.Minute
)

// note adds a round, and gives the fights that the log has not named lately.
func (d *drift) note(r reconcile.Round, now time.Time) (tell []reconcile.Fight) {
	d.count(r)
	if len(r.Fights) > 0 && d.seen == nil {
		d.seen, d.told, d.by = map[string]time.Time{}, map[string]time.Time{}, map[string]string{}
	}
	old := func(after time.Duration) func(string, time.Time) bool {
		return func(_ string, at time.Time) bool { return now.Sub(at) >= after }
	}
	maps.DeleteFunc(d.told, old(fightTold))
	maps.DeleteFunc(d.seen, old(fightEnds))
	maps.DeleteFunc(d.by, func(entry, _ string) bool { return d.seen[entry].IsZero() })
	for _, f := range r.Fights {
		if d.seen[f.Entry] = now; f.By != "" {
			d.by[f.Entry] = f.By
		}
		if _, lately := d.told[f.Entry]; !lately {
			d.told[f.Entry] = now
			tell = append(tell, f)
		}
	}
	return tell
}

// count adds a round's repairs, and keeps the conflicts of all that was read.
func (d *drift) count(r reconcile.Round) {
	if d.mended == nil {
		d.mended, d.conflicts = map[string]int{}, map[string]string{}
	}
	d.repaired += r.Repaired
	for kind, n := range r.Mended {
		d.mended[kind.String()] += n
	}
	if r.Err != nil {
		return
	}
	if r.Full {
		clear(d.conflicts)
	}
	for _, op := range r.Applied.Ops {
		if len(d.conflicts) == 0 {
			break // nearly always: don't name thousands of entries for nothing
		}
		delete(d.conflicts, op.Entry())
	}
	for _, op := range r.Left.Conflicts {
		d.conflicts[op.Entry()] = conflictText(op)
	}
}

// mend counts repairs that are not the loop's.
func (d *drift) mend(kind string, n int) {
	if d.mended == nil {
		d.mended, d.conflicts = map[string]int{}, map[string]string{}
	}
	d.repaired += n
	d.mended[kind] += n
}

// fill copies what status tells.
func (d *drift) fill(s *Status, now time.Time) {
	s.Repaired, s.RepairedKinds = d.repaired, maps.Clone(d.mended)
	s.Fights, s.Fighters = d.fights(now), nil
	for _, entry := range s.Fights {
		if who := d.by[entry]; who != "" {
			if s.Fighters == nil {
				s.Fighters = map[string]string{}
			}
			s.Fighters[entry] = who
		}
	}
	s.Conflicts = maps.Clone(d.conflicts)
}

// fights are the entries that somebody keeps changing, in order.
func (d *drift) fights(now time.Time) (entries []string) {
	for entry, at := range d.seen {
		if now.Sub(at) < fightEnds {
			entries = append(entries, entry)
		}
	}
	slices.Sort(entries)
	return entries
}

func (n *Node) logFights(fights []reconcile.Fight) {
	for i, f := range fights {
		if i == maxLogged {
			n.opts.Log.WithField("more", len(fights)-i).Warn("somebody keeps changing further entries; see weftctl plan")
			return
		}
		log := n.opts.Log.WithFields(logrus.Fields{"entry": f.Entry, "repaired": f.Repairs})
		if f.By != "" {
			log.WithField("by", f.By).Warn("somebody keeps changing an entry of weft's; it is put right a few times " +
				"a second only: make him leave it alone")
			continue
		}
		log.Warn("somebody keeps changing an entry of weft's; it is put right a few times a second only: " +
			"find him (ip monitor all, nft monitor) and make him leave it alone")
	}
}
