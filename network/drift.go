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
	seen     map[string]time.Time // entries that somebody keeps changing, and when that was so last
	told     map[string]time.Time // and was logged last
}

const (
	// fightEnds is how long an entry counts as fought over when it is left in
	// peace, and fightTold how often the log names it.
	fightEnds = 5 * time.Second
	fightTold = time.Minute
)

// note adds a round, and gives the fights that the log has not named lately.
func (d *drift) note(r reconcile.Round, now time.Time) (tell []reconcile.Fight) {
	d.repaired += r.Repaired
	if len(r.Fights) > 0 && d.seen == nil {
		d.seen, d.told = map[string]time.Time{}, map[string]time.Time{}
	}
	old := func(after time.Duration) func(string, time.Time) bool {
		return func(_ string, at time.Time) bool { return now.Sub(at) >= after }
	}
	maps.DeleteFunc(d.told, old(fightTold))
	maps.DeleteFunc(d.seen, old(fightEnds))
	for _, f := range r.Fights {
		d.seen[f.Entry] = now
		if _, lately := d.told[f.Entry]; !lately {
			d.told[f.Entry] = now
			tell = append(tell, f)
		}
	}
	return tell
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
		n.opts.Log.WithFields(logrus.Fields{"entry": f.Entry, "repaired": f.Repairs}).
			Warn("somebody keeps changing an entry of weft's; it is put right a few times a second only: " +
				"find him (ip monitor all, nft monitor) and make him leave it alone")
	}
}
