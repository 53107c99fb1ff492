// Package node makes a machine out of namespaces: one that a kubelet, a
// container runtime and pods take for a real one.
//
//	root    an overlay over the host's, its changes in memory; /var on disk
//	mounts, processes, host name, IPC: of its own
//	cgroups v1, mounted afresh in a cgroup namespace
//	network: the namespace that it is given
//
// It must be made inside a sandbox, whose end is the end of every node.
package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// Spec says what Boot makes.
type Spec struct {
	Name  string            // its host name
	Dir   string            // for its /var; on a disk file system that can hold an overlay
	Upper string            // for its changes to the root; not on the root file system
	Bind  map[string]string // what is seen in it: path here → path there
	Files map[string]string // path there → content
}

// Node is a machine that was booted.
type Node struct {
	Spec
	net  *topology.Namespace
	init *topology.Process
}

const (
	patience = 20 * time.Second
	ready    = "/run/booted" // in the node, once it is
)

// Boot starts a node in a network namespace.
func Boot(ctx context.Context, ns *topology.Namespace, s Spec) (*Node, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", string(raw))
	cmd.Args[0] = booting
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setpgid:    true,
	}
	n := &Node{Spec: s, net: ns}
	if n.init, err = ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("boot %s: %w", s.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return n, n.await(ctx)
}

func (n *Node) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(n.Path(ready)); err == nil {
			return nil
		}
		select {
		case <-n.init.Done():
			return fmt.Errorf("boot %s: it ended: %w", n.Name, n.init.Err())
		case <-ctx.Done():
			return fmt.Errorf("boot %s: %w", n.Name, ctx.Err())
		case <-tick.C:
		}
	}
}

// Path is where a path of the node is seen from here.
func (n *Node) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.init.Pid()), "root", path)
}

// Halt pulls the plug: all processes of the node are killed at once. Its disk
// stays.
func (n *Node) Halt() error {
	err := n.init.Signal(syscall.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-n.init.Done()
	return err
}

// Command is a command inside the node, to be started from here. It is a
// process of the node's cgroup too.
func (n *Node) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{n.Name, strconv.Itoa(n.init.Pid()), name}, args...)...)
	cmd.Args[0] = joining
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Output runs a command inside the node and gives what it printed.
func (n *Node) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := n.Command(name, args...)
	stop := context.AfterFunc(ctx, func() { _ = n.signal(cmd, syscall.SIGKILL) })
	defer stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %s %s: %w: %s", n.Name, name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Service is a daemon inside a node. Its output is in /var/log/<name>.log.
type Service struct {
	node    *Node
	name    string
	args    []string
	process *topology.Process
	cmd     *exec.Cmd
}

// Serve starts a daemon.
func (n *Node) Serve(name string, args ...string) (*Service, error) {
	s := &Service{node: n, name: name, args: args}
	return s, s.Start()
}

// Log is the file with the output of a daemon, from here.
func (s *Service) Log() string { return s.node.Path("/var/log/" + s.name + ".log") }

// Start starts a daemon that was stopped.
func (s *Service) Start() error {
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = s.node.Command(s.name, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.process, err = s.node.net.Start(s.cmd)
	return err
}

// Running gives an error if the daemon has ended.
func (s *Service) Running() error {
	select {
	case <-s.process.Done():
		err := cmp.Or(s.process.Err(), errors.New("exit status 0"))
		return fmt.Errorf("%s: %s ended: %w: %s", s.node.Name, s.name, err, s.tail())
	default:
		return nil
	}
}

func (s *Service) tail() string {
	const most = 3 << 10
	raw, err := os.ReadFile(s.Log())
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-most):])
}

// Stop asks the daemon to end, and kills it if it doesn't.
func (s *Service) Stop() error {
	for _, by := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := s.node.signal(s.cmd, by); err != nil {
			return err
		}
		select {
		case <-s.process.Done():
			return nil
		case <-time.After(patience):
		}
	}
	return fmt.Errorf("%s: %s doesn't end", s.node.Name, s.name)
}

// signal goes to the command itself, which is the only child of the process
// that we started. One that has ended already gets none.
func (n *Node) signal(cmd *exec.Cmd, by syscall.Signal) error {
	pid := strconv.Itoa(cmd.Process.Pid)
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("find the process of %s: %w", cmd.Args, err)
	}
	return syscall.Kill(child, by)
}
