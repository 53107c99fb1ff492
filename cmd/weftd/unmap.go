package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// region is a part of the address space.
type region struct{ from, to uintptr }

// unmapProgram takes the pages of the program's own file out of the page tables:
// much of it (the Kubernetes client, an etcd server) is run through once at start, or
// mapped only because it stands beside what is. The file stays in the page cache, and
// what is used again is mapped again in microseconds. Where it fails, nothing is lost.
func unmapProgram() {
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for _, r := range unwritten(maps, exe) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, r.from, r.to-r.from, syscall.MADV_DONTNEED)
	}
}

// unwritten gives the regions of smaps (proc_pid_smaps(5)) that map the file, can't be
// written to, and hold no page that was (a debugger's breakpoint, say): to unmap them
// loses nothing.
func unwritten(smaps io.Reader, file string) []region {
	var out []region
	var last region // of the file and read-only; zero: the lines below are of another
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var r region
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &r.from, &r.to, &perms); n == 3 {
			if last = (region{}); strings.HasSuffix(line, " "+file) && !strings.Contains(perms, "w") {
				last = r
			}
		}
		if last != (region{}) && strings.HasPrefix(line, "Anonymous:") &&
			strings.Join(strings.Fields(line), " ") == "Anonymous: 0 kB" {
			out = append(out, last)
		}
	}
	return out
}
