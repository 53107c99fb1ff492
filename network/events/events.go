// Package events keeps what happened on a node, for somebody who looks on.
//
// It owns the kinds of events and a ring of the newest. It refuses to find out
// that something happened, and to write it anywhere: the log has its own words.
package events

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Kind says what happened. The names are stable.
type Kind string

// The kinds of events.
const (
	Started        Kind = "started"         // weftd, on this node
	Ready          Kind = "ready"           // pods can be served
	NotReady       Kind = "not-ready"       // they can't; the detail says why
	PeerCame       Kind = "peer-came"       // its entries are wanted from now on
	PeerChanged    Kind = "peer-changed"    // what it announces, or the path to it
	PeerLeft       Kind = "peer-left"       // its entries go
	PeerSkipped    Kind = "peer-skipped"    // its lease doesn't count; the detail says why
	PeerUnheard    Kind = "peer-unheard"    // probes of it are lost; the detail says where
	PeerHeard      Kind = "peer-heard"      // it answers probes again
	ChecksumsOff   Kind = "checksums-off"   // the network card breaks them: they are computed here
	ChecksumsOn    Kind = "checksums-on"    // they are left to it again
	Repaired       Kind = "repaired"        // entries that somebody had changed or deleted
	Fight          Kind = "fight"           // somebody keeps changing an entry
	Conflict       Kind = "conflict"        // something foreign stands where an entry is needed
	Refused        Kind = "refused"         // the kernel refused an entry
	LeaseTaken     Kind = "lease-taken"     // our own, a new one or again
	UplinkChosen   Kind = "uplink-chosen"   // or another address of it
	ConfigChanged  Kind = "config-changed"  // and is followed
	ConfigRefused  Kind = "config-refused"  // the old one is kept
	StoreLost      Kind = "store-lost"      // it doesn't answer
	StoreBack      Kind = "store-back"      // it answers again
	StoreDoubted   Kind = "store-doubted"   // peers that it no longer has stay for a while
	StoreConfirmed Kind = "store-confirmed" // it is believed again
	Missed         Kind = "missed"          // so many events are no longer in the ring
)

// Event is one thing that happened. The names are stable.
type Event struct {
	Seq     uint64    `json:"seq"` // counts from 1 at the start of the daemon
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	Subject string    `json:"subject,omitempty"` // a lease, an entry, an interface
	Detail  string    `json:"detail,omitempty"`
	Count   int       `json:"count,omitempty"` // of how many this tells; absent: one
}

// String is a line for a person, without the time.
func (e Event) String() string {
	words := []string{string(e.Kind)}
	if e.Count > 0 {
		words = append(words, fmt.Sprint(e.Count))
	}
	if e.Subject != "" {
		words = append(words, e.Subject)
	}
	line := strings.Join(words, " ")
	if e.Detail != "" {
		line += ": " + e.Detail
	}
	return line
}

// Ring holds the newest events. Safe for concurrent use.
type Ring struct {
	size int

	mu     sync.Mutex
	events []Event       // the event with number s is at (s-1) % size
	last   uint64        // the number of the newest; 0: none yet
	more   chan struct{} // closed by the next Add; nil: nobody waits
}

// New makes a ring of so many events.
func New(size int) *Ring { return &Ring{size: size} }

// Add appends events, which get their numbers and the time.
func (r *Ring) Add(at time.Time, events ...Event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		r.last++
		e.Seq, e.Time = r.last, at
		if len(r.events) < r.size {
			r.events = append(r.events, e)
		} else {
			r.events[(e.Seq-1)%uint64(r.size)] = e
		}
	}
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// After gives the events with a higher number, oldest first, and a channel that
// is closed when there are more. What is no longer in the ring is told by an
// event of the kind Missed. A number from the future, as from another run of
// the daemon, counts as 0.
func (r *Ring) After(seq uint64) ([]Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more == nil {
		r.more = make(chan struct{})
	}
	if seq > r.last {
		seq = 0
	}
	var out []Event
	if oldest := r.last - uint64(len(r.events)); seq < oldest {
		first := r.events[oldest%uint64(r.size)]
		out = append(out, Event{Seq: oldest, Time: first.Time, Kind: Missed, Count: int(oldest - seq)}) //nolint:gosec // few
		seq = oldest
	}
	for ; seq < r.last; seq++ {
		out = append(out, r.events[seq%uint64(r.size)])
	}
	return out, r.more
}

// Few tells of each of some subjects, and of further ones by their number alone.
type Few struct {
	Kind   Kind
	events []Event
	more   int
}

// fewAtOnce is how many subjects are named one by one.
const fewAtOnce = 16

// Note adds a subject.
func (f *Few) Note(subject, detail string) {
	if len(f.events) == fewAtOnce {
		f.more++
		return
	}
	f.events = append(f.events, Event{Subject: subject, Detail: detail})
}

// Events gives what there is to tell.
func (f *Few) Events() []Event {
	for i := range f.events {
		f.events[i].Kind = f.Kind
	}
	if f.more == 0 {
		return f.events
	}
	return append(f.events, Event{Kind: f.Kind, Count: f.more, Detail: "more at the same time"})
}
