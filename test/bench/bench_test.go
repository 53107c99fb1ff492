// Package bench measures a daemon as a whole, on nodes that are network
// namespaces: `make bench` writes one report. It compares daemons that keep
// flannel's contract in etcd: ours, and with PEER= any other, in turns, so that what
// else the machine does hits both. It owns how each figure is taken, and refuses to
// judge: a figure is a median with what it was made of beside it. It needs root.
package bench

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bin is where TestMain puts our binaries.
var bin string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin = dir
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/weftd", "./cmd/weft")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// plan is how much is measured, from the environment.
type plan struct {
	rounds int
	sizes  []int
	only   map[string]bool // sections; empty: all
	idle   time.Duration
	out    string // without the extension
}

func planned(b *testing.B) plan {
	b.Helper()
	p := plan{rounds: 3, sizes: []int{100, 1000, 5000, 10000}, only: map[string]bool{}, idle: 5 * time.Minute}
	if s := os.Getenv("WEFT_BENCH_IDLE"); s != "" {
		var err error
		if p.idle, err = time.ParseDuration(s); err != nil {
			b.Fatalf("WEFT_BENCH_IDLE: %v", err)
		}
	}
	if s := os.Getenv("WEFT_BENCH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("WEFT_BENCH_ROUNDS=%s is not a number of rounds", s)
		}
		p.rounds = n
	}
	if s := os.Getenv("WEFT_BENCH_SIZES"); s != "" {
		p.sizes = nil
		for word := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 || n > 20_000 {
				b.Fatalf("WEFT_BENCH_SIZES=%s: %q is not a number of peers from 1 to 20000", s, word)
			}
			p.sizes = append(p.sizes, n)
		}
	}
	for word := range strings.FieldsFuncSeq(os.Getenv("WEFT_BENCH_ONLY"), func(r rune) bool { return r == ',' }) {
		p.only[word] = true
	}
	p.out = cmp.Or(os.Getenv("WEFT_BENCH_OUT"), filepath.Join(bin, "bench"))
	return p
}

func (p plan) wants(section string) bool { return len(p.only) == 0 || p.only[section] }

// contenders are ours and those that the environment names.
func contenders() []contender {
	usual := "--etcd-endpoints={etcd} --iface=eth0 --ip-masq --subnet-file={dir}/subnet.env --healthz-port=0"
	all := []contender{{
		name: "weft", path: filepath.Join(bin, "weftd"), ours: true,
		args: usual + " --state-dir={dir}/state --socket={dir}/socket",
	}}
	if base := os.Getenv("BASE_DAEMON"); base != "" {
		all = append(all, contender{name: "base", path: base, args: all[0].args, ours: true})
	}
	if peer := os.Getenv("PEER"); peer != "" {
		all = append(all, contender{
			name: filepath.Base(peer), path: peer, args: cmp.Or(os.Getenv("PEER_ARGS"), usual),
		})
	}
	return all
}

// BenchmarkReport measures all, once, and writes the report. It is no benchmark in
// the sense of `go test`, but this keeps it out of the tests.
func BenchmarkReport(b *testing.B) {
	p := planned(b)
	r := newReport(contenders())
	began := time.Now()
	for _, section := range []struct {
		name string
		run  func(*testing.B, plan, *report)
	}{
		{"cold", measureCold}, {"floor", measureFloor}, {"join", measureJoins}, {"churn", measureChurn}, {"latency", measureLatency}, {"mass", measureMass},
		{"idle", measureIdle}, {"path", measurePath}, {"flood", measureFlood}, {"store", measureStore},
	} {
		if p.wants(section.name) {
			at := time.Now()
			section.run(b, p, r)
			r.Took = time.Since(began).Seconds()
			b.Logf("%s: %.0f s", section.name, time.Since(at).Seconds())
			if err := r.write(p.out); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Logf("%s.md:\n%s", p.out, r.markdown())
}
