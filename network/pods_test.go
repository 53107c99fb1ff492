package network

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/mend"
	"github.com/weftnet/weft/pkg/mac"
)

// podHost is a PodKernel in memory: one pod's link, up or down.
type podHost struct {
	mu      sync.Mutex
	up      bool
	applied int
	refuse  error
	route   string // the link that the route to the pod leads through; "" is vetha
	lost    error  // of Observe
	changed chan<- struct{}
}

func (h *podHost) Observe(_ context.Context, names mend.Names) (mend.Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost != nil {
		return mend.Host{}, h.lost
	}
	host := mend.Host{Links: map[string]mend.Link{}, Routes: map[netip.Prefix]string{}}
	if names.Links["vetha"] {
		host.Links["vetha"] = mend.Link{
			Kind: "veth", MAC: mac.Addr{2, 0, 0, 0, 0, 1}, Up: h.up,
			Addrs: map[netip.Prefix]bool{netip.MustParsePrefix("10.42.1.1/32"): true},
		}
		host.Routes[netip.MustParsePrefix("10.42.1.9/32")] = cmp.Or(h.route, "vetha")
	}
	return host, nil
}

func (h *podHost) Apply(_ context.Context, steps []mend.Step) (errs []error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range steps {
		if h.applied++; h.refuse != nil {
			errs = append(errs, h.refuse)
		} else {
			h.up = true
		}
	}
	return errs
}

func (h *podHost) Watch(ctx context.Context, changed chan<- struct{}) error {
	h.mu.Lock()
	h.changed = changed
	h.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (h *podHost) disturb(refuse error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up, h.refuse = false, refuse
	if h.changed != nil {
		select {
		case h.changed <- struct{}{}:
		default:
		}
	}
}

func (h *podHost) is() (up bool, applied int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up, h.applied
}

func podRecord() attachment.Attachment {
	return attachment.Attachment{
		Key:  attachment.Key{Network: "cbr0", Container: "a", Interface: "eth0"},
		Mode: attachment.ModePTP, HostLink: "vetha", HostMAC: mac.Addr{2, 0, 0, 0, 0, 1},
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.42.1.9/32")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.42.1.1")},
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not within 20 s: ", what)
		}
	}
}

func TestPodMender(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.InfoLevel)
	host := &podHost{}
	dir := attachment.Dir(filepath.Join(t.TempDir(), "records"))
	var mu sync.Mutex
	mended := 0
	m := &podMender{kernel: host, dir: dir, log: log, mended: func(n int) {
		mu.Lock()
		defer mu.Unlock()
		mended += n
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()

	done, err := dir.Begin(podRecord())
	if err != nil {
		t.Fatal(err)
	}
	host.disturb(nil)
	await(t, "the kernel is watched", func() bool { host.disturb(nil); return host.watched() })
	if _, n := host.is(); n > 0 {
		t.Errorf("%d steps while the CNI plugin is at work on it", n)
	}
	done()
	await(t, "a pod that is finished and is not as it should be", func() bool { up, _ := host.is(); return up })
	host.disturb(nil)
	await(t, "a pod's link that went down", func() bool { up, _ := host.is(); return up })
	host.disturb(errors.New("no buffer space"))
	await(t, "the refusal in the log", func() bool {
		for _, e := range hook.AllEntries() {
			if p, _ := e.Data["problem"].(string); strings.Contains(p, "no buffer space") {
				return true
			}
		}
		return false
	})
	host.refused(nil)
	await(t, "a second try", func() bool { up, _ := host.is(); return up })
	await(t, "the count", func() bool { mu.Lock(); defer mu.Unlock(); return mended == 3 })
	if err := dir.Remove(podRecord().Key); err != nil {
		t.Fatal(err)
	}
}

// A conflict is said when it begins, and not at every look from then on; also
// not again after a look that failed.
func TestPodMenderSaysConflictsOnce(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	log.SetOutput(io.Discard)
	host := &podHost{up: true}
	dir := attachment.Dir(t.TempDir())
	if err := dir.Put(podRecord()); err != nil {
		t.Fatal(err)
	}
	m := &podMender{kernel: host, dir: dir, log: log}
	if !m.load() {
		t.Fatal("the record can't be read")
	}
	look := func(route string, lost error, want int) {
		t.Helper()
		host.route, host.lost = route, lost
		for range 3 {
			_, err := m.round(t.Context())
			m.settled(err)
		}
		said := 0
		for _, e := range hook.AllEntries() {
			if p, _ := e.Data["problem"].(string); strings.Contains(p, "leads through eth0") {
				said++
			}
		}
		if said != want {
			t.Errorf("said %d times, want %d", said, want)
		}
	}
	look("", nil, 0)
	look("eth0", nil, 1)
	look("eth0", errors.New("no buffer space"), 1)
	look("eth0", nil, 1)
	look("", nil, 1)
	look("eth0", nil, 2)
}

// refused changes what Apply answers, and nothing else.
func (h *podHost) refused(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = err
}

func (h *podHost) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed != nil
}

// Somebody takes a link down a thousand times a second.
func TestPodMenderPaces(t *testing.T) {
	var m podMender
	now, rounds := time.Now(), 0
	for end := now.Add(10 * time.Second); now.Before(end); rounds++ {
		now = now.Add(max(time.Millisecond, m.wait(now)))
		m.took(now)
	}
	if rounds < 100 || rounds > 64+50+1 {
		t.Errorf("%d rounds in ten seconds", rounds)
	}
}
