package probe

import (
	"math/bits"
	"time"
)

// path is what is known of one target; there may be 10,000.
type path struct {
	target  Target
	since   time.Time
	visited time.Time
	due     time.Time // of the closer look; zero: none
	rtt     time.Duration
	state   State
	visits  uint32
	history uint16 // newest small probes, a bit each, set: lost
	known   uint8  // how many of them there are
	misses  uint8  // small probes in a row
	bigMiss uint8  // full-sized ones in a row
	under   answer // of the underlay
	suspect bool   // it is among the suspects, if only until Next
}

type answer uint8

const (
	never answer = iota
	missing
	there
)

func (one *path) note(lost bool) {
	one.history <<= 1
	if lost {
		one.history |= 1
	}
	one.known = min(one.known+1, 16)
}

// judge draws the conclusion.
func (one *path) judge(now time.Time) []Change {
	state := OK
	switch {
	case one.misses >= lostTo && one.under == there:
		state = OverlayDown
	case one.misses >= lostTo && one.under == missing:
		state = UnderlayDown
	case one.misses >= lostTo:
		state = Down
	case one.known == 0 || bits.OnesCount16(one.history) == int(one.known):
		state = one.state // nothing was ever heard, and it is too early to say so
	case one.bigMiss >= 2:
		state = BlackHole
	case one.history != 0:
		state = Lossy
	}
	if state == one.state {
		return nil
	}
	from := one.state
	one.state, one.since = state, now
	return []Change{{one.status(), from}}
}

func (one *path) status() Status {
	s := Status{Target: one.target, State: one.state, RTT: one.rtt, Since: one.since}
	if one.known > 0 {
		s.Loss = float64(bits.OnesCount16(one.history)) / float64(one.known)
	}
	return s
}
