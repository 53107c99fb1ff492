package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

func (b *bench) cleanup() Cleanup {
	return Cleanup{
		Kernel: b.kernel, Backends: map[string]backend.Backend{"vxlan": vxlan.New()},
		SubnetFile: b.subnetFile(), StateDir: filepath.Join(b.dir, "state"),
	}
}

// lived is a node that was up with two peers and was stopped, and how the kernel
// was before. Forwarding, which stays on, was on.
func (b *bench) lived() (before string) {
	b.t.Helper()
	b.world(dataplane.State{
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
		Routes: map[dataplane.RouteKey]dataplane.Route{
			{Prefix: netip.MustParsePrefix("172.16.0.0/12")}: {Via: netip.MustParseAddr("192.168.77.9"), Link: "eth0"},
			{Prefix: netip.MustParsePrefix("10.42.7.0/24")}:  {Via: netip.MustParseAddr("192.168.77.9"), Link: "eth0"},
		},
	})
	before = b.kernel.Dump()
	b.tune = func(o *Options) { o.Blackhole = true }
	b.server.SetConfig([]byte(config1))
	b.peer(2, peerMAC)
	b.peer(3, "02:00:00:00:00:03")
	b.start()
	b.settle(10 * time.Second)
	b.ready(true, "")
	b.stop()
	return before
}

func (b *bench) files() (names []string) {
	b.t.Helper()
	err := filepath.WalkDir(b.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, b.dir+"/"))
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}

// kinds is "2 chain, route, link".
func kinds(items []CleanupItem) string {
	var out []string
	for len(items) > 0 {
		n, text := 0, items[0].Kind
		for n < len(items) && items[n].Kind == text {
			n++
		}
		if n > 1 {
			text = fmt.Sprintf("%d %s", n, text)
		}
		out, items = append(out, text), items[n:]
	}
	return strings.Join(out, ", ")
}

func TestCleanupRemovesWhatIsOurs(t *testing.T) {
	inBubble(t, func(b *bench) {
		before := b.lived()
		lived := b.kernel.Dump()
		dry := b.cleanup()
		dry.DryRun = true
		told, err := dry.Run(b.t.Context())
		if d := cmp.Diff(lived, b.kernel.Dump()); err != nil || d != "" || len(b.files()) != 3 {
			t.Errorf("a dry run (%v) changed something: %s %v", err, d, b.files())
		}
		did, err := b.cleanup().Run(b.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, b.kernel.Dump()); d != "" {
			t.Errorf("kernel (-before +after)\n%s", d)
		}
		if names := b.files(); len(names) > 0 {
			t.Errorf("left on the disk: %v", names)
		}
		const removed = "2 chain, route, link, 3 file, directory"
		if kinds(did.Removed) != removed || kinds(did.Kept) != "lease" || len(did.Failed) > 0 {
			t.Errorf("%+v, want removed: %s", did, removed)
		}
		if did.Removed[3].Note != "with 2 FDB entries, 2 neighbours, 2 routes" {
			t.Errorf("of the link: %+v", did.Removed[3])
		}
		told.DryRun = false
		if d := cmp.Diff(told, did); d != "" {
			t.Errorf("a dry run said something else (-told +did)\n%s", d)
		}
		if again, err := b.cleanup().Run(b.t.Context()); err != nil || len(again.Removed)+len(again.Kept) > 0 {
			t.Errorf("a second time: %+v, %v", again, err)
		}
	})
}

// What somebody else has made his own in the meantime is not removed, unless it
// is asked for.
func TestCleanupSparesFlannel(t *testing.T) {
	adopted := func(b *bench) { // as flannel does when it starts after us
		routes := map[dataplane.RouteKey]dataplane.Route{}
		for _, p := range []string{"10.42.2.0/24", "10.42.3.0/24"} {
			prefix := netip.MustParsePrefix(p)
			routes[dataplane.RouteKey{Prefix: prefix}] = dataplane.Route{Via: prefix.Addr(), Link: "flannel.1", OnLink: true}
		}
		b.world(dataplane.State{Routes: routes})
	}
	for name, c := range map[string]struct {
		since func(*bench)
		why   string
	}{
		"flannel has taken it over": {adopted, takenOver},
		"nothing tells weft from flannel": {func(b *bench) {
			adopted(b)
			if _, err := b.cleanup().Run(b.t.Context()); err != nil { // of our mark, nothing is left
				b.t.Fatal(err)
			}
			if err := b.kernel.Delete(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
				{Prefix: netip.MustParsePrefix("10.42.2.0/24")}: {}, {Prefix: netip.MustParsePrefix("10.42.3.0/24")}: {},
			}}); err != nil {
				b.t.Fatal(err)
			}
		}, notProven},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.lived()
				c.since(b)
				report, err := b.cleanup().Run(b.t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(b.kernel.Dump(), "flannel.1") || !strings.HasPrefix(kinds(report.Kept), "link") ||
					report.Kept[0].Note != c.why {
					t.Errorf("%+v; kernel:\n%s", report, b.kernel.Dump())
				}
				if _, err := os.Stat(b.subnetFile()); err != nil {
					t.Error(err)
				}
				for _, i := range report.Removed {
					if i.Kind == "link" || strings.Contains(i.Name, "flannel.1") {
						t.Errorf("removed %+v", i)
					}
				}
				forced := b.cleanup()
				forced.Force = true
				if _, err = forced.Run(b.t.Context()); err != nil || strings.Contains(b.kernel.Dump(), "flannel.1") {
					t.Errorf("by force: %v\n%s", err, b.kernel.Dump())
				}
			})
		})
	}
}

func TestCleanupRefuses(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.lived()
		lived := b.kernel.Dump()
		socket := filepath.Join(b.dir, "s")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		runs := b.cleanup()
		runs.Socket = socket
		if _, err = runs.Run(b.t.Context()); err == nil || !strings.Contains(err.Error(), "systemctl disable --now weftd") {
			t.Errorf("beside a daemon: %v", err)
		}
		_ = listener.Close()
		lease := b.cleanup()
		lease.DryRun, lease.GiveBack = true, func(context.Context, subnet.Lease) error { return errors.New("called") }
		if _, err = lease.Run(b.t.Context()); err != nil {
			t.Errorf("a dry run gave the lease back: %v", err)
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(b.dir, "state")), os.Remove(b.subnetFile())); err != nil {
			t.Fatal(err)
		}
		_, err = b.cleanup().Run(b.t.Context())
		if err == nil || !strings.Contains(err.Error(), "on 3 routes and 2 chains: give --config") {
			t.Errorf("with nothing that tells: %v", err)
		}
		if d := cmp.Diff(lived, b.kernel.Dump()); d != "" {
			t.Errorf("refused, and changed something: %s", d)
		}
		told := b.cleanup()
		if told.Config, err = subnet.ParseConfig([]byte(config1)); err != nil {
			t.Fatal(err)
		}
		if _, err := told.Run(b.t.Context()); err != nil || strings.Contains(b.kernel.Dump(), "flannel.1") {
			t.Errorf("with a configuration: %v\n%s", err, b.kernel.Dump())
		}
	})
}

// A lease that can't be given back now can be later: what we know of it stays.
func TestCleanupGivesTheLeaseBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.lived()
		away, ours := errors.New("etcd is away"), b.node.Status().Node.Lease
		var given []string
		c := b.cleanup()
		c.GiveBack = func(_ context.Context, l subnet.Lease) error {
			given = append(given, l.ID)
			return away
		}
		if _, err := c.Run(b.t.Context()); !errors.Is(err, away) {
			t.Errorf("have %v", err)
		}
		away = nil
		report, err := c.Run(b.t.Context())
		if d := cmp.Diff([]string{ours, ours}, given); err != nil || d != "" || len(b.files()) > 0 {
			t.Errorf("%v, given back (-want +have)\n%s; files %v", err, d, b.files())
		}
		if kinds(report.Removed) != "lease, 3 file, directory" {
			t.Errorf("%+v", report)
		}
	})
}

// The embedded etcd's data may lie in the state directory.
func TestCleanupLeavesOthersFiles(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.lived()
		theirs := filepath.Join(b.dir, "state", "etcd")
		if err := os.Mkdir(theirs, 0o700); err != nil {
			t.Fatal(err)
		}
		moved := "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.9.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
		if err := os.WriteFile(b.subnetFile(), []byte(moved), 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := b.cleanup().Run(b.t.Context())
		if err != nil || kinds(report.Kept) != "lease, file, directory" {
			t.Errorf("%v, %+v", err, report)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Error(err)
		}
	})
}

// Where the kernel refuses, what tells of it stays for the next time.
func TestCleanupSaysWhatIsLeft(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.lived()
		b.kernel.FailOps(func(op dataplane.Op) error {
			if op.Kind == dataplane.KindRoute {
				return errors.New("operation not permitted")
			}
			return nil
		})
		report, err := b.cleanup().Run(b.t.Context())
		if err == nil || kinds(report.Failed) != "route" || report.Failed[0].Note != "operation not permitted" {
			t.Errorf("%v, %+v", err, report)
		}
		if kinds(report.Removed) != "2 chain, link" || len(b.files()) != 3 {
			t.Errorf("%+v, files %v", report, b.files())
		}
	})
}
