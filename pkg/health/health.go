// Package health tells other programs whether this one can do its work.
//
// It owns the set of named conditions that make up readiness, the parts that
// have to answer for the program to be alive, and the HTTP answers /healthz,
// /livez and /readyz. It refuses to decide when a condition holds,
// and it writes no log.
package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

var errUnheard = errors.New("no part of it has reported yet")

// State is what is known about each condition. Safe for concurrent use.
type State struct {
	mu         sync.Mutex
	conditions map[string]error
	turned     chan struct{} // closed when a condition comes or goes
	pulses     map[string]*pulse
}

// New makes a State that is not ready: nothing was reported yet.
func New() *State {
	return &State{conditions: map[string]error{}, turned: make(chan struct{}), pulses: map[string]*pulse{}}
}

// Set reports a condition: nil means that it holds, an error why it does not.
func (s *State) Set(condition string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, heard := s.conditions[condition]; !heard || (was == nil) != (err == nil) {
		close(s.turned)
		s.turned = make(chan struct{})
	}
	s.conditions[condition] = err
}

// Ready gives nil if every condition that was ever reported holds, else why not.
func (s *State) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready("")
}

// ready leaves one condition out.
func (s *State) ready(but string) error {
	var errs []error
	heard := false
	for _, c := range slices.Sorted(maps.Keys(s.conditions)) {
		if c == but {
			continue
		}
		heard = true
		if err := s.conditions[c]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c, err))
		}
	}
	if !heard {
		return errUnheard
	}
	return errors.Join(errs...)
}

// Await blocks until every condition but this one was reported and holds, for
// who makes the last one true. It returns nil, or ctx.Err().
func (s *State) Await(ctx context.Context, but string) error {
	for {
		s.mu.Lock()
		err, turned := s.ready(but), s.turned
		s.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reasons is Ready as text, one line per condition that does not hold; empty
// means ready.
func (s *State) Reasons() []string {
	err := s.Ready()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var lines []string
	for _, e := range joined.Unwrap() {
		lines = append(lines, strings.ReplaceAll(e.Error(), "\n", "; "))
	}
	return lines
}

// Serve answers at addr ("127.0.0.1:8081") until ctx ends; it returns
// ctx.Err(), or why it can't listen or go on.
func Serve(ctx context.Context, addr string, s *State) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve health checks: %w; choose another --healthz-ip or --healthz-port", err)
	}
	return serve(ctx, listener, s)
}

func serve(ctx context.Context, listener net.Listener, s *State) error {
	const patience = 5 * time.Second // a probe is one small request
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute,
		MaxHeaderBytes: 4 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health checks on %s: %w", listener.Addr(), err)
	}
	return ctx.Err()
}
