package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// backAgain is how soon after a store answers again all nodes know what it says.
const backAgain = 2 * time.Second

// storeFault is one way in which the store, or somebody in it, fails.
type storeFault struct {
	name  string
	begin func(*faults)
	lasts time.Duration
	end   func(*faults) // from its end on the store answers
	lossy bool          // packets may get lost, as said there
}

// faults is a cluster with a store of its own, and traffic.
type faults struct {
	*cluster
	underTraffic
	t      *testing.T
	door   *slowDoor
	probes int
}

// underTraffic is what goes on while a store fails.
type underTraffic struct {
	daemons []*daemon
	streams []*stream
}

// flow lets a pod of the second node and one of the third talk to each other.
func (u *underTraffic) flow(t *testing.T, c *cluster) {
	t.Helper()
	here, there := c.pod(c.Nodes[1], "a"), c.pod(c.Nodes[2], "a")
	for i := range here.Addrs {
		u.streams = append(u.streams, startStream(t, &here.Namespace, &there.Namespace, there.Addrs[i]),
			startStream(t, &there.Namespace, &here.Namespace, here.Addrs[i]))
	}
}

// TestStoreFaults does to the store what operators fear, while pods talk to each
// other. Nothing is lost, and soon after the store is back all nodes have what it
// was told last.
func TestStoreFaults(t *testing.T) {
	f := newFaults(t)
	for _, fault := range f.all() {
		t.Run(fault.name, func(t *testing.T) { f.endure(t, fault) })
	}
	for _, s := range f.streams {
		if have := s.finish(); have.Twice > 0 {
			t.Errorf("stream from %s: %d packets twice", s.name, have.Twice)
		}
	}
}

func newFaults(t *testing.T) *faults {
	f := &faults{cluster: newCluster(t, 3, underlay4, underlay6), t: t}
	f.newStore(dualConfig(`{"Type":"vxlan"}`))
	f.door = newSlowDoor(t, f.cluster, 2378, 2379)
	for i := range f.Nodes {
		f.daemons = append(f.daemons, f.daemon(i, "--etcd-endpoints", f.door.url()).start())
	}
	for _, d := range f.daemons {
		d.awaitReady(2)
	}
	f.flow(t, f.cluster)
	return f
}

func (f *faults) endure(t *testing.T, fault storeFault) {
	f.underTraffic.endure(t, 0, fault.lossy, func() {
		fault.begin(f)
		if fault.lasts > 0 {
			f.daemons[0].after(fault.lasts)
		}
		if fault.end != nil {
			fault.end(f)
		}
		eventually(t, 20*time.Second, func() error {
			_, err := f.store.try("get", "/coreos.com/network/config")
			return err
		})
	}, f.probe)
}

// endure goes through a fault, and tells by a probe when all nodes follow the
// store again. It may have asked them to wait.
func (u *underTraffic) endure(
	t *testing.T, asked time.Duration, lossy bool, fault func(), probe func(*testing.T) time.Duration,
) {
	t.Helper()
	before := missing(u.streams)
	fault()
	took := probe(t)
	for _, d := range u.daemons {
		d.awaitReady(2)
	}
	watch(t, 200, u.streams...) // packets flow
	eventually(t, 10*time.Second, func() error {
		if lost := missing(u.streams) - before; lost > 0 && !lossy {
			return fmt.Errorf("%d packets lost", lost)
		}
		return nil
	})
	t.Logf("all nodes follow %s after the store is back; %d packets missing", took, max(0, missing(u.streams)-before))
	if most := backAgain + asked; took > most {
		t.Errorf("all nodes follow %s after the store is back, want at most %s", took, most)
	}
}

// probe is a peer that comes, and goes when all have it: what all nodes hear of
// the store arrives after all that was said before.
func (f *faults) probe(t *testing.T) (took time.Duration) {
	t.Helper()
	f.probes++
	subnet := fmt.Sprintf("10.42.250.%d/28", f.probes%16*16)
	key := subnetsPrefix + strings.Replace(subnet, "/", "-", 1) + fmt.Sprintf("&fd00:42:0:%x::-64", 0xf000+f.probes)
	began := time.Now()
	_, err := f.store.try("put", key, `{"PublicIP":"192.168.77.200","PublicIPv6":"fd77::200","BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:c8"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:c8"}}`)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParsePrefix(subnet)
	eventually(t, 30*time.Second, func() error { return f.allRoute(to, true) })
	took = time.Since(began).Round(time.Millisecond)
	if _, err := f.store.try("del", key); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { return f.allRoute(to, false) }) // a doubt takes 30 s
	return took
}

// allRoute wants every node to have a route to a subnet, or none.
func (c *cluster) allRoute(subnet netip.Prefix, want bool) error {
	for i := range c.Nodes {
		way, err := c.way(i, subnet)
		if err != nil {
			return err
		}
		if (way != "") != want {
			return fmt.Errorf("node %d has %q to the probe, want it there: %v", i+1, way, want)
		}
	}
	return nil
}

func (f *faults) all() []storeFault {
	kill, start := func(f *faults) { f.store.kill() }, func(f *faults) { f.store.start() }
	return []storeFault{
		{name: "restarted", begin: func(f *faults) { f.store.stop() }, end: start},
		{name: "killed", begin: kill, end: start},
		{name: "away for long", begin: kill, lasts: 20 * time.Second, end: start},
		{name: "hangs", begin: func(f *faults) { f.store.freeze() }, lasts: 15 * time.Second, end: func(f *faults) { f.store.thaw() }},
		{
			name: "answers slowly", begin: func(f *faults) { f.door.slow(400 * time.Millisecond) },
			lasts: 3 * time.Second, end: func(f *faults) { f.door.slow(0) },
		},
		{name: "all connections are cut", begin: func(f *faults) { f.door.cut() }},
		{name: "answers with errors", begin: (*faults).lock, lasts: 5 * time.Second, end: (*faults).unlock},
		{name: "compacted beyond what the nodes know, which cancels their watches", begin: (*faults).suspendAll, end: (*faults).compactAll},
		{name: "restored from a backup", begin: (*faults).restoreOld},
		{name: "emptied, another cluster", begin: (*faults).renew},
		{name: "our lease deleted by hand", begin: func(f *faults) { f.order("del", f.key(1)) }},
		{name: "our lease revoked", begin: func(f *faults) { f.revoke(1) }},
		{name: "all leases deleted by hand", begin: func(f *faults) { f.order("del", "--prefix", subnetsPrefix) }},
		{
			name: "a node is suspended", begin: func(f *faults) { f.suspend(1) },
			lasts: 10 * time.Second, end: func(f *faults) { f.resume(1) },
		},
		{name: "a node is suspended for longer than its lease lives", begin: (*faults).outlive, end: func(f *faults) { f.resume(1) }, lossy: true},
		{
			name:  "restarted while a node hangs",
			begin: func(f *faults) { f.suspend(1); f.store.stop() }, end: func(f *faults) { f.store.start(); f.resume(1) },
		},
		{name: "away at a start", begin: (*faults).startWithout, lasts: time.Second, end: start},
		{name: "away at a start, with a damaged snapshot", begin: (*faults).startDamaged, lasts: time.Second, end: start},
	}
}

func (f *faults) order(args ...string) string {
	f.t.Helper()
	out, err := f.store.try(args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// key is that of a node's lease.
func (f *faults) key(node int) string {
	f.t.Helper()
	s, err := f.daemons[node].status()
	if err != nil {
		f.t.Fatal(err)
	}
	return keyOf(s.Node.Lease)
}

func (f *faults) suspend(node int) {
	if err := f.daemons[node].proc.Signal(syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
}

func (f *faults) resume(node int) { _ = f.daemons[node].proc.Signal(syscall.SIGCONT) }

func (f *faults) suspendAll() {
	for i := range f.daemons {
		f.suspend(i)
	}
}

// compactAll lets the store forget what happens while nobody hears it.
func (f *faults) compactAll() {
	for i := range 50 {
		f.order("put", "/coreos.com/network/subnets/nobody", fmt.Sprint(i))
	}
	f.order("del", "/coreos.com/network/subnets/nobody")
	var revision int64
	for line := range strings.Lines(f.order("endpoint", "status", "-w", "fields")) {
		_, _ = fmt.Sscanf(line, `"Revision" : %d`, &revision) // other lines don't fit
	}
	f.order("compact", "--physical", fmt.Sprint(revision))
	for i := range f.daemons {
		f.resume(i)
	}
}

// lock makes the store refuse all that our daemons ask.
func (f *faults) lock() {
	f.order("user", "add", "root", "--new-user-password=sesame")
	f.order("user", "grant-role", "root", "root")
	f.order("auth", "enable")
}

func (f *faults) unlock() {
	f.order("--user=root:sesame", "auth", "disable")
	f.order("user", "delete", "root")
}

// restoreOld brings back the data of some time ago.
func (f *faults) restoreOld() {
	backup := filepath.Join(filepath.Dir(f.store.dir), "backup")
	f.store.stop()
	if err := os.CopyFS(backup, os.DirFS(f.store.dir)); err != nil {
		f.t.Fatal(err)
	}
	f.store.start()
	eventually(f.t, 20*time.Second, func() error {
		_, err := f.store.try("put", subnetsPrefix+"nobody", "1")
		return err
	})
	for i := range 20 {
		f.order("put", subnetsPrefix+"nobody", fmt.Sprint(i))
	}
	f.probe(f.t) // the nodes have heard of the time after
	f.store.stop()
	if err := errors.Join(os.RemoveAll(f.store.dir), os.Rename(backup, f.store.dir)); err != nil {
		f.t.Fatal(err)
	}
	f.store.start()
}

// renew is a store that somebody set up anew.
func (f *faults) renew() {
	f.store.stop()
	if err := os.RemoveAll(f.store.dir); err != nil {
		f.t.Fatal(err)
	}
	f.store.start()
	eventually(f.t, 20*time.Second, func() error {
		_, err := f.store.try("put", "/coreos.com/network/config", dualConfig(`{"Type":"vxlan"}`))
		return err
	})
}

// revoke ends the etcd lease that a node's key hangs on.
func (f *faults) revoke(node int) {
	if err := f.store.revoke(f.key(node)); err != nil {
		f.t.Fatal(err)
	}
}

// outlive suspends a node until its lease has expired. The others rightly think
// that it is gone, and it must come back by itself.
func (f *faults) outlive() {
	key := f.key(1)
	f.suspend(1)
	value := f.order("get", "--print-value-only", key)
	fields := strings.Fields(f.order("lease", "grant", "2"))
	f.order("put", "--lease="+fields[1], key, strings.TrimSpace(value))
	eventually(f.t, 20*time.Second, func() error {
		if out := f.order("get", "--keys-only", key); out != "" {
			return fmt.Errorf("the lease has not expired: %s", out)
		}
		return nil
	})
}

// startWithout kills a daemon, and starts it while the store is away.
func (f *faults) startWithout() {
	f.saved()
	f.daemons[1].kill()
	f.store.kill()
	f.daemons[1].start()
	f.daemons[1].unchangedBy(2)
}

// startDamaged does so with a snapshot of which a bit is wrong. What stands in the
// kernel stands, and the log names the file.
func (f *faults) startDamaged() {
	f.saved()
	f.daemons[1].kill()
	f.store.kill()
	path := filepath.Join(f.Nodes[1].Dir, "state", "snapshot.json")
	content, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.daemons[1].start().awaitLog("saved state is left out", path, "checksum")
}

// saved waits until the disk has the leases of both families of all nodes.
func (c *cluster) saved() {
	eventually(c.t, 15*time.Second, func() error {
		return savedLeases(filepath.Join(c.Nodes[1].Dir, "state", "snapshot.json"), 2*len(c.Nodes))
	})
}

// unchangedBy wants a daemon ready with so many peers that has written nothing.
func (d *daemon) unchangedBy(peers int) {
	d.t.Helper()
	if s := d.awaitReady(peers); s.Ops != 0 {
		d.t.Errorf("%s: %d writes to a kernel that was right", d.node.Name, s.Ops)
	}
}
