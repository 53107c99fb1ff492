package backendtest

import (
	"fmt"
	"testing"

	"github.com/weftnet/weft/backend"
)

// The laws of a backend that has programs run.

func tasksText(b backend.Commander, c Case) string {
	startup, err := b.Startup(c.Host.Config)
	out := fmt.Sprintln(startup, err)
	ours, err := b.Ours(c.Host)
	out += fmt.Sprintln(ours, err)
	for _, l := range c.Peers {
		t, err := b.For(c.Host, l)
		out += fmt.Sprintln(t, err)
	}
	return out
}

// ownTasks: what is run for one peer is not run for another, and a lease that
// Peer refuses has nothing run for it.
func ownTasks(t *testing.T, b backend.Commander, c Case) {
	seen := map[string]string{}
	for _, l := range c.Peers {
		task, err := b.For(c.Host, l)
		if err != nil || task.Do.None() {
			t.Fatalf("peer %s: nothing to run, %v", l.ID, err)
		}
		text := fmt.Sprint(task)
		if other := seen[text]; other != "" {
			t.Errorf("peers %s and %s have one task: %s", other, l.ID, text)
		}
		seen[text] = l.ID
	}
	for _, bad := range c.Bad {
		if task, err := b.For(c.Host, bad.Lease); err == nil || !task.Do.None() {
			t.Errorf("%s: a task, %v: %v", bad.Name, task, err)
		}
	}
}
