package network

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/pkg/commands/runner"
	"github.com/weftnet/weft/subnet"
)

// Tasks by name. A lease's ID has no blank in it.
const (
	taskStartup = "PreStartupCommand"
	taskOurs    = "PostStartupCommand"
	taskPeer    = "peer "
)

// CommandsDir is where in a state directory it is recorded what was run.
func CommandsDir(stateDir string) string {
	if stateDir == "" {
		return ""
	}
	return filepath.Join(stateDir, "commands")
}

// conditionCommands is that the programs for this node itself have been run.
const conditionCommands = "commands"

// tasks are the programs that are wanted. Only steer touches them.
type tasks struct {
	startup, ours commands.Task
	peers         map[string]commands.Task
}

// prepared gives the backend of a configuration, and the host as it may decide
// over it: with the output of its startup command, which must have been run.
func (n *Node) prepared(h backend.Host) (backend.Backend, backend.Host, error) {
	b, err := n.backend(h.Config)
	if err != nil {
		return nil, h, err
	}
	c, ok := b.(backend.Commander)
	if !ok {
		return b, h, nil
	}
	startup, err := c.Startup(h.Config)
	if err != nil {
		return nil, h, err
	}
	if startup.Do.None() {
		return b, h, nil
	}
	output, done := n.opts.Commands.Done(taskStartup, startup)
	if !done {
		n.wantTasks(tasks{startup: startup, ours: n.tasks.ours, peers: n.tasks.peers})
		return nil, h, n.unfinished(taskStartup, startup)
	}
	h.Output = output
	return b, h, nil
}

// unfinished says why a task of this node itself is not done yet.
func (n *Node) unfinished(name string, t commands.Task) error {
	for _, f := range n.opts.Commands.Failures() {
		if f.Name == name {
			return fmt.Errorf("%s: %w", name, f)
		}
	}
	return fmt.Errorf("%s: %s has not ended yet", name, t.Do)
}

// tasksFor asks for what must have been run for this node and its peers.
func (n *Node) tasksFor(b backend.Backend, h backend.Host, admitted []subnet.Lease) error {
	c, ok := b.(backend.Commander)
	if !ok {
		n.wantTasks(tasks{})
		return nil
	}
	startup, err := c.Startup(h.Config)
	if err != nil {
		return err
	}
	ours, err := c.Ours(h)
	if err != nil {
		return err
	}
	want := tasks{startup: startup, ours: ours, peers: make(map[string]commands.Task, len(admitted))}
	for _, l := range admitted {
		t, err := c.For(h, l)
		if err != nil {
			continue // Peer has said so
		}
		if !ours.Do.None() {
			t.After = taskOurs
		}
		want.peers[taskPeer+l.ID] = t
	}
	n.wantTasks(want)
	return nil
}

// wantTasks hands over what is wanted. Nothing is undone before the store itself
// has spoken.
func (n *Node) wantTasks(t tasks) {
	n.tasks = t
	if n.opts.Commands == nil {
		return
	}
	all := maps.Clone(t.peers)
	if all == nil {
		all = map[string]commands.Task{}
	}
	if !t.startup.Do.None() {
		all[taskStartup] = t.startup
	}
	if !t.ours.Do.None() {
		all[taskOurs] = t.ours
	}
	n.opts.Commands.Want(all, n.view.confirmed)
}

// judgeCommands tells what became of the programs.
func (n *Node) judgeCommands() {
	if n.opts.Commands == nil {
		return
	}
	var err error
	for name, t := range map[string]commands.Task{taskStartup: n.tasks.startup, taskOurs: n.tasks.ours} {
		if t.Do.None() {
			continue
		}
		if _, done := n.opts.Commands.Done(name, t); !done {
			err = errors.Join(err, n.unfinished(name, t))
		}
	}
	n.opts.Health.Set(conditionCommands, err)
}

// onCommand is told of each step that ended. It must not block.
func (n *Node) onCommand(name string, f *commands.Failure) {
	n.mu.Lock()
	was := n.ledger.commands[name]
	if delete(n.ledger.commands, name); f != nil {
		n.ledger.commands[name] = f.Error()
	}
	n.mu.Unlock()
	log := n.opts.Log.WithField("for", name)
	switch {
	case f != nil && was != f.Error():
		log.WithError(f).WithField("step", f.Step.String()).Warn("a command of the network configuration failed")
	case f == nil && was != "":
		log.Info("a command of the network configuration went through")
	}
	if strings.HasPrefix(name, taskPeer) {
		n.LookAgain()
		return
	}
	n.onFacts() // all that waits for it is tried again
}

// fillCommands leaves out the peers that programs failed for.
func (s *Status) fillCommands(r *runner.Runner) {
	if r == nil {
		return
	}
	s.Skipped = slices.Clone(s.Skipped)
	for _, f := range r.Failures() {
		id, ok := strings.CutPrefix(f.Name, taskPeer)
		if !ok {
			continue
		}
		skipped := subnet.Skipped{ID: id, Field: "SubnetRemoveCommand", Reason: f.Error()}
		if f.Step == commands.Do {
			skipped.Field = "SubnetAddCommand"
			s.Peers--
		}
		s.Skipped = append(s.Skipped, skipped)
	}
}
