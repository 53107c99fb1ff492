package cnifiles

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settleTime = 100 * time.Millisecond // several changes at once are one
	fightTime  = 30 * time.Second       // who changes our files twice in this time fights us
	longest    = 10 * time.Second       // between two answers in a fight
	retryTime  = 5 * time.Second        // what the file system refused is tried again
	slowTime   = time.Minute            // what no notification told is found
)

// Run installs, and looks again whenever something changes around the files,
// until ctx ends. Each look is reported; report must not block. The error is
// ctx.Err().
func (i *Installer) Run(ctx context.Context, report func(Report)) error {
	i.sweep()
	// Without notifications, as where there are no inotify instances left, the
	// slow look does it alone.
	watcher, _ := fsnotify.NewWatcher()
	var events <-chan fsnotify.Event
	var failures <-chan error
	if watcher != nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
	}
	p := pace{wait: settleTime}
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failures: // events were lost
			due = p.soon(timer, due, err != nil)
		case <-events:
			due = p.soon(timer, due, true)
		case now := <-timer.C:
			i.watch(watcher)
			r := i.Install()
			i.watch(watcher) // directories that were made
			report(r)
			pause := p.next(r, now)
			due = time.Now().Add(pause)
			timer.Reset(pause)
		}
	}
}

// pace is how soon a change is answered: at once, but whoever undoes what we
// do, again and again, finds us slower each time.
type pace struct {
	wait  time.Duration
	wrote time.Time
}

// soon makes the next look due after the wait, unless it is earlier already.
func (p *pace) soon(timer *time.Timer, due time.Time, something bool) time.Time {
	at := time.Now().Add(p.wait)
	if !something || due.Before(at) {
		return due
	}
	timer.Reset(p.wait)
	return at
}

// next takes a look into account, and gives when the next one is due though
// nothing happens.
func (p *pace) next(r Report, now time.Time) time.Duration {
	again := now.Sub(p.wrote) < fightTime
	switch {
	case len(r.Wrote) > 0 && again:
		p.wait = min(2*p.wait, longest)
	case !again:
		p.wait = settleTime
	}
	if len(r.Wrote) > 0 {
		p.wrote = now
	}
	if r.Err != nil {
		return retryTime
	}
	return slowTime
}

// watch follows the directories, again where one was replaced.
func (i *Installer) watch(w *fsnotify.Watcher) {
	if w == nil {
		return
	}
	for _, dir := range []string{i.opts.BinDir, filepath.Dir(i.opts.Target), filepath.Dir(i.opts.Source)} {
		_ = w.Add(dir) // one that is not there yet is found by the slow look
	}
}
