package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// measureJoins starts each daemon with so many leases in the store: on an empty
// kernel, on one that is right, and on one in which a hundredth is missing.
func measureJoins(b *testing.B, p plan, out *report) {
	r := newRig(b, 2)
	filled := 0
	for _, n := range p.sizes {
		if n < filled {
			r.empty()
			filled = 0
		}
		r.fill(filled, n, 0)
		filled = n
		s := out.section(fmt.Sprintf("Join with %d peers", n),
			"From the start of the process until every route, neighbour and FDB entry is in the kernel; CPU of the daemon "+
				"up to then; resident memory at its highest, and ten seconds later. \"Right\" is a restart after kill -9 over a "+
				"kernel that is as it shall be, until the daemon has looked at it (its CPU stands still); \"stale\" one in which "+
				"one peer of a hundred has lost its route.")
		for round := range p.rounds {
			for _, c := range out.Daemons {
				r.join(s, c, n, round == p.rounds-1)
			}
		}
	}
}

// measureCold starts each daemon on a node that has nothing, with nobody else there.
func measureCold(b *testing.B, p plan, out *report) {
	r := newRig(b, 2)
	s := out.section("Cold start",
		"From the start of the process until pods can be served: there is a subnet file. No peers, no device, no lease.")
	for range 3 * p.rounds {
		for _, c := range out.Daemons {
			r.empty()
			r.clear(c, 1)
			file := filepath.Join(r.dir(c, 1), "subnet.env")
			began := time.Now()
			d := r.start(c, 1, r.dir(c, 1))
			until(b, time.Millisecond, func() error { _, err := os.Stat(file); return err })
			s.add("time", "s", c.name, time.Since(began).Seconds())
			d.quiet()
			s.add("CPU until quiet", "s", c.name, d.cpu())
			d.kill()
		}
	}
}

// measureFloor is what the kernel takes at the least for the entries of 10,000 peers,
// and what the daemon's own writing of them takes, in turns.
func measureFloor(b *testing.B, p plan, out *report) {
	s := out.section("Writing 10,000 peers",
		"Processor time alone, by `make bench-netlink`: the best batch of messages, and the daemon's Apply.")
	for range p.rounds {
		cmd := exec.Command("go", "test", "-count=1", "-run", "^$", "-benchtime", "1x",
			"-bench", "^BenchmarkFloor$/^(batched,_the_last_acknowledged|Apply)$", "./pkg/dataplane/linux")
		cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		text, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("bench-netlink: %v\n%s", err, text)
		}
		spent := map[string]float64{}
		for line := range strings.Lines(string(text)) {
			var ms float64
			if f := strings.Fields(line); len(f) == 6 && f[5] == "cpu-ms" {
				_, _ = fmt.Sscan(f[4], &ms)
				spent[strings.TrimPrefix(f[0], "BenchmarkFloor/")[:5]] = ms
			}
		}
		s.add("the best batch", "ms", "weft", spent["batch"])
		s.add("Apply", "ms", "weft", spent["Apply"])
		s.add("Apply / the best batch", "", "weft", spent["Apply"]/spent["batch"])
	}
}

// ready is what ours says then.
const ready = "ready: pods can be served"

func (r *rig) join(s *section, c contender, n int, last bool) {
	r.clear(c, 1)
	etcd, began := r.server.cpu(), time.Now()
	d := r.start(c, 1, r.dir(c, 1))
	d.await(n)
	s.add("empty: time", "s", c.name, time.Since(began).Seconds())
	s.add("empty: CPU", "s", c.name, d.cpu())
	s.add("empty: CPU of etcd", "s", c.name, r.server.cpu()-etcd)
	s.add("empty: memory at the highest", "MiB", c.name, d.memory("VmHWM"))
	if last {
		d.rest(c, s, "memory later")
	} else {
		d.quiet()
	}
	d.kill()

	must(r.t, os.Remove(d.log))
	began = time.Now()
	d = r.start(c, 1, r.dir(c, 1))
	if c.ours {
		s.add("right: time until ready", "s", c.name, d.said(ready, began).Seconds())
	}
	d.quiet()
	s.add("right: CPU until quiet", "s", c.name, d.cpu())
	d.kill()

	must(r.t, d.node.Do(func() error { return dropRoutes(n / 100) }))
	began = time.Now()
	d = r.start(c, 1, r.dir(c, 1))
	d.await(n)
	s.add("stale: time", "s", c.name, time.Since(began).Seconds())
	s.add("stale: CPU", "s", c.name, d.cpu())
	d.kill()

	if !c.ours { // some see no peer at all then
		return
	}
	r.spoil(n / 100)
	r.clear(c, 1)
	began = time.Now()
	d = r.start(c, 1, r.dir(c, 1))
	d.await(n - n/100)
	s.add("1 % malformed: time", "s", c.name, time.Since(began).Seconds())
	s.add("1 % malformed: CPU", "s", c.name, d.cpu())
	d.kill()
	r.fill(0, n/100, 0)
}

// spoil makes the first leases unreadable, in several ways.
func (r *rig) spoil(n int) {
	r.t.Helper()
	ways := []string{"", "{", "null", `{"PublicIP":"172.16.0.300"}`, strings.Replace(peerValue(0, 0), "02:00", "02-zz", 1)}
	r.batch(0, n, func(i int) clientv3.Op { return clientv3.OpPut(peerKey(i), ways[i%len(ways)]) })
}

// rest waits for ten seconds and tells the memory.
func (d *running) rest(c contender, s *section, what string) {
	d.t.Helper()
	<-time.After(10 * time.Second)
	s.add(what, "MiB", c.name, d.memory("VmRSS"))
}

// quiet waits until a daemon has not taken processor time for half a second.
func (d *running) quiet() {
	d.t.Helper()
	was, since := -1.0, time.Now()
	until(d.t, 50*time.Millisecond, func() error {
		if now := d.cpu(); now != was {
			was, since = now, time.Now()
		}
		if was < 0.02 || time.Since(since) < 500*time.Millisecond {
			return errors.New("it is at work")
		}
		return nil
	})
}

func dropRoutes(n int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	for _, route := range routes[:min(n, len(routes))] {
		// By its key alone: with more the kernel finds none that goes by an object.
		err = errors.Join(err, netlink.RouteDel(&netlink.Route{Dst: route.Dst}))
	}
	return err
}

// measureChurn adds, changes and removes 1,000 of 5,000 peers.
func measureChurn(b *testing.B, p plan, out *report) {
	const peers, some = 5000, 1000
	r := newRig(b, 2)
	s := out.section("1,000 leases at 5,000 peers",
		"From the last of ten transactions of a hundred leases until routes and neighbours are as they shall be; FDB entries "+
			"too many or too few when their number stands still.")
	for range p.rounds {
		for _, c := range out.Daemons {
			r.empty()
			r.fill(0, peers, 0)
			d := r.begin(c, 1)
			d.await(peers)
			step := func(what string, peers int, do func()) {
				do()
				began := time.Now()
				d.awaitKinds(peers, unix.RTM_GETROUTE, unix.AF_INET) // some leave FDB entries behind for ever
				s.add(what, "ms", c.name, float64(time.Since(began))/1e6)
				s.add(what+": FDB entries left behind", "", c.name, float64(r.settled(d)-peers))
			}
			step("added", peers+some, func() { r.fill(peers, peers+some, 0) })
			r.changed(s, c, d, peers, peers+some)
			step("removed", peers, func() {
				r.batch(peers, peers+some, func(i int) clientv3.Op { return clientv3.OpDelete(peerKey(i)) })
			})
			s.add("CPU in all", "s", c.name, d.cpu())
			d.kill()
		}
	}
}

// changed gives peers other MACs, and waits for the last of their FDB entries.
func (r *rig) changed(s *section, c contender, d *running, from, to int) {
	r.fill(from, to, 7)
	began := time.Now()
	until(r.t, 10*time.Millisecond, func() error {
		left := errors.New("not all MACs are there")
		must(r.t, d.node.Do(func() error {
			link, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			neighs, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
			n := 0
			for _, e := range neighs {
				if len(e.HardwareAddr) == 6 && e.HardwareAddr[2] == 7 {
					n++
				}
			}
			if n == to-from {
				left = nil
			}
			return err
		}))
		return left
	})
	s.add("changed (their neighbours)", "ms", c.name, float64(time.Since(began))/1e6)
	s.add("changed: FDB entries left behind", "", c.name, float64(r.settled(d)-to))
}

// settled counts FDB entries when their number stands still.
func (r *rig) settled(d *running) int {
	was, since := -1, time.Now()
	until(r.t, 100*time.Millisecond, func() error {
		if now := d.holds(unix.AF_BRIDGE); now != was {
			was, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return errors.New("it still changes")
		}
		return nil
	})
	return was
}

// measureLatency puts one lease after the other, and times its route.
func measureLatency(b *testing.B, p plan, out *report) {
	const some = 200
	r := newRig(b, 2)
	for _, n := range p.sizes {
		s := out.section(fmt.Sprintf("One lease at %d peers", n), fmt.Sprintf(
			"From before the put of one new lease until its route is notified, and until another client's watch tells of the "+
				"lease; %d leases, one after the other.", some))
		for _, c := range out.Daemons {
			r.empty()
			r.fill(0, n, 0)
			d := r.begin(c, 1)
			d.await(n)
			kernel, store := r.latencies(d, n, some)
			for what, values := range map[string][]float64{"kernel": kernel, "store's watch": store} {
				s.add(what+", p50", "ms", c.name, percentile(values, 50))
				s.add(what+", p99", "ms", c.name, percentile(values, 99))
			}
			slices.SortFunc(s.Rows, func(a, b *row) int { return strings.Compare(a.What, b.What) })
			d.kill()
		}
	}
}

func (r *rig) latencies(d *running, from, some int) (kernel, store []float64) {
	updates, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	defer close(done)
	must(r.t, d.node.Do(func() error { return netlink.RouteSubscribe(updates, done) }))
	events := r.etcd.Watch(r.t.Context(), leasesKey, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	for i := from; i < from+some; i++ {
		began := time.Now()
		r.put(peerKey(i), peerValue(i, 0))
		<-events
		store = append(store, float64(time.Since(began))/1e6)
		want := netip.AddrFrom4([4]byte{10, byte(100 + i/256), byte(i % 256), 0})
		late := time.After(patience)
		for found := false; !found; {
			select {
			case u := <-updates:
				found = u.Dst != nil && u.Dst.IP.String() == want.String()
			case <-late:
				r.t.Fatalf("no route to %s", want)
			}
		}
		kernel = append(kernel, float64(time.Since(began))/1e6)
	}
	return kernel, store
}

// measureMass starts many daemons at once on a store without leases.
func measureMass(b *testing.B, p plan, out *report) {
	for _, n := range []int{20, 50} {
		r := newRig(b, n+1)
		s := out.section(fmt.Sprintf("%d daemons at once", n),
			"From the start of the first until each has routes to all others; those that ended by themselves.")
		for range p.rounds {
			for _, c := range out.Daemons {
				r.mass(s, c, n)
			}
		}
	}
}

func (r *rig) mass(s *section, c contender, n int) {
	r.empty()
	for i := 1; i <= n; i++ {
		r.clear(c, i)
	}
	began := time.Now()
	var all []*running
	for i := 1; i <= n; i++ {
		all = append(all, r.start(c, i, r.dir(c, i)))
	}
	ended := 0
	waiting := slices.Clone(all)
	until(r.t, 10*time.Millisecond, func() error {
		for len(waiting) > 0 {
			d := waiting[0]
			select {
			case <-d.proc.Done(): // others then wait for a peer that never comes
				ended++
				node := slices.IndexFunc(r.Nodes, func(o *topology.Node) bool { return o == d.node })
				waiting[0] = r.start(c, node, filepath.Dir(d.log))
				all = append(all, waiting[0])
				return errors.New("one had to be started again")
			default:
			}
			if have := d.holds(unix.RTM_GETROUTE); have != n-1 {
				return fmt.Errorf("%s: %d of %d routes", d.node.Name, have, n-1)
			}
			waiting = waiting[1:]
		}
		return nil
	})
	s.add("full mesh", "s", c.name, time.Since(began).Seconds())
	s.add("ended by themselves", "", c.name, float64(ended))
	cpu := 0.0
	for _, d := range all {
		select {
		case <-d.proc.Done():
		default:
			cpu += d.cpu()
		}
		d.kill()
	}
	s.add("CPU of all", "s", c.name, cpu)
}

// measureIdle leaves daemons with many peers alone, each on its node.
func measureIdle(b *testing.B, p plan, out *report) {
	n := slices.Max(p.sizes)
	r := newRig(b, 1+len(out.Daemons))
	r.fill(0, n, 0)
	s := out.section(fmt.Sprintf("Idle with %d peers", n), fmt.Sprintf(
		"%s, ten seconds after the join, with the slow audits in them; all daemons at once.", p.idle))
	all := make([]*running, len(out.Daemons))
	before := make([]float64, len(all))
	for i, c := range out.Daemons {
		all[i] = r.begin(c, 1+i)
		all[i].await(n + i) // those before have leases, too
		all[i].rest(c, s, "memory")
	}
	for i, d := range all {
		before[i] = d.cpu()
	}
	began := time.Now()
	<-time.After(p.idle)
	for i, d := range all {
		c := out.Daemons[i]
		s.add("CPU, of one core", "%", c.name, 100*(d.cpu()-before[i])/time.Since(began).Seconds())
		s.add("memory after it", "MiB", c.name, d.memory("VmRSS"))
		s.add("memory after it, without pages of files", "MiB", c.name, d.memory("RssAnon"))
		d.kill()
	}
}
