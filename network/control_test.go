package network

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/metrics"
)

// get asks the control socket's handler.
func (b *bench) get(path string) *httptest.ResponseRecorder {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.node.control().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil).WithContext(b.t.Context()))
	if w.Code != http.StatusOK {
		b.t.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
	return w
}

func (b *bench) peerList() (peers []Peer) {
	b.t.Helper()
	if err := json.Unmarshal(b.get("/v1/peers").Body.Bytes(), &peers); err != nil {
		b.t.Fatal(err)
	}
	return peers
}

// told gives what happened after an event, each a line.
func (b *bench) told(after uint64) (lines []string, last uint64) {
	b.t.Helper()
	last = after
	for line := range strings.Lines(b.get(fmt.Sprint("/v1/events?after=", after)).Body.String()) {
		var e events.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatal(err)
		}
		lines, last = append(lines, e.String()), e.Seq
	}
	return lines, last
}

func TestPeersAreListed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.start()
		defer b.stop()
		if have := b.peerList(); len(have) != 0 {
			t.Errorf("peers before there is a configuration: %v", have)
		}
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.settle(time.Second)
		came := time.Now().Truncate(time.Second)
		b.peer(3, "01:00:5e:00:00:01") // multicast
		b.settle(time.Minute)
		tunnel := PeerPath{
			Subnet: "10.42.2.0/24", Public: "192.168.77.2", VTEP: "10.42.2.0", MAC: peerMAC, Way: "tunnel", Dev: "flannel.1",
		}
		want := []Peer{
			{Lease: "10.42.2.0-24", Node: "192.168.77.2", Since: came, Paths: []PeerPath{tunnel}},
			{Lease: "10.42.3.0-24", Node: "192.168.77.3", Reason: "VtepMAC 01:00:5e:00:00:01 is not the address of one station"},
		}
		have := b.peerList()
		if len(have) > 0 && came.Sub(have[0].Since).Abs() <= 2*time.Second {
			have[0].Since = came
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("(-want +have):\n%s", d)
		}

		b.server.SetConfig([]byte(strings.Replace(config1, `"vxlan"`, `"vxlan","DirectRouting":true`, 1)))
		b.settle(time.Second)
		want[0].Paths[0] = PeerPath{Subnet: "10.42.2.0/24", Public: "192.168.77.2", Way: "direct", Dev: "eth0"}
		have = b.peerList()
		if len(have) > 0 && came.Sub(have[0].Since).Abs() <= 2*time.Second {
			have[0].Since = came // the host has changed, not the peer
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("with DirectRouting (-want +have):\n%s", d)
		}
	})
}

func TestWhatHappenedIsTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		lease := b.node.Status().Node.Lease
		have, at := b.told(0)
		if d := cmp.Diff([]string{
			"started", "uplink-chosen eth0: 192.168.77.1", "lease-taken " + lease, "ready",
		}, undetailed(have, "started")); d != "" {
			t.Errorf("a start (-want +have):\n%s", d)
		}
		for _, step := range []struct {
			name string
			do   func()
			want []string
		}{
			{"a peer comes", func() { b.peer(2, peerMAC) }, []string{"peer-came 10.42.2.0-24: 192.168.77.2"}},
			{
				"a peer changes", func() { b.peer(2, "02:00:00:00:00:99") },
				[]string{"peer-changed 10.42.2.0-24: 192.168.77.2"},
			},
			{
				"a clone comes", func() { b.peer(4, "02:00:00:00:00:99") },
				[]string{"peer-skipped 10.42.4.0-24: fdb 02:00:00:00:00:99 dev flannel.1 is held already by 10.42.2.0-24"},
			},
			{"it leaves again", func() { b.server.Delete("10.42.4.0-24") }, nil},
			{"an entry is deleted", func() { b.deleteRoute("10.42.2.0/24") }, []string{"repaired route 10.42.2.0/24"}},
			{
				"a clone that stays", func() { b.peer(5, "02:00:00:00:00:99") },
				[]string{"peer-skipped 10.42.5.0-24: fdb 02:00:00:00:00:99 dev flannel.1 is held already by 10.42.2.0-24"},
			},
			{
				"a peer leaves, and what it stood in the way of comes", func() { b.server.Delete("10.42.2.0-24") },
				[]string{"peer-left 10.42.2.0-24", "peer-came 10.42.5.0-24"},
			},
			{"the store is away", b.client.Cut, []string{"store-lost: the store is cut off"}},
			{"and back", b.client.Heal, []string{"store-back"}},
			{
				"the configuration changes", func() { b.server.SetConfig([]byte(`{"Network":"10.42.0.0/16"}`)) },
				[]string{`config-changed: {"Network":"10.42.0.0/16"}`},
			},
			{
				"to one that can't be followed", func() { b.server.SetConfig([]byte(`{"Network":"10.99.0.0/16"}`)) },
				[]string{"config-refused: our lease " + lease + " does not fit into it"},
			},
			{"nothing happens for an hour", func() { b.settle(time.Hour) }, nil},
		} {
			step.do()
			b.settle(2 * time.Second)
			var have []string
			if have, at = b.told(at); !sameBeginnings(step.want, have) {
				t.Errorf("%s: %q, want %q", step.name, have, step.want)
			}
		}
	})
}

func (b *bench) deleteRoute(prefix string) {
	b.t.Helper()
	key := dataplane.RouteKey{Prefix: netip.MustParsePrefix(prefix)}
	if err := b.kernel.Delete(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{key: {}}}); err != nil {
		b.t.Fatal(err)
	}
}

// TestManyPeersAreFewEvents: a ring of the newest would hold nothing else.
func TestManyPeersAreFewEvents(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		for i := 2; i < 99; i++ {
			b.peer(i, fmt.Sprintf("02:00:00:00:00:%02x", i))
		}
		b.start()
		defer b.stop()
		have, _ := b.told(0)
		if len(have) > 25 || !strings.Contains(strings.Join(have, "\n"), "peer-came 81: more at the same time") {
			t.Errorf("%d events: %q", len(have), have)
		}
	})
}

func TestEventsAreFollowed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		_, last := b.told(0)
		ctx, leave := context.WithCancel(b.t.Context())
		w := &lines{ResponseRecorder: httptest.NewRecorder(), to: make(chan string, 8)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			path := fmt.Sprint("/v1/events?follow=true&after=", last)
			b.node.control().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx))
		}()
		synctest.Wait()
		if len(w.to) > 0 {
			t.Errorf("told of before: %s", <-w.to)
		}
		for i := range 3 {
			b.peer(2+i, fmt.Sprintf("02:00:00:00:00:%02x", 2+i))
			if line := <-w.to; !strings.Contains(line, fmt.Sprintf(`"subject":"10.42.%d.0-24"`, 2+i)) {
				t.Errorf("told %s", line)
			}
		}
		leave()
		<-done
	})
}

// lines sends what is written to it, line by line.
type lines struct {
	*httptest.ResponseRecorder
	to chan string
}

func (l *lines) Write(text []byte) (int, error) {
	scanner := bufio.NewScanner(strings.NewReader(string(text)))
	for scanner.Scan() {
		l.to <- scanner.Text()
	}
	return len(text), nil
}

// undetailed cuts the details off events of a kind.
func undetailed(lines []string, kind string) []string {
	for i := range lines {
		if strings.HasPrefix(lines[i], kind) {
			lines[i] = kind
		}
	}
	return lines
}

func sameBeginnings(want, have []string) bool {
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if !strings.HasPrefix(have[i], want[i]) {
			return false
		}
	}
	return true
}

func TestStatusWithoutADaemon(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.start()
		lease := b.node.Status().Node.Lease
		b.settle(10 * time.Second)
		b.stop()
		o := Offline{
			Kernel: b.kernel, Backends: map[string]backend.Backend{"vxlan": vxlan.New()},
			SubnetFile: b.subnetFile(), StateDir: filepath.Join(b.dir, "state"),
		}
		writes := b.kernel.Writes()
		s, err := o.Status(b.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := KernelStatus{Links: []string{"flannel.1 up, MTU 1450"}, FDB: 1, Neighs: 1, Routes: 1}
		s.Kernel.Chains = 0
		if d := cmp.Diff(want, *s.Kernel); d != "" {
			t.Errorf("kernel (-want +have):\n%s", d)
		}
		wantNode := NodeStatus{
			Lease: lease, Backend: "vxlan", Subnets: []string{strings.Replace(lease, "-", "/", 1)}, Uplink: "eth0",
			Local: []string{"192.168.77.1"}, Public: []string{"192.168.77.1"}, MTU: 1450,
		}
		if d := cmp.Diff(wantNode, s.Node); d != "" {
			t.Errorf("node (-want +have):\n%s", d)
		}
		if err := b.kernel.Delete(dataplane.State{Links: map[string]dataplane.Link{"flannel.1": {}}}); err != nil {
			t.Fatal(err)
		}
		s, err = o.Status(b.t.Context())
		if err != nil || len(s.Reasons) != 2 || s.Reasons[1] != "the device flannel.1 is missing or down" {
			t.Errorf("with the device deleted: %v, %v", s.Reasons, err)
		}
		if now := b.kernel.Writes(); now != writes {
			t.Errorf("%d writes", now-writes)
		}
	})
}

// TestMetrics: what is counted, and what is read off, when somebody asks.
func TestMetrics(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.peer(3, "01:00:5e:00:00:01") // multicast
		b.start()
		defer b.stop()
		b.settle(time.Second)
		b.client.Cut()
		b.deleteRoute("10.42.2.0/24")
		b.settle(time.Second)
		m := b.node.Metrics()
		if !m.Ready || !m.Conditions[conditionLease] || m.Peers != 1 || m.Skipped["VtepMAC"] != 1 || m.Backend != "vxlan" {
			t.Errorf("node: %+v", m)
		}
		if m.StoreUp || m.Outages != 1 || m.Leases != 3 || m.Heard.IsZero() {
			t.Errorf("store: %+v", m)
		}
		if m.Writes["route"] != 2 || m.Repairs["route"] != 1 || m.Rounds == 0 || m.ReadErrors != 0 {
			t.Errorf("kernel: writes %v, repairs %v, %d rounds", m.Writes, m.Repairs, m.Rounds)
		}
		w := httptest.NewRecorder()
		metrics.Handler(b.node.Metrics).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if !strings.Contains(w.Body.String(), "\nweft_apply_delay_seconds_count 1\n") {
			t.Errorf("one change of peers went into the kernel:\n%s", w.Body)
		}
		b.client.Heal()
		b.settle(time.Second)
		if m := b.node.Metrics(); !m.StoreUp || m.Outages != 1 {
			t.Errorf("with the store back: %+v", m)
		}
	})
}

// TestAStuckNodeIsNotAlive: a kernel that doesn't answer, for as long as nobody
// would wait.
func TestAStuckNodeIsNotAlive(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		free := make(chan struct{})
		b.start()
		defer b.stop()
		alive := func(want string) {
			t.Helper()
			have := ""
			if err := b.node.opts.Health.Live(); err != nil {
				have = err.Error()
			}
			if !strings.Contains(have, want) || want == "" && have != "" {
				t.Errorf("alive: %q, want %q", have, want)
			}
		}
		alive("")
		b.kernel.FailOps(func(dataplane.Op) error { <-free; return nil })
		b.peer(2, peerMAC)
		b.settle(time.Second)
		alive("")
		b.settle(2 * time.Minute)
		alive("the loop that programs the kernel has not answered for 2m")
		close(free)
		b.settle(time.Second)
		alive("")
	})
}
