package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Group is one cgroup in every hierarchy of version 1: a directory in each,
// under one name.
type Group struct {
	dirs []hierarchy
}

// hierarchy is where a Group stands in one of them.
type hierarchy struct {
	controllers string // as the mount option says them: "cpu", or "cpu,cpuacct"
	dir         string
}

// Own is the group of this process.
func Own() (Group, error) {
	rawMounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Group{}, err
	}
	rawGroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Group{}, err
	}
	g := own(string(rawMounts), string(rawGroups))
	for _, need := range []string{"cpu", "cpuset", "memory", "pids", "devices"} {
		if !g.has(need) {
			return Group{}, fmt.Errorf("no cgroup v1 hierarchy with the controller %s is mounted: "+
				"the nodes need one; boot with systemd.unified_cgroup_hierarchy=0", need)
		}
	}
	return g, nil
}

// own joins what is mounted (proc_pid_mountinfo(5)) with where we are
// (cgroups(7)).
func own(mounts, groups string) Group {
	paths := map[string]string{}
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 {
			paths[fields[1]] = fields[2]
		}
	}
	var g Group
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if len(place) < 5 || len(kind) < 3 || kind[0] != "cgroup" || place[3] != "/" {
			continue
		}
		for controllers, path := range paths {
			if controllers != "" && !strings.HasPrefix(controllers, "name=") && mountedAs(kind[2], controllers) {
				g.dirs = append(g.dirs, hierarchy{controllers, filepath.Join(place[4], path)})
			}
		}
	}
	return g
}

// mountedAs tells whether the options of a mount name all the controllers.
func mountedAs(options, controllers string) bool {
	have := strings.Split(options, ",")
	for c := range strings.SplitSeq(controllers, ",") {
		if !slices.Contains(have, c) {
			return false
		}
	}
	return true
}

func (g Group) has(controller string) bool {
	return slices.ContainsFunc(g.dirs, func(h hierarchy) bool {
		return slices.Contains(strings.Split(h.controllers, ","), controller)
	})
}

// Controllers are the hierarchies, each as its mount option.
func (g Group) Controllers() []string {
	var all []string
	for _, h := range g.dirs {
		all = append(all, h.controllers)
	}
	return all
}

// Below is the group of that name inside this one.
func (g Group) Below(name string) Group {
	var below Group
	for _, h := range g.dirs {
		below.dirs = append(below.dirs, hierarchy{h.controllers, filepath.Join(h.dir, name)})
	}
	return below
}

// Make makes the directories. A cpuset takes no process before it has
// processors and memory nodes of its own (cpusets(7)).
func (g Group) Make() error {
	for _, h := range g.dirs {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if !strings.Contains(h.controllers, "cpuset") {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			raw, err := os.ReadFile(filepath.Join(filepath.Dir(h.dir), file))
			if err == nil {
				err = os.WriteFile(filepath.Join(h.dir, file), raw, 0o600)
			}
			if err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// Join moves this process, with all its threads, into the group.
func (g Group) Join() error {
	for _, h := range g.dirs {
		if err := os.WriteFile(filepath.Join(h.dir, "cgroup.procs"), []byte("0"), 0o600); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Memory is what the group's processes and files take now, in bytes: resident
// anonymous memory, and the most that all of it ever was, page cache included.
func (g Group) Memory() (resident, most int64, err error) {
	for _, h := range g.dirs {
		if h.controllers != "memory" {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(h.dir, "memory.stat"))
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(raw)) {
			_, _ = fmt.Sscanf(line, "total_rss %d", &resident)
		}
		raw, err = os.ReadFile(filepath.Join(h.dir, "memory.max_usage_in_bytes"))
		if err != nil {
			return 0, 0, err
		}
		_, err = fmt.Sscan(string(raw), &most)
		return resident, most, err
	}
	return 0, 0, errors.New("no memory hierarchy")
}

// Remove removes the group and all groups in it, from the innermost out. The
// processes in them have been killed; the kernel may need a moment to notice.
func (g Group) Remove() error {
	var errs []error
	for _, h := range g.dirs {
		var dirs []string
		err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return ignoreAbsent(err)
		})
		errs = append(errs, err)
		for _, dir := range slices.Backward(dirs) {
			errs = append(errs, removeGroup(dir))
		}
	}
	return errors.Join(errs...)
}

func removeGroup(dir string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); ; {
		err := ignoreAbsent(syscall.Rmdir(dir))
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-end:
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		case <-tick.C:
		}
	}
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
