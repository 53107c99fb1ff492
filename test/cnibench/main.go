// Command cnibench measures what a pod's start waits for: ADD of weft, of the
// floor (see there) and of any other conflist, in turns, in network namespaces
// of its own.
//
// Environment: BIN (directory of weft and floor), N (how often), PEER_CONF and
// PEER_BIN (another conflist and its plugins; SUBNET_FILE in it is replaced by
// the path of a subnet.env).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netns"
)

type options struct {
	bin, peerConf, peerBin string
	n                      int
}

func main() {
	o := options{
		bin: or(os.Getenv("BIN"), "bin/cni"), n: 200,
		peerConf: os.Getenv("PEER_CONF"), peerBin: or(os.Getenv("PEER_BIN"), "/opt/cni/bin"),
	}
	if text := os.Getenv("N"); text != "" {
		var err error
		if o.n, err = strconv.Atoi(text); err != nil || o.n < 1 {
			fmt.Fprintf(os.Stderr, "cnibench: N is %q, not a number\n", text)
			os.Exit(2)
		}
	}
	if err := run(context.Background(), o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cnibench:", err)
		os.Exit(1)
	}
}

// subject is one conflist that is measured.
type subject struct {
	name string
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	port bool
	host netns.NsHandle
	took []time.Duration // ADD
	cpu  time.Duration
	dels []time.Duration
	many []time.Duration // for 100 at once
}

func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "cnibench-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	subjects, err := subjectsOf(o, dir)
	if err != nil {
		return err
	}
	pod, err := namespace()
	if err != nil {
		return err
	}
	defer pod.Close()
	for i := range o.n + len(subjects) { // the first rounds warm up
		// What the kernel still clears away of one's DEL holds up who comes next.
		for _, n := range rand.Perm(len(subjects)) {
			s := subjects[n]
			if err := s.once(ctx, pod, i%200+2, i >= len(subjects)); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d times in turns, load %s\n", o.n, strings.TrimSpace(string(load)))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "\tADD p50\tp95\tp99\tvs floor\tCPU\tprograms\tDEL p50\t100 at once\tvs floor\t")
	const crowds = 5
	for range crowds {
		for _, n := range rand.Perm(len(subjects)) {
			s := subjects[n]
			many, err := s.atOnce(ctx)
			if err != nil {
				return fmt.Errorf("%s: 100 at once: %w", s.name, err)
			}
			s.many = append(s.many, many)
		}
	}
	var floor, floorMany time.Duration
	for _, s := range subjects {
		programs, err := s.programs(ctx, pod)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		many := quantile(s.many, 50)
		p50 := quantile(s.took, 50)
		if floor == 0 {
			floor, floorMany = p50, many
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.2f\t%s\t%d\t%s\t%s\t%.2f\t\n", s.name, ms(p50), ms(quantile(s.took, 95)),
			ms(quantile(s.took, 99)), ratio(p50, floor), ms(s.cpu/time.Duration(len(s.took))), programs,
			ms(quantile(s.dels, 50)), ms(many), ratio(many, floorMany))
	}
	return table.Flush()
}

// subjectsOf gives the floor first.
func subjectsOf(o options, dir string) ([]*subject, error) {
	env := filepath.Join(dir, "subnet.env")
	text := "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	if err := os.WriteFile(env, []byte(text), 0o600); err != nil {
		return nil, err
	}
	stores := 0
	weft := func(mode string) []byte {
		// One of its own for each: no node makes so many pods in half a minute that all of its
		// addresses rest.
		stores++
		return fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"weft","mode":%q,"subnetFile":%q,
			"stateDir":%q,"dataDir":%q,"ipam":{"dataDir":%q},"capabilities":{"portMappings":true}}]}`,
			mode, env, dir+"/weft", dir+"/flannel", fmt.Sprint(dir, "/networks-", stores))
	}
	type source struct {
		name, bin string
		conf      []byte
		port      bool
	}
	sources := []source{
		{"floor", o.bin, []byte(`{"cniVersion":"1.0.0","name":"floor","plugins":[{"type":"floor"}]}`), false},
		{"weft ptp", o.bin, weft("ptp"), false},
		{"weft bridge", o.bin, weft("bridge"), false},
		{"weft ptp, a host port", o.bin, weft("ptp"), true},
	}
	if o.peerConf != "" {
		conf, err := os.ReadFile(o.peerConf)
		if err != nil {
			return nil, err
		}
		conf = []byte(strings.ReplaceAll(string(conf), "SUBNET_FILE", env))
		sources = append(sources, source{"peer", o.peerBin, conf, false}, source{"peer, a host port", o.peerBin, conf, true})
	}
	var out []*subject
	for i, s := range sources {
		list, err := libcni.NetworkConfFromBytes(s.conf)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		host, err := namespace()
		if err != nil {
			return nil, err
		}
		cache := filepath.Join(dir, fmt.Sprint("cache", i))
		out = append(out, &subject{
			name: s.name, list: list, port: s.port, host: host,
			cni: libcni.NewCNIConfigWithCacheDir([]string{s.bin}, cache, nil),
		})
	}
	return out, nil
}

// namespace makes one, with lo up by whoever needs it.
func namespace() (netns.NsHandle, error) {
	type made struct {
		ns  netns.NsHandle
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // the thread dies with the goroutine
		ns, err := netns.New()
		done <- made{ns, err}
	}()
	m := <-done
	return m.ns, m.err
}

// in calls f in the host's namespace, on a thread of its own.
func (s *subject) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.host)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (s *subject) conf(pod netns.NsHandle, id int) *libcni.RuntimeConf {
	c := &libcni.RuntimeConf{
		ContainerID: fmt.Sprint("f", id), IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(pod)),
	}
	if s.port {
		c.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
			{"hostPort": 8000 + id, "containerPort": 80, "protocol": "tcp"},
		}}
	}
	return c
}

// once is one ADD and its DEL.
func (s *subject) once(ctx context.Context, pod netns.NsHandle, id int, counts bool) error {
	return s.in(func() error {
		conf, before, start := s.conf(pod, id), childCPU(), time.Now()
		if _, err := s.cni.AddNetworkList(ctx, s.list, conf); err != nil {
			return err
		}
		took, cpu := time.Since(start), childCPU()-before
		start = time.Now()
		if err := s.cni.DelNetworkList(ctx, s.list, conf); err != nil {
			return err
		}
		if counts {
			s.took, s.cpu, s.dels = append(s.took, took), s.cpu+cpu, append(s.dels, time.Since(start))
		}
		return nil
	})
}

// atOnce attaches 100 pods at the same time, and gives how long all took.
func (s *subject) atOnce(ctx context.Context) (time.Duration, error) {
	const many = 100
	pods := make([]netns.NsHandle, many)
	for i := range pods {
		var err error
		if pods[i], err = namespace(); err != nil {
			return 0, err
		}
		defer pods[i].Close()
	}
	all := func(do func(*libcni.RuntimeConf) error) (time.Duration, error) {
		var wg sync.WaitGroup
		errs := make([]error, many)
		start := time.Now()
		for i := range many {
			wg.Go(func() { errs[i] = s.in(func() error { return do(s.conf(pods[i], i+2)) }) })
		}
		wg.Wait()
		return time.Since(start), errors.Join(errs...)
	}
	took, err := all(func(c *libcni.RuntimeConf) error {
		_, err := s.cni.AddNetworkList(ctx, s.list, c)
		return err
	})
	if err != nil {
		return took, err
	}
	_, err = all(func(c *libcni.RuntimeConf) error { return s.cni.DelNetworkList(ctx, s.list, c) })
	return took, err
}

// childCPU is what the processes took that have ended, theirs included.
func childCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// programs counts the programs that one ADD executes, by a trace of it.
func (s *subject) programs(ctx context.Context, pod netns.NsHandle) (int, error) {
	cache, err := os.MkdirTemp("", "cnibench-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(cache) }()
	counter := &counting{}
	cni := libcni.NewCNIConfigWithCacheDir(s.cni.Path, cache, counter)
	programs := 0
	err = s.in(func() error {
		conf := s.conf(pod, 250)
		_, err := cni.AddNetworkList(ctx, s.list, conf)
		programs = counter.programs
		return errors.Join(err, cni.DelNetworkList(ctx, s.list, conf))
	})
	return programs, err
}

func quantile(took []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
