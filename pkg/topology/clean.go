package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// nodeName is the shape of a node's name: a prefix and a number.
var nodeName = regexp.MustCompile(`-[0-9]+$`)

// patience is how long a process may take to end, or a link to come up.
const patience = 5 * time.Second

// Find lists the namespaces of a topology, also those that a crash left.
func Find(name string) ([]string, error) {
	entries, err := os.ReadDir(namesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	ours := pattern(name)
	var found []string
	for _, e := range entries {
		if ours.MatchString(e.Name()) {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// pattern matches the names that a topology gives: those of its nodes and
// their pods, the underlay and the outside.
func pattern(name string) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.QuoteMeta(name) + "-([0-9]+(-[a-z][a-z0-9]*)?|underlay|outside)$")
}

// Clean removes every trace of a topology, whether this process made it or
// one that crashed: it ends the processes that live in its namespaces, deletes
// the namespaces and the nodes' directories, and dir itself if nothing else is
// in it. It carries on after an error. What is not there is no error.
func Clean(name, dir string) error {
	names, err := Find(name)
	errs := []error{err, endProcesses(names)}
	for _, n := range names {
		errs = append(errs, deleteNamespace(n))
	}
	return errors.Join(append(errs, removeDirs(name, dir))...)
}

func removeDirs(name, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	ours, others := pattern(name), 0
	var errs []error
	for _, e := range entries {
		if !ours.MatchString(e.Name()) {
			others++
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if others == 0 {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// endProcesses asks every process in the namespaces to end, and kills those
// that don't in time. Whoever is in a namespace of ours is there on our
// account: we, a child of ours or a user's `ip netns exec` started it. Going by
// the namespace instead of by recorded ids is proof against crashes, against
// children of children, and against ids that were given out again.
func endProcesses(names []string) error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		left := residents(names)
		for _, p := range left {
			_ = p.Signal(signal) // it may be gone already; the next look tells
		}
		if len(left) == 0 || awaitEmpty(names) {
			return nil
		}
	}
	return fmt.Errorf("processes in %s don't end", names)
}

func awaitEmpty(names []string) bool {
	return eventually(func() bool { return len(residents(names)) == 0 })
}

// eventually asks again and again until the answer is yes, which it tells, or
// patience is at its end.
func eventually(yes func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !yes(); {
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return true
}

// residents are the processes, but this one, in any of the namespaces. A
// namespace that is this process's own is left out: a name can be bound to
// anything, and nobody asks us to end the host.
func residents(names []string) []*os.Process {
	homes := []fs.FileInfo{}
	self, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	for _, n := range names {
		info, err := os.Stat(filepath.Join(namesDir, n))
		if err == nil && !os.SameFile(info, self) {
			homes = append(homes, info)
		}
	}
	entries, _ := os.ReadDir("/proc")
	var found []*os.Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The process is opened first and looked at then, so that what is
		// signalled is what was seen.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		info, err := os.Stat(filepath.Join("/proc", e.Name(), "ns/net"))
		if err == nil && slices.ContainsFunc(homes, func(h fs.FileInfo) bool { return os.SameFile(h, info) }) {
			found = append(found, p)
			continue
		}
		_ = p.Release()
	}
	return found
}
