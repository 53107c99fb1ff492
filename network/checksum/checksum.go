// Package checksum decides whether a tunnel's device may leave the checksums of
// what it carries to the network card. Pure: it sends nothing, and is told the
// time.
//
//	          an answer is missing       peer answers the finished one only, 6 times in a row
//	watching ──────────────────→ comparing ──────────────────────────────→ off
//	   ▲ ▲                           │                                     │  ▲
//	   │ └───── any other outcome ───┘                       an hour later ▼  │ still so, or no answer
//	   └──────────────────── packets pass, 3 times in a row ─────────── retrying
//
// It owns the proof: the same datagram to the same peer at the same moment, once
// with the checksum left to the device and once with a finished one. Whatever
// else is wrong between two nodes takes both. It refuses to judge by one peer's
// silence, and to switch anything that it has not switched itself.
package checksum

import (
	"context"
	"net/netip"
	"time"

	"github.com/weftnet/weft/pkg/offload"
)

// Mode is what an operator wants.
type Mode string

// The modes. Auto leaves a device as it is until it is proved that it must not.
const (
	Auto Mode = "auto"
	On   Mode = "on"
	Off  Mode = "off"
)

// Options are what auto needs.
type Options struct {
	Mode Mode // --vxlan-checksum-offload; empty: auto
	// Knock sends a datagram to a peer, with its checksum left to the device or
	// finished, and tells whether an answer came before ctx ended; nil: auto does
	// nothing.
	Knock func(ctx context.Context, to netip.Addr, finished bool) (answered bool, err error)
}

// Auto tells whether anything is looked for.
func (o Options) Auto() bool { return o.Knock != nil && (o.Mode == "" || o.Mode == Auto) }

// Status is a device that is not to leave checksums to the network card. The
// names are stable.
type Status struct {
	Device string    `json:"device"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since,omitzero"`
	Again  time.Time `json:"again,omitzero"` // it is tried whether that is still needed
}

// Known tells whether there is such a mode.
func (m Mode) Known() bool { return m == Auto || m == On || m == Off }

const (
	every    = 20 * time.Second // until the next peer is sent a datagram instead of an echo
	turn     = 20 * time.Second // and for so long no peer gets a second one, if there may be others
	muteness = time.Hour        // a peer that answers no datagrams is not sent any for so long
	pace     = 2 * time.Second  // between two comparisons: a peer may refuse one datagram a second
	proofs   = 6                // comparisons in a row that convict
	settle   = time.Second      // until the device is as it is wanted
	passes   = 3                // comparisons in a row that acquit who was convicted
	relapses = 2                // comparisons in all that convict again
	firstTry = time.Hour        // until it is tried again; doubled each time that it is still so
	lastTry  = 8 * time.Hour    // and no more than that
	probable = 24 * time.Hour   // an acquittal so long ago counts
)

type phase uint8

const (
	watching phase = iota
	comparing
	off
	retrying
)

// Judge decides for one device. Not safe for concurrent use. Its zero value
// begins by watching.
type Judge struct {
	// Jitter, from 0 to 1, spreads the tries of many nodes over a fifth of the time.
	Jitter float64

	phase    phase
	peer     netip.Addr // that is compared, or whose answers convicted
	due      time.Time  // of the next datagram, comparison or try
	rounds   int        // comparisons of this phase that were begun
	good     int        // in a row
	bad      int        // in a row while comparing, in all while retrying
	unknown  int
	since    time.Time // of the conviction
	hold     time.Duration
	released time.Time // of the last acquittal
	mute     map[netip.Addr]time.Time
	asked    map[netip.Addr]bool // who had a turn
}

// Takes tells whether a peer that is well shall be sent a datagram now, with its
// checksum left to the device, instead of an echo. Answered must be told then.
func (j *Judge) Takes(peer netip.Addr, now time.Time) bool {
	if j.phase == off && !j.peer.IsValid() {
		j.peer = peer
	}
	if j.phase != watching || now.Before(j.due) || now.Before(j.mute[peer]) {
		return false
	}
	if j.asked[peer] && now.Sub(j.due) < turn {
		return false
	}
	if j.asked[peer] || j.asked == nil {
		j.asked = map[netip.Addr]bool{}
	}
	j.asked[peer] = true
	j.due = now.Add(every)
	return true
}

// Answered takes what came of that datagram.
func (j *Judge) Answered(peer netip.Addr, answered bool, now time.Time) {
	if j.phase != watching || answered {
		return
	}
	j.enter(comparing, now)
	j.peer = peer
}

func (j *Judge) enter(p phase, due time.Time) {
	j.phase, j.due = p, due
	j.rounds, j.good, j.bad, j.unknown = 0, 0, 0, 0
}

// Pair is a comparison to make: two datagrams to one peer at the same moment.
type Pair struct {
	Peer netip.Addr
	// FinishedFirst says which goes first: a peer that refuses only one of two
	// must not decide.
	FinishedFirst bool
}

// Outcome is which of the two were answered.
type Outcome struct{ Left, Finished bool }

// Next gives the comparison that is due, if one is, and Compared must be told
// then. Wait is until when to come again; 0: nothing is to be compared.
func (j *Judge) Next(now time.Time) (pair Pair, ok bool, wait time.Duration) {
	switch {
	case j.phase == off && j.peer.IsValid() && !now.Before(j.due):
		j.enter(retrying, now.Add(settle))
		return Pair{}, false, settle
	case j.phase == watching || j.phase == off:
		return Pair{}, false, 0
	case now.Before(j.due):
		return Pair{}, false, j.due.Sub(now)
	}
	j.rounds++
	j.due = now.Add(pace)
	return Pair{j.peer, j.rounds%2 == 0}, true, 0
}

// Compared takes the outcome of a comparison.
func (j *Judge) Compared(o Outcome, now time.Time) {
	switch j.phase {
	case comparing:
		j.compared(o, now)
	case retrying:
		j.retried(o, now)
	}
}

func (j *Judge) compared(o Outcome, now time.Time) {
	switch {
	case o.Left: // it was lost by chance
		j.enter(watching, now.Add(every))
		return
	case !o.Finished:
		if j.bad == 0 {
			j.mutes(j.peer, now)
		}
		j.enter(watching, now.Add(pace)) // another peer may tell more
		return
	}
	if j.bad++; j.bad < proofs {
		return
	}
	switch {
	case j.hold == 0 || now.Sub(j.released) > probable:
		j.hold = firstTry
	default:
		j.hold = min(2*j.hold, lastTry)
	}
	j.since = now
	j.enter(off, now.Add(j.spread()))
}

// mutes notes a peer that answers no datagrams, and forgets those that may by now.
func (j *Judge) mutes(peer netip.Addr, now time.Time) {
	if j.mute == nil {
		j.mute = map[netip.Addr]time.Time{}
	}
	for p, until := range j.mute {
		if !now.Before(until) {
			delete(j.mute, p)
		}
	}
	j.mute[peer] = now.Add(muteness)
}

func (j *Judge) spread() time.Duration {
	return j.hold - time.Duration(j.Jitter*float64(j.hold)/5)
}

func (j *Judge) retried(o Outcome, now time.Time) {
	switch {
	case o.Left:
		j.good++
	case o.Finished:
		j.good, j.bad = 0, j.bad+1
	default:
		j.good, j.unknown = 0, j.unknown+1
	}
	switch {
	case j.good >= passes:
		j.released = now
		j.enter(watching, now.Add(every))
	case j.bad >= relapses:
		j.hold = min(2*j.hold, lastTry)
		j.enter(off, now.Add(j.spread()))
	case j.unknown >= passes: // the peer is away: that says nothing
		j.enter(off, now.Add(j.spread()))
	}
}

// Meet says who the peers are. One that convicted, and is no more, leaves its
// place to another.
func (j *Judge) Meet(known func(netip.Addr) bool) {
	if !j.peer.IsValid() || known(j.peer) {
		return
	}
	j.peer = netip.Addr{}
	if j.phase == comparing {
		j.enter(watching, time.Time{})
	}
	if j.phase == retrying {
		j.enter(off, j.due)
	}
}

// Reconsider says that the network card is another one.
func (j *Judge) Reconsider(now time.Time) {
	switch j.phase {
	case off:
		j.due = now
	case comparing:
		j.enter(watching, now)
	}
}

// Wish is what the device shall do. While nothing is proved that is what it
// does, whoever set it.
func (j *Judge) Wish() offload.Setting {
	switch j.phase {
	case off:
		return offload.Off
	case retrying:
		return offload.On
	}
	return offload.AsIs
}

// Due tells whether there is something to compare, or to begin with.
func (j *Judge) Due(now time.Time) bool {
	switch j.phase {
	case off:
		return j.peer.IsValid() && !now.Before(j.due)
	case comparing, retrying:
		return true
	}
	return false
}

// Verdict is a conviction: what outlives the process, and what there is to tell.
type Verdict struct {
	Peer  netip.Addr    `json:"peer,omitzero"` // that convicted; invalid: it is no peer any more
	Since time.Time     `json:"since"`
	Again time.Time     `json:"again"` // it is tried then
	Hold  time.Duration `json:"hold"`  // nanoseconds
}

// Verdict gives the conviction that holds, also while it is tried whether it
// still does.
func (j *Judge) Verdict() (v Verdict, convicted bool) {
	if j.phase != off && j.phase != retrying {
		return Verdict{}, false
	}
	return Verdict{Peer: j.peer, Since: j.since, Again: j.due, Hold: j.hold}, true
}

// Restore goes on with a conviction of another process.
func (j *Judge) Restore(v Verdict) {
	j.enter(off, v.Again)
	j.peer, j.since, j.hold = v.Peer, v.Since, max(v.Hold, firstTry)
}
