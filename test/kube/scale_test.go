package kube_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
	"github.com/weftnet/weft/test/kube/apiserver"
)

// watcherEnv makes of a test binary a process that only watches, so that what
// that costs can be told from what the test itself does.
const watcherEnv = "WEFT_TEST_WATCHER"

// costs are what a watcher has had so far.
type costs struct {
	Leases    int
	Snapshots int
	CPU       time.Duration
	Heap      uint64 // live, beyond that of a binary with all of Kubernetes in it
	Resident  int64  // at its highest
}

// watchUntilTold watches the Nodes by the kubeconfig that the environment
// names, writes its costs for each line that it reads, and ends with its input.
func watchUntilTold() error {
	dir := os.Getenv(watcherEnv)
	s, err := kube.New(kube.Options{
		Kubeconfig: filepath.Join(dir, "kubeconfig"), ConfigFile: filepath.Join(dir, "net-conf.json"), Node: "node-1",
	})
	if err != nil {
		return err
	}
	base := heap()
	ctx, cancel := context.WithCancel(context.Background())
	to := make(chan subnet.Snapshot)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Watch(ctx, to) }) // it ends with ctx only
	defer wg.Wait()
	defer cancel()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			asked <- struct{}{}
		}
	}()
	var last subnet.Snapshot
	var now costs
	for {
		select {
		case last = <-to:
			now.Snapshots++
			now.Leases = len(last.Leases)
		case _, open := <-asked:
			if !open {
				return nil
			}
			now.measure(base)
			if err := json.NewEncoder(os.Stdout).Encode(now); err != nil {
				return err
			}
		}
	}
}

func (c *costs) measure(base uint64) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err == nil {
		c.CPU = time.Duration(used.Utime.Nano() + used.Stime.Nano())
		c.Resident = used.Maxrss << 10
	}
	now := heap()
	c.Heap = max(now, base) - base
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watcher is such a process.
type watcher struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func (c *cords) startWatcher(t testing.TB, url string) *watcher {
	t.Helper()
	dir := filepath.Dir(c.config)
	err := c.server.Kubeconfig(filepath.Join(dir, "kubeconfig"), url, apiserver.Credentials{Token: c.token})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), watcherEnv+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // is what ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("the watcher ended by %v", err)
		}
	})
	return &watcher{in, bufio.NewReader(out)}
}

func (w *watcher) costs(t testing.TB) (now costs) {
	t.Helper()
	if _, err := io.WriteString(w.in, "\n"); err != nil {
		t.Fatal(err)
	}
	line, err := w.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// until asks until the watcher has that many leases.
func (w *watcher) until(t testing.TB, leases int) (now costs) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d leases", leases), func() error {
		if now = w.costs(t); now.Leases != leases {
			return fmt.Errorf("have %d", now.Leases)
		}
		return nil
	})
	return now
}

// atOnce does n things, some of them at the same time.
func atOnce(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	const workers = 16
	next, failed := make(chan int), make(chan error, n)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-failed:
		t.Fatalf("%d of %d failed, the first by: %v", len(failed)+1, n, err)
	default:
	}
}

// populate makes n Nodes of the size that Nodes have, and their Leases.
func (c *cluster) populate(t testing.TB, n int) []*corev1.Node {
	t.Helper()
	out := make([]*corev1.Node, n)
	atOnce(t, n, func(i int) (err error) {
		o := nodeOf(fmt.Sprintf("node-%d", i+2), fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
		o.Annotations = announces(fmt.Sprintf("192.168.%d.%d", i>>8, i&255))
		if o, err = c.admin.CoreV1().Nodes().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			return err
		}
		for _, kind := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
			o.Status.Conditions = append(o.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: "False", Reason: "Kubelet" + string(kind), Message: strings.Repeat("m", 40),
			})
		}
		for image := range 50 { // the kubelet's own limit
			name := fmt.Sprintf("registry.example.com/team/image-%d@sha256:%064d", image, i)
			o.Status.Images = append(o.Status.Images,
				corev1.ContainerImage{Names: []string{name, name[:40]}, SizeBytes: 1 << 28})
		}
		out[i], err = c.admin.CoreV1().Nodes().UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		_, err = c.admin.CoordinationV1().Leases("kube-node-lease").Create(t.Context(),
			&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: o.Name}}, metav1.CreateOptions{})
		return err
	})
	return out
}

// heartbeats has each kubelet report its status so many times, which it does
// every 5 minutes, and renew its Lease once.
func (c *cluster) heartbeats(t testing.TB, nodes []*corev1.Node, times int) {
	t.Helper()
	atOnce(t, len(nodes), func(i int) (err error) {
		for range times {
			for at := range nodes[i].Status.Conditions {
				beat := &nodes[i].Status.Conditions[at].LastHeartbeatTime
				*beat = metav1.NewTime(beat.Add(5 * time.Minute))
			}
			nodes[i], err = c.admin.CoreV1().Nodes().UpdateStatus(t.Context(), nodes[i], metav1.UpdateOptions{})
			if err != nil {
				return err
			}
		}
		leases := c.admin.CoordinationV1().Leases("kube-node-lease")
		l, err := leases.Get(t.Context(), nodes[i].Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := metav1.NowMicro()
		l.Spec.RenewTime = &now
		_, err = leases.Update(t.Context(), l, metav1.UpdateOptions{})
		return err
	})
}

// measured is what so many Nodes cost one that watches: to begin with, and for
// ten minutes of heartbeats, of which none may become a snapshot.
func measured(t testing.TB, c *cords, count int) {
	t.Helper()
	nodes := c.populate(t, count)
	t.Cleanup(func() {
		err := c.admin.CoordinationV1().Leases("kube-node-lease").
			DeleteCollection(context.WithoutCancel(t.Context()), metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	door := c.openDoor(t)
	began := time.Now()
	w := c.startWatcher(t, door.URL)
	first := w.until(t, count)
	took, received := time.Since(began), door.bytes.Load()
	before := len(c.requests(t))

	c.heartbeats(t, nodes, 2)
	c.join(t, "last", "10.255.0.0/24", "192.168.255.1") // behind all that the heartbeats have sent
	after := w.until(t, count+1)
	if news := after.Snapshots - first.Snapshots; news != 1 {
		t.Errorf("%d heartbeats and one new Node became %d snapshots", 2*count, news)
	}
	for _, r := range c.requests(t)[before:] {
		t.Errorf("an idle node asked for something: %+v", r)
	}
	server, err := c.server.Resident()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d nodes: all known after %s, %d KiB received, %s; API server: %d MiB",
		count, took.Round(time.Millisecond), received>>10, first, server>>20)
	after.CPU -= first.CPU
	t.Logf("%d heartbeats: %d KiB received, %s", 2*count, (door.bytes.Load()-received)>>10, after)
}

func (c costs) String() string {
	return fmt.Sprintf("%d snapshots so far, %s CPU, heap +%d KiB, resident at most %d MiB",
		c.Snapshots, c.CPU.Round(time.Millisecond), c.Heap>>10, c.Resident>>20)
}

func TestHeartbeatsAreNoNews(t *testing.T) { measured(t, shared.tie(t), 500) }

func BenchmarkHeartbeats(b *testing.B) {
	for b.Loop() {
		measured(b, own(b).tie(b), 5000)
	}
}
