package kube_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
)

const (
	patience = 20 * time.Second
	network  = `{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}`
	vtep     = `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`
)

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func claimOf(t *testing.T, raw string) subnet.Claim {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := subnet.Claim{Config: cfg, Backend: cfg.Backend}
	for _, n := range cfg.Networks {
		public := addr("192.0.2.1")
		if n.Prefix.Addr().Is6() {
			public = addr("2001:db8::1")
		}
		c.Shares = append(c.Shares, subnet.Share{Public: public, Data: []byte(vtep)})
	}
	return c
}

// eventually polls until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// held runs Hold in the background.
func held(t *testing.T, s *kube.Store, l subnet.Lease) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- s.Hold(ctx, l) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return ended
}

// watched runs Watch in the background and gives its snapshots.
func watched(t *testing.T, s *kube.Store) func(what string, wanted func(subnet.Snapshot) bool) subnet.Snapshot {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	to := make(chan subnet.Snapshot)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Watch(ctx, to) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(what string, wanted func(subnet.Snapshot) bool) subnet.Snapshot {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case got := <-to:
				if wanted(got) {
					return got
				}
			case <-deadline:
				t.Fatalf("waited %v for %s", patience, what)
			}
		}
	}
}

func receive(t *testing.T, from <-chan error) error {
	t.Helper()
	select {
	case err := <-from:
		return err
	case <-time.After(patience):
		t.Fatalf("waited %v", patience)
		return nil
	}
}

func reasons(c *cluster) []string {
	var out []string
	for _, e := range c.Events() {
		out = append(out, e.InvolvedObject.Name+" "+e.Reason)
	}
	return out
}

func TestAPodCIDRIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1")
	got := make(chan error, 1)
	var l subnet.Lease
	go func() {
		var err error
		l, err = s.Acquire(short(t), claimOf(t, network))
		got <- err
	}()
	eventually(t, "an Event", func() bool { return len(c.Events()) == 1 })
	if d := cmp.Diff([]string{"node-1 WeftWaitsForPodCIDR"}, reasons(c)); d != "" {
		t.Errorf("Events (-want +have):\n%s", d)
	}
	c.SetPodCIDRs("node-1", "10.9.7.0/24")
	if err := receive(t, got); err != nil || l.ID != "node-1:10.9.7.0/24" {
		t.Errorf("have lease %q, %v", l.ID, err)
	}
}

func TestNodesOfWhichNoLeaseCanBeMade(t *testing.T) {
	t.Parallel()
	const two = `{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`
	for name, tt := range map[string]struct {
		podCIDRs []string
		config   string
		want     string
	}{
		"never assigned": {nil, network, "node node-1: podCIDR is not assigned"},
		"outside":        {[]string{"10.8.1.0/24"}, network, "node node-1: podCIDRs has 10.8.1.0/24, which lies outside of the cluster network 10.9.0.0/16"},
		"around":         {[]string{"10.0.0.0/8"}, network, "node node-1: podCIDRs has 10.0.0.0/8, which lies outside of the cluster network 10.9.0.0/16"},
		"three":          {[]string{"10.9.1.0/24", "10.9.2.0/24", "fd09::/64"}, network, "node node-1: podCIDRs has 3 entries: one, or one of each family, is possible"},
		"half":           {[]string{"10.9.1.0/24"}, two, "node node-1: podCIDRs has no subnet in the cluster network fd09::/48"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			s, _ := c.open(t)
			c.Create("node-1", tt.podCIDRs...)
			for range 2 {
				_, err := s.Acquire(short(t), claimOf(t, tt.config))
				if err == nil || err.Error() != tt.want {
					t.Errorf("want %q, have %v", tt.want, err)
				}
			}
			if have := c.Events(); len(have) != 1 {
				t.Errorf("want one Event, have %v", have)
			}
			if n := c.Node("node-1"); len(n.Annotations) != 0 {
				t.Errorf("something was written: %v", n.Annotations)
			}
		})
	}
}

func TestANodeThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	_, err := s.Acquire(short(t), claimOf(t, network))
	if err == nil || !strings.Contains(err.Error(), "node-1") || !strings.Contains(err.Error(), "NODE_NAME") {
		t.Errorf("want the name and the next step, have %v", err)
	}
}

func TestWhatIsWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	c.Annotate("node-1", map[string]string{"example.com/other": "stays", prefix + "public-ipv6": "fd77::9"})
	if _, err := s.Acquire(short(t), claimOf(t, network)); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"example.com/other":            "stays",
		prefix + "kube-subnet-manager": "true",
		prefix + "backend-type":        "vxlan",
		prefix + "backend-data":        vtep,
		prefix + "public-ip":           "192.0.2.1",
	}
	if d := cmp.Diff(want, c.Node("node-1").Annotations); d != "" {
		t.Errorf("annotations (-want +have):\n%s", d)
	}
	for range 3 {
		if _, err := s.Acquire(short(t), claimOf(t, network)); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Counts()["patch nodes/status"]; n != 1 {
		t.Errorf("want one write, have %d", n)
	}
}

func TestTheNodeIsThatOfThePod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.AddPod("kube-flannel", "weft-abc", "node-7")
	c.Create("node-7", "10.9.7.0/24")
	s, _ := c.open(t, func(o *kube.Options) { o.Node, o.PodName, o.PodSpace = "", "weft-abc", "kube-flannel" })
	l, err := s.Acquire(short(t), claimOf(t, network))
	if err != nil || l.Node != "node-7" {
		t.Errorf("have %+v, %v", l, err)
	}
	_, err = kube.New(kube.Options{URL: "http://127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "NODE_NAME") {
		t.Errorf("without a name: have %v", err)
	}
}

func TestAChangedPodCIDREndsTheLease(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	l, err := s.Acquire(short(t), claimOf(t, network))
	if err != nil {
		t.Fatal(err)
	}
	ended := held(t, s, l)
	c.SetPodCIDRs("node-1", "10.9.2.0/24")
	if err := receive(t, ended); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("want ErrLeaseLost, have %v", err)
	}
	if _, err := s.Publish(short(t), l, l); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("publish: want ErrLeaseLost, have %v", err)
	}
	if l, err = s.Acquire(short(t), claimOf(t, network)); err != nil || l.ID != "node-1:10.9.2.0/24" {
		t.Errorf("have %q, %v", l.ID, err)
	}
}

func TestAUserOverwritesTheAddress(t *testing.T) {
	t.Parallel()
	const key = prefix + "public-ip-overwrite"
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	c.Annotate("node-1", map[string]string{key: "203.0.113.1"})
	announced := func(want string) subnet.Lease {
		t.Helper()
		l, err := s.Acquire(short(t), claimOf(t, network))
		if err != nil {
			t.Fatal(err)
		}
		if have := c.Node("node-1").Annotations[prefix+"public-ip"]; have != want || l.Shares[0].Public != addr(want) {
			t.Errorf("want %s, have %s in the Node and %s in the lease", want, have, l.Shares[0].Public)
		}
		return l
	}
	ended := held(t, s, announced("203.0.113.1"))
	c.Annotate("node-1", map[string]string{key: "203.0.113.2"})
	if err := receive(t, ended); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("another address: want ErrLeaseChanged, have %v", err)
	}
	ended = held(t, s, announced("203.0.113.2"))
	c.Annotate("node-1", map[string]string{key: "nonsense"})
	eventually(t, "an Event about nonsense", func() bool {
		return slices.Contains(reasons(c), "node-1 WeftIgnoresAnnotation")
	})
	if have := c.Node("node-1").Annotations[prefix+"public-ip"]; have != "203.0.113.2" {
		t.Errorf("nonsense changed the address to %s", have)
	}
	c.Annotate("node-1", map[string]string{key: ""})
	if err := receive(t, ended); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("no address: want ErrLeaseChanged, have %v", err)
	}
	announced("192.0.2.1")
}

func TestSelf(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	share := subnet.Share{Public: addr("192.0.2.9"), Data: []byte(vtep)}
	c.rewrite(subnet.Lease{Node: "node-1", Backend: "vxlan", Shares: []subnet.Share{share}})
	c.Annotate("node-1", map[string]string{
		prefix + "kube-subnet-manager": "true",
		prefix + "node-public-ip":      "192.0.2.8", prefix + "node-public-ipv6": "nonsense",
	})
	watched(t, s)("a lease", func(s subnet.Snapshot) bool { return len(s.Leases) == 1 })
	last, public := s.Self()
	if string(last.Shares[0].Data) != vtep || len(public) != 1 || public[0] != addr("192.0.2.8") {
		t.Errorf("have %+v and %v", last, public)
	}
}

// Conflicts with a kubelet's heartbeats are decided anew, not lost.
func TestPublishAmongHeartbeats(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	l, err := s.Acquire(short(t), claimOf(t, network))
	if err != nil {
		t.Fatal(err)
	}
	ended := held(t, s, l)
	stop, beats := make(chan struct{}), sync.WaitGroup{}
	beats.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.beat("node-1")
			case <-stop:
				return
			}
		}
	})
	for i := range 20 {
		next := l
		next.Shares = slices.Clone(l.Shares)
		next.Shares[0].Data = []byte(strings.Replace(vtep, "01\"}", "0"+string(rune('0'+i%10))+"\"}", 1))
		if l, err = s.Publish(short(t), l, next); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	beats.Wait()
	select {
	case err := <-ended:
		t.Errorf("our own writes ended Hold: %v", err)
	default:
	}
}

// beat is a kubelet's heartbeat.
func (c *cluster) beat(name string) {
	c.Change(name, func(n *corev1.Node) {
		for i := range n.Status.Conditions {
			n.Status.Conditions[i].LastHeartbeatTime.Time = n.Status.Conditions[i].LastHeartbeatTime.Add(10 * time.Second)
		}
	})
}

func TestOneWatchForAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	l, err := s.Acquire(short(t), claimOf(t, network))
	if err != nil {
		t.Fatal(err)
	}
	held(t, s, l)
	held(t, s, l)
	next := watched(t, s)
	next("a lease", func(s subnet.Snapshot) bool { return len(s.Leases) == 1 })
	if have := c.Counts(); have["watch nodes"] != 1 || have["list nodes"] != 0 {
		t.Errorf("want one watch, have %v", have)
	}
}

func has(name string) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool {
		return slices.ContainsFunc(s.Leases, func(l subnet.Lease) bool { return l.Node == name })
	}
}

// join adds a Node that announces something.
func (c *cluster) join(name, podCIDR, ip string) {
	c.Create(name, podCIDR)
	c.Annotate(name, map[string]string{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
		prefix + "backend-data": vtep, prefix + "public-ip": ip,
	})
}

func TestWatchGoesOn(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(t *testing.T, c *cluster, back func()){
		"over a broken connection": func(_ *testing.T, c *cluster, back func()) {
			c.join("node-3", "10.9.3.0/24", "192.0.2.3")
			back()
		},
		"over a history that ends": func(_ *testing.T, c *cluster, back func()) {
			c.Delete("node-2")
			c.join("node-3", "10.9.3.0/24", "192.0.2.3")
			c.Forget()
			back()
		},
		"over a restored store": func(_ *testing.T, c *cluster, back func()) {
			c.Delete("node-2")
			c.join("node-3", "10.9.3.0/24", "192.0.2.3")
			c.Restore(50)
			back()
		},
		"over a missing verb": func(_ *testing.T, c *cluster, back func()) {
			c.Refuse("watch nodes", http.StatusForbidden)
			back()
			c.join("node-3", "10.9.3.0/24", "192.0.2.3")
			c.Refuse("watch nodes", 0)
		},
		"over an expired token": func(_ *testing.T, c *cluster, back func()) {
			c.Refuse("watch nodes", http.StatusUnauthorized)
			back()
			c.join("node-3", "10.9.3.0/24", "192.0.2.3")
			c.Refuse("watch nodes", 0)
		},
	} {
		for mode, stream := range map[string]bool{"streamed": true, "listed": false} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t)
				c.Modes(stream, true)
				s, door := c.open(t)
				c.join("node-2", "10.9.2.0/24", "192.0.2.2")
				next := watched(t, s)
				next("the first", has("node-2"))
				eventually(t, "the watch to begin", func() bool { return c.Streams() == 1 })
				door.Shut()
				eventually(t, "the watch to end", func() bool { return c.Streams() == 0 })
				away(t, c, door.Reopen)
				gone := c.Node("node-2") == nil
				got := next("what came meanwhile", has("node-3"))
				if gone && has("node-2")(got) {
					t.Error("what went meanwhile is still there")
				}
			})
		}
	}
}

// Whoever is asked for time gives it.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, door := c.open(t)
	c.join("node-2", "10.9.2.0/24", "192.0.2.2")
	next := watched(t, s)
	next("the first", has("node-2"))
	before, began := c.Counts()["watch nodes"], time.Now()
	c.Refuse("watch nodes", http.StatusTooManyRequests)
	door.Break()
	eventually(t, "a refusal", func() bool { return c.Counts()["watch nodes"] > before })
	c.Refuse("watch nodes", 0)
	c.join("node-3", "10.9.3.0/24", "192.0.2.3")
	next("what came meanwhile", has("node-3"))
	if took := time.Since(began); took < time.Second {
		t.Errorf("asked again within %s, want a second at least", took)
	}
}

// A restored store is told by its revision, to whoever judges that.
func TestRevisionOfARestoredStore(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.join("node-2", "10.9.2.0/24", "192.0.2.2")
	next := watched(t, s)
	before := next("the first", has("node-2")).Revision
	c.Restore(50)
	c.Bookmark()
	c.join("node-3", "10.9.3.0/24", "192.0.2.3")
	if after := next("the second", has("node-3")).Revision; after >= before {
		t.Errorf("revision %d after %d: the restore is hidden", after, before)
	}
}

func TestWhatIsLogged(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	s, _ := c.open(t, func(o *kube.Options) { o.Log = log })
	c.Refuse("watch nodes", http.StatusForbidden)
	c.Refuse("create events", http.StatusForbidden)
	c.Create("node-1")
	next := watched(t, s)
	_, err := s.Acquire(short(t), claimOf(t, network))
	if err == nil {
		t.Fatal("a lease without a podCIDR")
	}
	c.Refuse("watch nodes", 0)
	next("anything", func(subnet.Snapshot) bool { return true })
	want := map[string]int{
		"there is no network configuration":                                          1,
		"the Nodes can't be followed, trying on; give the service account this verb": 1,
		"the Nodes are followed again":                                               1,
		"podCIDR is not assigned":                                                    1,
		"no Event says so; give the service account this verb":                       1,
	}
	for part, times := range want {
		have := 0
		for _, e := range hook.AllEntries() {
			if strings.Contains(e.Message, part) {
				have++
			}
		}
		if have != times {
			t.Errorf("%q: want it %d times, have it %d times", part, times, have)
		}
	}
}

func TestHeartbeatsAreNoNews(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.join("node-2", "10.9.2.0/24", "192.0.2.2")
	snapshots := 0
	next := watched(t, s)
	next("the first", has("node-2"))
	for range 100 {
		c.beat("node-2")
	}
	c.join("node-3", "10.9.3.0/24", "192.0.2.3")
	next("the second", func(s subnet.Snapshot) bool { snapshots++; return has("node-3")(s) })
	if snapshots > 3 { // node-3 comes in two steps
		t.Errorf("%d snapshots for 100 heartbeats and one Node", snapshots)
	}
}

func TestNetworkUnavailable(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	c.Change("node-1", func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	})
	set := func(ready bool, reason string) corev1.NodeCondition {
		t.Helper()
		if err := s.SetNetworkAvailable(short(t), ready, reason); err != nil {
			t.Fatal(err)
		}
		have := c.Node("node-1").Status.Conditions
		if len(have) != 2 || have[0].Type != corev1.NodeReady || have[1].Type != corev1.NodeNetworkUnavailable {
			t.Fatalf("conditions: %+v", have)
		}
		return have[1]
	}
	up := set(true, "")
	if up.Status != "False" || up.Reason != "FlannelIsUp" || up.Message != "Flannel is running on this node" ||
		up.LastTransitionTime.IsZero() || up.LastHeartbeatTime.IsZero() {
		t.Errorf("ready: %+v", up)
	}
	set(true, "")
	if n := c.Counts()["patch nodes/status"]; n != 1 {
		t.Errorf("want one write, have %d", n)
	}
	if down := set(false, "uplink: is gone"); down.Status != "True" || down.Message != "uplink: is gone" {
		t.Errorf("not ready: %+v", down)
	}
	watched(t, s)("anything", func(subnet.Snapshot) bool { return true })
	set(true, "")
	reads := c.Counts()["get nodes"]
	eventually(t, "the condition to be heard", func() bool {
		set(true, "")
		now := c.Counts()["get nodes"]
		quiet := now == reads
		reads = now
		return quiet
	})
	off, _ := c.open(t, func(o *kube.Options) { o.KeepCondition = false })
	writes := c.Counts()["patch nodes/status"]
	if err := off.SetNetworkAvailable(short(t), false, "x"); err != nil || c.Counts()["patch nodes/status"] != writes {
		t.Errorf("switched off: %v, %d writes", err, c.Counts()["patch nodes/status"]-writes)
	}
}

func TestNothingIsWrittenWithoutTheVerb(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, _ := c.open(t)
	c.Create("node-1", "10.9.1.0/24")
	c.Refuse("patch nodes/status", http.StatusForbidden)
	_, err := s.Acquire(short(t), claimOf(t, network))
	if err == nil || !strings.Contains(err.Error(), "patch the status of node node-1: nodes/status is forbidden") {
		t.Errorf("want the verb and the Node, have %v", err)
	}
}
