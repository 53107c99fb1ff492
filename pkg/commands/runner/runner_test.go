package runner_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/pkg/commands/runner"
)

// host is one that knows three commands: "add x", "del x" and "say x". Like
// ip(8), it refuses to add what is there and to delete what is not.
type host struct {
	mu    sync.Mutex
	there map[string]bool
	ran   []string
	// hangs and fails are commands that do so, the former after they did half.
	hangs, fails map[string]bool
}

func newHost() *host {
	return &host{there: map[string]bool{}, hangs: map[string]bool{}, fails: map[string]bool{}}
}

func (h *host) exec(ctx context.Context, c commands.Command) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text, x := c.String(), c.Argv[1]
	h.ran = append(h.ran, text)
	switch {
	case h.fails[text]:
		return "", errors.New("exit status 1: no")
	case c.Argv[0] == "say":
		return " " + x + "\n", nil
	case c.Argv[0] == "add" && h.there[x]:
		return "", errors.New("exit status 2: File exists")
	case c.Argv[0] == "del" && !h.there[x]:
		return "", errors.New("exit status 2: No such process")
	}
	h.there[x] = c.Argv[0] == "add"
	if h.hangs[text] {
		h.mu.Unlock()
		<-ctx.Done()
		h.mu.Lock()
		return "", errors.New("signal: killed")
	}
	return "", nil
}

func (h *host) has() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.there, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(h.there))
}

func (h *host) took() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ran := h.ran
	h.ran = nil
	return ran
}

func (h *host) set(what map[string]bool, text string, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what[text] = is
}

func route(x string) commands.Task {
	return commands.Task{
		Do: commands.Command{Argv: []string{"add", x}}, Undo: commands.Command{Argv: []string{"del", x}},
	}
}

// life is a runner as it lives in one process.
type life struct {
	*runner.Runner

	t    *testing.T
	stop func()
}

func start(t *testing.T, h *host, dir, boot string) *life {
	t.Helper()
	r, err := runner.New(runner.Options{Dir: dir, Boot: boot, Timeout: 5 * time.Second, Exec: h.exec})
	if err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, func(string, *commands.Failure) {}) }()
	return &life{r, t, func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}}
}

func (l *life) settle(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock: no time passes outside
	synctest.Wait()
}

func (l *life) want(sure bool, routes ...string) {
	tasks := map[string]commands.Task{}
	for _, x := range routes {
		name, _, _ := strings.Cut(x, "/")
		tasks[name] = route(x)
	}
	l.Want(tasks, sure)
	l.settle(0)
}

func check(t *testing.T, what string, want, have []string) {
	t.Helper()
	if d := cmp.Diff(want, have, cmp.Transformer("nil", func(s []string) string { return fmt.Sprint(s) })); d != "" {
		t.Errorf("%s: %s", what, d)
	}
}

func TestWhatIsWantedIsRunOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commands")
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		l := start(t, h, dir, "boot")
		l.want(true, "a", "b")
		check(t, "there", []string{"a", "b"}, h.has())
		l.want(true, "b/2", "c")
		l.settle(time.Hour)
		check(t, "after a change, and one gone", []string{"b/2", "c"}, h.has())
		l.stop()
		h.took()

		l = start(t, h, dir, "boot")
		l.want(false, "c")
		l.settle(time.Hour)
		check(t, "a restart, and nobody is sure", nil, h.took())
		l.want(true, "c")
		check(t, "somebody is", []string{"del b/2"}, h.took())
		l.stop()

		h.there = map[string]bool{}
		l = start(t, h, dir, "another boot")
		l.want(true, "c")
		check(t, "after a reboot", []string{"add c"}, h.took())
		l.stop()
	})
}

func TestAFailureHitsOneOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.fails["add a"], h.hangs["add b"] = true, true
		l := start(t, h, "", "")
		l.want(true, "a", "b", "c")
		l.settle(time.Second)
		check(t, "others", []string{"b", "c"}, h.has()) // b has done its half
		l.settle(time.Minute)
		var names []string
		for _, f := range l.Failures() {
			names = append(names, f.Name+": "+f.Error())
		}
		check(t, "failures", []string{
			"a: add a: exit status 1: no", "b: add b: it did not end in 5s and was killed, with what it had started",
		}, names)
		tries := strings.Count(strings.Join(h.took(), "\n"), "add a")
		if tries < 5 || tries > 8 { // at 0, 1, 3, 7, 15, 31 s
			t.Errorf("%d tries in a minute", tries)
		}
		h.set(h.fails, "add a", false)
		h.set(h.hangs, "add b", false)
		l.settle(2 * time.Minute)
		check(t, "mended", []string{"a", "b", "c"}, h.has())
		if f := l.Failures(); len(f) > 0 {
			t.Errorf("%v", f)
		}
		l.stop()
	})
}

// What was under way when a process died may be half done.
func TestAnEndThatNobodySaw(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.hangs["add a"] = true
		l := start(t, h, dir, "boot")
		l.want(true, "a")
		l.stop()
		h.set(h.hangs, "add a", false)
		h.took()
		l = start(t, h, dir, "boot")
		l.want(true, "a")
		check(t, "ran", []string{"del a", "add a"}, h.took())
		check(t, "there", []string{"a"}, h.has())
		l.stop()
	})
}

func TestADamagedRecordIsNamed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		l := start(t, h, dir, "boot")
		l.want(true, "a", "peer 10.42.2.0-24&fd42::-64")
		l.stop()
		for name, text := range map[string]string{
			"a.json": "{", "torn.json.new": `{"Name":"torn"}`, "alien.json": `{"Name":"other"}`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := runner.New(runner.Options{Dir: dir, Boot: "boot", Exec: h.exec})
		if err == nil || !strings.Contains(err.Error(), "a.json") {
			t.Errorf("%v", err)
		}
		was, _ := runner.Leftovers(dir, "boot")
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(was) != 1 || len(left) != 2 {
			t.Errorf("known %v, files %v", was, left)
		}
	})
}

func TestAnUndoIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		l := start(t, h, "", "")
		l.want(true, "a")
		h.set(h.there, "a", false) // somebody was quicker
		l.want(true, "a/2")
		l.settle(time.Minute)
		check(t, "ran", []string{"add a", "del a", "del a", "del a", "add a/2"}, h.took())
		l.stop()
	})
}

func TestOrderAndOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.fails["say hello"] = true
		l := start(t, h, "", "")
		say := commands.Task{Do: commands.Command{Argv: []string{"say", "hello"}}}
		after := route("a")
		after.After = "say"
		l.Want(map[string]commands.Task{"a": after, "say": say}, true)
		l.settle(20 * time.Second)
		check(t, "not before", nil, h.has())
		if _, done := l.Done("say", say); done {
			t.Error("done, and it failed")
		}
		h.set(h.fails, "say hello", false)
		l.settle(time.Minute)
		check(t, "then", []string{"a"}, h.has())
		if output, done := l.Done("say", say); !done || output != "hello" {
			t.Errorf("%q %v", output, done)
		}
		l.stop()
	})
}

func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		var routes []string
		for i := range 100 {
			routes = append(routes, fmt.Sprintf("r%02d", i))
			if i < 7 { // one less than may run at once
				h.hangs["add "+routes[i]] = true
			}
		}
		l := start(t, h, "", "")
		l.want(true, routes...)
		l.settle(time.Second)
		if have := h.has(); len(have) != 100 {
			t.Errorf("%d", len(have))
		}
		l.stop()
	})
}

// TestProcesses runs real ones.
func TestProcesses(t *testing.T) {
	t.Setenv("WEFTD_ETCD_PASSWORD", "secret")
	dir := t.TempDir()
	child := filepath.Join(dir, "child")
	sh := func(text string) commands.Task {
		return commands.Task{Do: commands.Command{
			Argv: []string{"sh", "-c", text}, Env: []string{"SUBNET=10.0.0.0/24"}, Stdin: "data",
		}}
	}
	tasks := map[string]commands.Task{
		"output":  sh(`read x; echo "$x $SUBNET ${WEFTD_ETCD_PASSWORD:-none}"; echo loud >&2`),
		"stays":   sh(`sleep 60 & echo $! >` + child + `.stays; echo started`),
		"fails":   sh(`echo "went wrong" >&2; exit 3`),
		"hangs":   sh(`sleep 60 & echo $! >` + child + `; wait`),
		"no such": {Do: commands.Command{Argv: []string{"/nowhere/program"}}},
		"talks":   sh(`head -c 100000 /dev/zero`),
		"nothing": {Undo: commands.Command{Argv: []string{"false"}}},
	}
	r, err := runner.New(runner.Options{Dir: filepath.Join(dir, "records"), Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func(name string, _ *commands.Failure) { ended <- name })
	}()
	r.Want(tasks, true)
	for seen := map[string]bool{}; len(seen) < len(tasks); {
		select {
		case name := <-ended:
			seen[name] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("only %v ended", seen)
		}
	}
	have := map[string]string{}
	for name, task := range tasks {
		if output, ok := r.Done(name, task); ok {
			have[name] = "done: " + output
		}
	}
	for _, f := range r.Failures() {
		have[f.Name] = f.Reason
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	want := map[string]string{
		"output": "done: data 10.0.0.0/24 none", "stays": "done: started", "nothing": "done: ",
		"fails": "exit status 3: went wrong", "talks": "it wrote more than 64 KiB",
		"hangs":   "it did not end in 2s and was killed, with what it had started",
		"no such": "fork/exec /nowhere/program: no such file or directory",
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
	if pid, err := os.ReadFile(child); err != nil || alive(strings.TrimSpace(string(pid))) {
		t.Errorf("what a killed one had started lives on: %s %v", pid, err)
	}
	stays, err := os.ReadFile(child + ".stays")
	if err != nil || !alive(strings.TrimSpace(string(stays))) {
		t.Errorf("what one left behind on purpose is gone: %s %v", stays, err)
	}
	end(t, strings.TrimSpace(string(stays)))
}
