package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// wedged is for how long a part may leave a question unanswered.
	wedged = time.Minute
	// glance is how long whoever asks waits for an answer himself.
	glance = 100 * time.Millisecond
)

// pulse is a part of the program that answers when it turns. It is asked only
// when somebody wants to know, and one question at a time.
type pulse struct {
	ask func() // returns when the part has answered, or ended

	mu     sync.Mutex
	since  time.Time     // the open question's; zero: there is none
	answer chan struct{} // closed with the answer to it
}

// Watch has a part asked whether it still turns. ask blocks until it has
// answered, or until it has been told to end.
func (s *State) Watch(part string, ask func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pulses[part] = &pulse{ask: ask}
}

// Live gives nil if every part that is watched answers, or could not be asked
// for long enough; else which one has not answered for a minute. That is counted
// from the first time that somebody wanted to know.
func (s *State) Live() error {
	var errs []error
	for _, c := range s.vitals() {
		if !c.OK {
			errs = append(errs, fmt.Errorf("%s %s", c.Name, c.Reason))
		}
	}
	return errors.Join(errs...)
}

func (s *State) vitals() []Check {
	s.mu.Lock()
	pulses := maps.Clone(s.pulses)
	s.mu.Unlock()
	checks := []Check{}
	for _, part := range slices.Sorted(maps.Keys(pulses)) {
		c := Check{Name: part, OK: true}
		if silent := pulses[part].feel(); silent >= wedged {
			c.OK, c.Reason = false, "has not answered for "+silent.Round(time.Second).String()
		}
		checks = append(checks, c)
	}
	return checks
}

// feel asks, if no question is open, and gives for how long one has been.
func (p *pulse) feel() time.Duration {
	p.mu.Lock()
	if p.since.IsZero() {
		answer := make(chan struct{})
		p.since, p.answer = time.Now(), answer
		go func() {
			p.ask()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.since = time.Time{}
			close(answer)
		}()
	}
	since, answer := p.since, p.answer
	p.mu.Unlock()
	patience := time.NewTimer(glance)
	defer patience.Stop()
	select {
	case <-answer:
		return 0
	case <-patience.C:
		return time.Since(since)
	}
}
