package topology

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is a process that Start started. Someone always waits for it, so it
// never stays a zombie.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid when done is closed
}

// Start starts a command inside the namespace: a child inherits the network
// namespace of the thread that forks it. Its paths are those of the host.
func (ns *Namespace) Start(cmd *exec.Cmd) (*Process, error) {
	if err := ns.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start in %s: %w", ns.Name, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the process ended, nil for exit status 0. It blocks until then.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// CPU is the processor time that the process took. It blocks until it has ended.
func (p *Process) CPU() time.Duration {
	<-p.done
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Signal sends a signal; to a process that has ended it is os.ErrProcessDone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop sends SIGTERM and returns how the process ended. When ctx ends first the
// process is killed.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.Signal(syscall.SIGTERM) // an error means that it is over: Err tells
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = p.Signal(syscall.SIGKILL)
	}
	return p.Err()
}
