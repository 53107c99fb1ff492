package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// kubeFaults is a cluster whose API server stands behind a door, and traffic.
type kubeFaults struct {
	*kubernetes
	underTraffic
	front  *slowDoor
	probes int
}

// TestAPIServerFaults does to the API server what TestStoreFaults does to etcd.
func TestAPIServerFaults(t *testing.T) {
	t.Parallel()
	f := newKubeFaults(t)
	refuse := func(code int) func() {
		return func() {
			for _, what := range []string{"watch nodes", "list nodes", "get nodes", "patch nodes/status"} {
				f.api.Refuse(what, code)
			}
			f.front.cut()
		}
	}
	for _, fault := range []struct {
		name  string
		begin func()
		lasts time.Duration
		end   func()
		asks  time.Duration // how long the server asks to be left alone
	}{
		{name: "restarts", begin: f.front.shut, end: f.front.open},
		{name: "is away for long", begin: f.front.shut, lasts: 10 * time.Second, end: f.front.open},
		{name: "hangs", begin: f.front.freeze, lasts: 5 * time.Second, end: f.front.thaw},
		{
			name: "answers slowly", begin: func() { f.front.slow(400 * time.Millisecond) },
			lasts: 2 * time.Second, end: func() { f.front.slow(0) },
		},
		{name: "cuts all connections, and drops the watch so", begin: f.front.cut},
		{name: "ends what it was asked at once", begin: f.door.Shut, lasts: 5 * time.Second, end: f.door.Reopen},
		{name: "answers with errors", begin: refuse(http.StatusInternalServerError), lasts: 8 * time.Second, end: refuse(0)},
		{
			name: "is too busy", begin: refuse(http.StatusTooManyRequests), lasts: 4 * time.Second, end: refuse(0),
			asks: 2 * time.Second, // 1, and as much again at random
		},
		{name: "has forgotten what the watch would go on from", begin: func() { f.front.shut(); f.api.Forget() }, end: f.front.open},
		{name: "was restored from a backup", begin: func() { f.front.shut(); f.api.Restore(50) }, end: f.front.open},
		{name: "vanishes with its host", begin: f.unplug, lasts: 13 * time.Second, end: f.plug},
		{name: "is away at a start", begin: f.startWithout, lasts: time.Second, end: f.front.open},
	} {
		t.Run(fault.name, func(t *testing.T) {
			f.endure(t, fault.asks, false, func() {
				fault.begin()
				if fault.lasts > 0 {
					f.daemons[0].after(fault.lasts)
				}
				if fault.end != nil {
					fault.end()
				}
			}, f.probe)
		})
	}
}

func newKubeFaults(t *testing.T) *kubeFaults {
	t.Helper()
	f := &kubeFaults{kubernetes: newKubernetes(t, 3)}
	f.front = newSlowDoor(t, f.cluster, 6442, 6443)
	for i := range f.Nodes {
		d := f.node(i)
		for j, arg := range d.args {
			if arg == f.door.URL {
				d.args[j] = f.front.url()
			}
		}
		f.daemons = append(f.daemons, d.start())
	}
	for _, d := range f.daemons {
		d.awaitReady(2)
	}
	f.flow(t, f.cluster)
	return f
}

// probe is a Node that comes, and goes when all have it.
func (f *kubeFaults) probe(t *testing.T) time.Duration {
	t.Helper()
	f.probes++
	name, subnet := fmt.Sprintf("probe-%d", f.probes), netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", 100+f.probes))
	f.api.Create(name, subnet.String(), fmt.Sprintf("fd00:10:244:%x::/64", 100+f.probes))
	began := time.Now()
	f.api.Annotate(name, map[string]string{
		annotation + "kube-subnet-manager": "true", annotation + "backend-type": "vxlan",
		annotation + "public-ip": "192.168.77.200", annotation + "public-ipv6": "fd77::200",
		annotation + "backend-data":    `{"VNI":1,"VtepMAC":"02:00:00:00:00:c8"}`,
		annotation + "backend-v6-data": `{"VNI":1,"VtepMAC":"02:00:00:00:06:c8"}`,
	})
	eventually(t, 30*time.Second, func() error { return f.allRoute(subnet, true) })
	took := time.Since(began).Round(time.Millisecond)
	f.api.Delete(name)
	eventually(t, time.Minute, func() error { return f.allRoute(subnet, false) }) // a doubt takes 30 s
	return took
}

// unplug lets nothing through to the API server, nor tells it.
func (f *kubeFaults) unplug() {
	f.nft("add table inet unplugged; add chain inet unplugged in { type filter hook input priority 0; }; " +
		"add rule inet unplugged in tcp dport 6442 drop")
}

func (f *kubeFaults) plug() { f.nft("delete table inet unplugged") }

func (f *kubeFaults) nft(rules string) {
	f.t.Helper()
	if out, err := output(f.t, f.Outside, "nft", rules); err != nil {
		f.t.Fatalf("nft %s: %v: %s", rules, err, out)
	}
}

// startWithout kills a daemon, and starts it while the API server is away.
func (f *kubeFaults) startWithout() {
	f.saved()
	f.daemons[1].kill()
	f.front.shut()
	f.daemons[1].start()
	f.daemons[1].unchangedBy(2)
}
