// Package commands holds programs as wanted state: what must have been run,
// what was run, and the one step that leads from the one to the other.
//
//	wanted, no record          do       Doing ─→ Done, or tried again
//	Done, and as wanted        nothing
//	Done, and not as wanted    undo     Undoing ─→ no record
//	Doing, and nobody knows    undo     it may have been half done
//
// It is pure; package runner below it runs programs and keeps the records. It
// refuses to know what programs do: nobody looks whether it still stands.
package commands

import (
	"fmt"
	"reflect"
	"strings"
)

// Command is one program with all that it gets. The zero one is none.
type Command struct {
	Argv  []string
	Env   []string `json:",omitempty"` // NAME=value, beside PATH
	Stdin string   `json:",omitempty"` // a newline is added
}

// None tells whether there is nothing to run.
func (c Command) None() bool { return len(c.Argv) == 0 }

// String is what one would type, without what is in environment and stdin.
func (c Command) String() string {
	words := make([]string, len(c.Argv))
	for i, w := range c.Argv {
		if words[i] = w; w == "" || strings.ContainsAny(w, " \t\n'\"\\$;|&<>()`*?") {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// Task is what must have been run, and what takes it back.
type Task struct {
	Do, Undo Command
	After    string `json:",omitempty"` // the task that must be done before; "" for none
}

// Phase is how far a task is.
type Phase string

// A phase is recorded before its program starts, so that a crash is seen.
const (
	Doing   Phase = "doing"
	Done    Phase = "done"
	Undoing Phase = "undoing"
)

// Record is what is known of a task that was begun.
type Record struct {
	Task   Task
	Phase  Phase
	Output string // what Do wrote to stdout, without white space around it
}

// Is tells whether the task is done, and just so.
func (r Record) Is(t Task) bool { return r.Phase == Done && reflect.DeepEqual(r.Task, t) }

// Step is what to do next about one task.
type Step int

// The steps.
const (
	Rest Step = iota
	Do
	Undo
)

// String is for logs and statuses.
func (s Step) String() string { return [...]string{"rest", "do", "undo"}[s] }

// Next gives the step from what is recorded to what is wanted; nil is absent.
// As long as it is not sure that the wanted is all that is wanted, what was done
// stays.
func Next(want *Task, have *Record, sure bool) Step {
	switch {
	case have == nil && want == nil:
		return Rest
	case have == nil:
		return Do
	case have.Phase == Doing, have.Phase == Undoing:
		return Undo
	case want != nil && have.Is(*want), !sure:
		return Rest
	default:
		return Undo
	}
}

// Failure is a step that did not succeed, and is going to be tried again unless
// it is an Undo that was given up.
type Failure struct {
	Name    string
	Step    Step
	Command Command
	Reason  string
}

// Error names the program and the reason.
func (f Failure) Error() string { return fmt.Sprintf("%s: %s", f.Command, f.Reason) }
