// Package runner runs wanted programs, and keeps records of what was run.
//
//	Want ─→ wanted ┐
//	               ├─ commands.Next ─→ a few programs at once, with a time limit
//	records ───────┘                         │
//	   ▲                                     │
//	   └─────────────────────────────────────┘
//
// It owns the processes and the directory of records. A program that fails or
// hangs holds up nobody but the task that waits for it. It refuses to decide
// what is wanted, and to look whether what a program did still stands.
package runner

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/pkg/commands"
)

// Options say where and how.
type Options struct {
	Dir     string        // of the records; "" keeps none
	Boot    string        // of which boot they must be: what programs did is gone with a reboot
	Timeout time.Duration // of one program; 0: 30 s
	// Exec runs one program and gives what it wrote to stdout; nil: as a process.
	Exec func(context.Context, commands.Command) (string, error)
}

const (
	defaultTimeout = 30 * time.Second
	parallel       = 8 // programs at once
	// undoTries: what an Undo removes may be gone already, and that looks like
	// any other failure.
	undoTries   = 3
	longestWait = time.Minute
)

// Runner runs programs. Its methods may be called from any goroutine.
type Runner struct {
	opts    Options
	records records
	onEnd   func(name string, f *commands.Failure)

	wake chan struct{}

	mu   sync.Mutex
	want map[string]commands.Task
	sure bool
	jobs map[string]*job
}

// job is a task that was begun.
type job struct {
	record  *commands.Record // nil: nothing is known to have been run
	running bool
	tries   int // failures in a row
	next    time.Time
	failure *commands.Failure
}

// New makes a runner, and reads what was run before. With an error it knows
// less than was run.
func New(opts Options) (*Runner, error) {
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Exec == nil {
		opts.Exec = execute
	}
	r := &Runner{
		opts: opts, records: records{opts.Dir, opts.Boot}, onEnd: func(string, *commands.Failure) {},
		wake: make(chan struct{}, 1), jobs: map[string]*job{},
	}
	was, stale, err := r.records.load()
	for name, record := range was {
		r.jobs[name] = &job{record: &record}
	}
	for _, path := range stale {
		err = errors.Join(err, os.Remove(path))
	}
	return r, err
}

// Want says which tasks must be done. As long as it is not sure that these are
// all, none is undone.
func (r *Runner) Want(tasks map[string]commands.Task, sure bool) {
	r.mu.Lock()
	r.want, r.sure = maps.Clone(tasks), sure
	r.mu.Unlock()
	r.poke()
}

func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Done tells whether a task is done, just so, and what its program wrote.
func (r *Runner) Done(name string, t commands.Task) (output string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[name]; j != nil && j.record != nil && j.record.Is(t) {
		return j.record.Output, true
	}
	return "", false
}

// Failures are the tasks whose last step did not succeed, by name.
func (r *Runner) Failures() []commands.Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []commands.Failure
	for _, name := range slices.Sorted(maps.Keys(r.jobs)) {
		if f := r.jobs[name].failure; f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// Run works until ctx ends. Programs that run then are stopped, and undone and
// run again by the next start. It must be called once. onEnd is told of each step
// that ended, nil where it succeeded; it must not block.
func (r *Runner) Run(ctx context.Context, onEnd func(name string, f *commands.Failure)) error {
	r.onEnd = onEnd
	var all sync.WaitGroup
	defer all.Wait()
	free := make(chan struct{}, parallel)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.begin(ctx, &all, free))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// begin starts every step that is due, and tells when to look again.
func (r *Runner) begin(ctx context.Context, all *sync.WaitGroup, free chan struct{}) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.want {
		if r.jobs[name] == nil {
			r.jobs[name] = &job{}
		}
	}
	wait := time.Hour
	for _, name := range slices.Sorted(maps.Keys(r.jobs)) {
		j := r.jobs[name]
		step, task := r.next(name, j)
		switch {
		case j.running:
		case step == commands.Rest:
			if j.failure = nil; j.record == nil && !r.wanted(name) {
				delete(r.jobs, name)
			}
		case time.Until(j.next) > 0:
			wait = min(wait, time.Until(j.next))
		default:
			select {
			case free <- struct{}{}:
			default:
				continue // the one that ends looks again
			}
			j.running = true
			all.Go(func() {
				defer r.poke()
				defer func() { <-free }()
				r.step(ctx, name, j, step, task)
			})
		}
	}
	return wait
}

func (r *Runner) wanted(name string) bool {
	_, ok := r.want[name]
	return ok
}

// next is the step of a task that is not running, and whose programs it is.
func (r *Runner) next(name string, j *job) (commands.Step, commands.Task) {
	var want *commands.Task
	if t, ok := r.want[name]; ok {
		want = &t
	}
	step := commands.Next(want, j.record, r.sure)
	switch step {
	case commands.Undo:
		return step, j.record.Task
	case commands.Do:
		if want.After != "" {
			before := r.jobs[want.After]
			t, ok := r.want[want.After]
			if !ok || before == nil || before.record == nil || !before.record.Is(t) {
				return commands.Rest, *want
			}
		}
		return step, *want
	}
	return step, commands.Task{}
}

// step runs one program and records what came of it.
func (r *Runner) step(ctx context.Context, name string, j *job, step commands.Step, task commands.Task) {
	r.mu.Lock()
	unknown := j.record != nil && j.record.Phase == commands.Doing
	r.mu.Unlock()
	phase, command := commands.Doing, task.Do
	if step == commands.Undo {
		command = task.Undo
		if phase = commands.Undoing; unknown {
			phase = commands.Doing // it stays one that may not have happened
		}
	}
	record := &commands.Record{Task: task, Phase: phase}
	if err := r.records.save(name, record); err != nil {
		failure := commands.Failure{Name: name, Step: step, Command: command, Reason: err.Error()}
		r.settle(name, j, outcome{j.record, &failure, true})
		return
	}
	var output string
	var err error
	if !command.None() {
		limited, cancel := context.WithTimeout(ctx, r.opts.Timeout)
		output, err = r.opts.Exec(limited, command)
		hung := limited.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return // what became of it is not known, as the record says
		}
		if hung && err != nil {
			err = errHung(r.opts.Timeout)
		}
	}
	var failure *commands.Failure
	if err != nil {
		failure = &commands.Failure{Name: name, Step: step, Command: command, Reason: err.Error()}
	}
	o := r.judge(j, record, failure, strings.TrimSpace(output))
	if err := r.records.save(name, o.record); err != nil && o.failure == nil {
		o.failure = &commands.Failure{Name: name, Step: step, Command: command, Reason: err.Error()}
	}
	r.settle(name, j, o)
}

// outcome is what a step leads to.
type outcome struct {
	record  *commands.Record // nil: nothing stands
	failure *commands.Failure
	again   bool // the same step, after a pause
}

// judge decides what a program's end means. The record is as it was before.
func (r *Runner) judge(j *job, record *commands.Record, failure *commands.Failure, output string) outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch do := failure == nil || failure.Step == commands.Do; {
	case failure == nil && record.Phase == commands.Undoing:
		return outcome{}
	case j.record != nil && j.record.Phase == commands.Doing: // undone: perhaps there was nothing to undo
		return outcome{failure: j.failure}
	case failure == nil:
		record.Phase, record.Output = commands.Done, output
		return outcome{record: record}
	case do && failure.Reason == errHung(r.opts.Timeout).Error():
		return outcome{record, failure, true} // it may have done a part
	case do:
		return outcome{nil, failure, true} // it said itself that it did not do it
	case j.tries+1 < undoTries:
		return outcome{record, failure, true}
	default:
		failure.Reason += "; given up, what it should have removed may still be there"
		return outcome{failure: failure}
	}
}

// settle notes what came of a step, and when the next may be.
func (r *Runner) settle(name string, j *job, o outcome) {
	r.mu.Lock()
	j.record, j.running, j.failure = o.record, false, o.failure
	j.next = time.Time{}
	switch {
	case o.again:
		j.next = time.Now().Add(min(time.Second<<min(j.tries, 10), longestWait))
		j.tries++
	case o.failure == nil || o.failure.Step == commands.Undo:
		j.tries = 0
	}
	r.mu.Unlock()
	r.onEnd(name, o.failure)
}
