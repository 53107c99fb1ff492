package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
)

// counting runs plugins and counts the programs that they execute, themselves
// included, by following them and their children (ptrace(2)).
type counting struct {
	version.PluginDecoder
	programs int
}

func (c *counting) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (c *counting) ExecPlugin(_ context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	runtime.LockOSThread() // ptrace is a thread's
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.Command(path)
	cmd.Env, cmd.Stdin, cmd.Stdout = environ, bytes.NewReader(stdin), &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	status, err := c.follow(cmd.Process.Pid)
	_ = cmd.Wait() // the copies of stdin and stdout; the process was waited for
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: status %d: %s", path, status, &out)
	}
	return out.Bytes(), err
}

// follow lets a process and its children run to its end.
func (c *counting) follow(pid int) (status int, err error) {
	const options = syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK |
		syscall.PTRACE_O_TRACEEXEC
	seen := map[int]bool{}
	for {
		var s syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &s, syscall.WALL|syscall.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the plugin: %w", err)
		}
		if s.Exited() || s.Signaled() {
			if tid == pid {
				return s.ExitStatus(), nil
			}
			continue
		}
		if tid == pid && !seen[pid] { // the first exec
			if err := syscall.PtraceSetOptions(pid, options); err != nil {
				return 0, err
			}
		}
		signal := c.stopped(s, seen[tid], tid == pid)
		seen[tid] = true
		if err := syscall.PtraceCont(tid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return 0, err
		}
	}
}

// stopped counts a program's start, and gives the signal that a stop was for.
func (c *counting) stopped(s syscall.WaitStatus, seen, leader bool) (signal int) {
	switch {
	case leader && !seen, s.TrapCause() == syscall.PTRACE_EVENT_EXEC:
		c.programs++
	case seen && s.StopSignal() != syscall.SIGTRAP:
		return int(s.StopSignal())
	}
	return 0
}
