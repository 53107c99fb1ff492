package calls_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/calls"
)

func read(t *testing.T, dir string) map[string]calls.Calls {
	t.Helper()
	m, err := calls.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func took(at ...int) []uint64 {
	out := make([]uint64, len(calls.Bounds())+1)
	for _, i := range at {
		out[i]++
	}
	return out
}

func TestCount(t *testing.T) {
	dir := t.TempDir()
	if have := read(t, dir)["ADD"]; have.Done != 0 || len(have.Took) != len(calls.Bounds())+1 {
		t.Errorf("before the first: %+v", have)
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		verb   string
		failed bool
		took   time.Duration
	}{
		{"ADD", false, ms}, {"ADD", false, ms + 1}, {"ADD", true, time.Minute}, {"DEL", false, 20 * ms}, {"VERSION", false, ms},
		{"STATUS", true, -ms},
	} {
		if err := calls.Count(dir, c.verb, c.failed, c.took); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]calls.Calls{
		"ADD":    {Done: 2, Failed: 1, Sum: time.Minute + 2*ms + 1, Took: took(0, 1, len(calls.Bounds()))},
		"DEL":    {Done: 1, Sum: 20 * ms, Took: took(4)},
		"STATUS": {Failed: 1, Took: took(0)},
		"CHECK":  {Took: took()},
		"GC":     {Took: took()},
	}
	if d := cmp.Diff(want, read(t, dir)); d != "" {
		t.Error(d)
	}
}

// The form is read by programs of other versions.
func TestForm(t *testing.T) {
	dir := t.TempDir()
	if err := calls.Count(dir, "DEL", true, 3*time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(dir, ".calls/counters"))
	if err != nil {
		t.Fatal(err)
	}
	zero, one, three := strings.Repeat("\x00", 8), "\x01"+strings.Repeat("\x00", 7), "\x03"+strings.Repeat("\x00", 7)
	want := "weftcni1" + strings.Repeat(zero, 15) + zero + one + three + one + strings.Repeat(zero, 11+3*15)
	if d := cmp.Diff(want, string(have)); d != "" {
		t.Error(d)
	}
}

func TestDamaged(t *testing.T) {
	for name, content := range map[string]string{
		"short": "weftcni1\x00", "another form": "weftcni2" + strings.Repeat("\x00", 600),
		"long": "weftcni1" + strings.Repeat("\x00", 601),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, ".calls"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, ".calls/counters"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := calls.Read(dir); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("have %v", err)
			}
			if err := calls.Count(dir, "ADD", false, 0); err != nil {
				t.Fatal(err)
			}
			if have := read(t, dir)["ADD"]; have.Done != 1 {
				t.Errorf("have %+v", have)
			}
		})
	}
	if err := calls.Count(filepath.Join(t.TempDir(), "none"), "ADD", false, 0); err == nil {
		t.Error("counted where there is no directory")
	}
}

// No call is lost among many at once, and a reader never sees half of one.
func TestAtOnce(t *testing.T) {
	dir := t.TempDir()
	const workers, each = 8, 200
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if err := calls.Count(dir, "ADD", false, time.Millisecond); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if a := read(t, dir)["ADD"]; a.Done != a.Took[0] || a.Sum != time.Duration(a.Done)*time.Millisecond {
			t.Fatalf("half of a call: %+v", a)
		}
	}
	if a := read(t, dir)["ADD"]; a.Done != workers*each {
		t.Errorf("want %d, have %d", workers*each, a.Done)
	}
}

func BenchmarkCount(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if err := calls.Count(dir, "ADD", false, time.Millisecond); err != nil {
			b.Fatal(err)
		}
	}
}
