package main

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnwritten(t *testing.T) {
	const smaps = `00400000-01478000 r-xp 00000000 fe:00 42    /usr/bin/weftd
Size:              16864 kB
Anonymous:             0 kB
01478000-01500000 r-xp 01078000 fe:00 42    /usr/bin/weftd
Anonymous:             4 kB
01500000-0262f000 r--p 01100000 fe:00 42    /usr/bin/weftd
Rss:               14528 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
0262f000-026f7000 rw-p 0222f000 fe:00 42    /usr/bin/weftd
Anonymous:             0 kB
c000000000-c004000000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 43    /usr/lib/locale/weftd
Anonymous:             0 kB
`
	want := []region{{0x400000, 0x1478000}, {0x1500000, 0x262f000}}
	have := unwritten(strings.NewReader(smaps), "/usr/bin/weftd")
	if d := cmp.Diff(want, have, cmp.AllowUnexported(region{})); d != "" {
		t.Errorf("(-want +have)\n%s", d)
	}
}

// The program goes on after its pages were taken away, with fewer of them.
func TestUnmapProgram(t *testing.T) {
	touch := func() { _, _, _ = parse([]string{"--version"}, nil) }
	touch()
	before := mapped(t)
	unmapProgram()
	after := mapped(t)
	touch()
	if before == 0 || after > before/2 {
		t.Errorf("%d KiB of files were mapped, and %d are", before, after)
	}
}

// mapped is RssFile in KiB (proc_pid_status(5)).
func mapped(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}
