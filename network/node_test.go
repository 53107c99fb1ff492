package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/health"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/memory"
)

// bench is one node on a fake kernel with a store in memory. Its clock is that
// of the synctest bubble.
type bench struct {
	t      *testing.T
	server *memory.Server
	client *memory.Client
	kernel *fake.Kernel
	dir    string
	node   *Node
	stop   func()
	tune   func(*Options) // nil: as they are
}

const (
	config1 = `{"Network":"10.42.0.0/16","SubnetMin":"10.42.100.0","Backend":{"Type":"vxlan"}}` // never a peer's subnet
	peerMAC = "02:00:00:00:00:02"
)

// inBubble runs f with a node that is not started yet.
func inBubble(t *testing.T, f func(*bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, server: memory.New(), kernel: fake.New(), dir: dir}
		b.client = b.server.Client()
		b.world(dataplane.State{
			Links: map[string]dataplane.Link{"eth0": {MTU: 1500, Up: true}},
			Addrs: map[dataplane.AddrKey]struct{}{{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.77.1/24")}: {}},
		})
		b.world(uplinkRoutes())
		f(b)
	})
}

func uplinkRoutes() dataplane.State {
	return dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0")}: {Via: netip.MustParseAddr("192.168.77.254"), Link: "eth0"},
	}}
}

func (b *bench) world(s dataplane.State) {
	b.t.Helper()
	if err := b.kernel.Put(s); err != nil {
		b.t.Fatal(err)
	}
}

// start starts a process: a new node over the same kernel, disk and store.
func (b *bench) start() {
	log := logrus.New()
	log.SetOutput(io.Discard)
	opts := Options{
		Store: b.client, Kernel: b.kernel, Backends: map[string]backend.Backend{"vxlan": vxlan.New()},
		Health: health.New(), Log: log, Masquerade: true, Forward: true, FullyRandom: true,
		SubnetFile: b.subnetFile(), StateDir: filepath.Join(b.dir, "state"),
	}
	if b.tune != nil {
		b.tune(&opts)
	}
	b.node = New(opts)
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.node.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
	b.settle(time.Second)
}

// settle lets so much time pass, and all that happens in it.
func (b *bench) settle(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock: no time passes outside
	synctest.Wait()
}

func (b *bench) subnetFile() string { return filepath.Join(b.dir, "run", "subnet.env") }

// peer puts a lease of another node into the store.
func (b *bench) peer(number int, mac string) subnet.Lease {
	l := subnet.Lease{
		ID: fmt.Sprintf("10.42.%d.0-24", number), Backend: "vxlan",
		Shares: []subnet.Share{{
			Subnet: netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", number)),
			Public: netip.AddrFrom4([4]byte{192, 168, 77, byte(number)}),
			Data:   []byte(`{"VNI":1,"VtepMAC":"` + mac + `"}`),
		}},
	}
	b.server.Put(l)
	return l
}

func (b *bench) ready(want bool, reason string) {
	b.t.Helper()
	s := b.node.Status()
	if s.Ready != want || !strings.Contains(strings.Join(s.Reasons, "; "), reason) {
		b.t.Errorf("ready %v because %v; want %v, %q", s.Ready, s.Reasons, want, reason)
	}
}

func (b *bench) peers(want int) {
	b.t.Helper()
	if s := b.node.Status(); s.Peers != want || strings.Count(b.kernel.Dump(), "OnLink:true") != want {
		b.t.Errorf("%d peers, want %d; kernel:\n%s", s.Peers, want, b.kernel.Dump())
	}
}

func TestNodeComesUp(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.start()
		b.ready(false, "")
		if _, err := os.Stat(b.subnetFile()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("subnet.env is there before pods can be served: %v", err)
		}
		b.settle(5 * time.Second)
		b.ready(false, "weftctl config set")
		if _, err := os.Stat(filepath.Join(b.dir, "state", snapshotFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a snapshot without a configuration was saved: %v", err)
		}
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.settle(5 * time.Second)
		b.ready(true, "")
		b.peers(1)
		content, err := os.ReadFile(b.subnetFile())
		if err != nil || !strings.Contains(string(content), "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n") {
			t.Errorf("subnet.env: %v\n%s", err, content)
		}
		b.stop()
		b.peers(1)
	})
}

func TestPeersComeChangeAndGo(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		l := b.peer(2, peerMAC)
		b.peer(3, "02:00:00:00:00:03")
		b.settle(time.Second)
		b.peers(2)
		b.peer(2, "02:00:00:00:00:99")
		b.settle(time.Second)
		b.peers(2)
		if dump := b.kernel.Dump(); strings.Contains(dump, peerMAC) || !strings.Contains(dump, "02:00:00:00:00:99") {
			t.Errorf("the old MAC is still there, or the new one is not:\n%s", dump)
		}
		b.server.Delete(l.ID)
		b.settle(time.Second)
		b.peers(1)
	})
}

// TestAPeersLeaseIsDeletedByHand: its node takes it again at once, and nobody
// writes anything to his kernel.
func TestAPeersLeaseIsDeletedByHand(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		l := b.peer(2, peerMAC)
		b.peer(3, "02:00:00:00:00:03")
		b.settle(time.Second)
		writes := b.kernel.Writes()
		b.server.Delete(l.ID)
		b.settle(90 * time.Millisecond)
		b.peer(2, peerMAC)
		b.settle(time.Second)
		b.peers(2)
		if now := b.kernel.Writes(); now != writes {
			t.Errorf("%d writes", now-writes)
		}
		b.server.Delete(l.ID)
		b.settle(90 * time.Millisecond)
		b.peers(2)
		b.settle(20 * time.Millisecond)
		b.peers(1)
	})
}

func TestBadPeersHarmNoOne(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		b.peer(2, peerMAC)
		b.peer(3, "01:00:5e:00:00:01") // multicast
		b.peer(4, peerMAC)             // a cloned machine
		b.server.PutMalformed("what-ever", "is no lease")
		b.settle(time.Second)
		b.peers(1)
		b.ready(true, "")
		s := b.node.Status()
		if len(s.Skipped) != 2 || len(s.Store.Malformed) != 1 {
			t.Errorf("left out %v, malformed %v; want 2 and 1", s.Skipped, s.Store.Malformed)
		}
		b.server.Delete("10.42.2.0-24") // the clone that was there first
		b.settle(time.Second)
		b.peers(1)
	})
}

func TestRestartWritesNothing(t *testing.T) {
	for name, away := range map[string]bool{"with the store": false, "with the store away": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.server.SetConfig([]byte(config1))
				b.peer(2, peerMAC)
				b.start()
				b.settle(10 * time.Second)
				b.ready(true, "")
				before, writes := b.kernel.Dump(), b.kernel.Writes()
				b.stop()
				if away {
					b.client.Cut()
				}
				b.start()
				b.ready(true, "")
				b.peers(1)
				b.peer(3, "02:00:00:00:00:03")
				b.client.Heal()
				b.settle(30 * time.Second)
				b.peers(2)
				b.server.Delete("10.42.3.0-24")
				b.settle(time.Minute)
				if after := b.kernel.Dump(); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
				if n := b.kernel.Writes() - writes; n != 6 {
					t.Errorf("%d writes, want 6: a peer came and went", n)
				}
				b.stop()
			})
		})
	}
}

// TestDiskAloneRemovesNothing: what the disk remembers may be older than the
// kernel; only the store may say that a peer is gone.
func TestDiskAloneRemovesNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.start()
		b.settle(10 * time.Second)
		saved, err := os.ReadFile(filepath.Join(b.dir, "state", snapshotFile))
		if err != nil {
			t.Fatal(err)
		}
		b.peer(3, "02:00:00:00:00:03")
		b.settle(10 * time.Second)
		b.stop()
		if err := os.WriteFile(filepath.Join(b.dir, "state", snapshotFile), saved, 0o600); err != nil {
			t.Fatal(err)
		}
		b.client.Cut()
		b.start()
		b.settle(time.Minute)
		if dump := b.kernel.Dump(); !strings.Contains(dump, "10.42.3.0/24") {
			t.Errorf("a peer that only the kernel knows was removed:\n%s", dump)
		}
		b.stop()
	})
}

func TestEmptiedStoreRemovesNothingAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		for i := 2; i < 8; i++ {
			b.peer(i, fmt.Sprintf("02:00:00:00:00:%02x", i))
		}
		b.start()
		defer b.stop()
		b.settle(10 * time.Second)
		b.peers(6)
		b.server.Delete("10.42.2.0-24", "10.42.3.0-24", "10.42.4.0-24", "10.42.5.0-24", "10.42.6.0-24", "10.42.7.0-24")
		b.settle(15 * time.Second)
		b.peers(6)
		b.ready(true, "")
		b.settle(time.Minute)
		b.peers(0)
	})
}

// TestARestartKeepsItsDoubt: all leases are deleted, all but one node take theirs
// again, and a daemon that is killed then has not forgotten why it waits.
func TestARestartKeepsItsDoubt(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		for i := 2; i < 8; i++ {
			b.peer(i, fmt.Sprintf("02:00:00:00:00:%02x", i))
		}
		b.start()
		b.settle(10 * time.Second)
		b.server.Delete("10.42.2.0-24", "10.42.3.0-24", "10.42.4.0-24", "10.42.5.0-24", "10.42.6.0-24", "10.42.7.0-24")
		b.settle(time.Second)
		for i := 3; i < 8; i++ {
			b.peer(i, fmt.Sprintf("02:00:00:00:00:%02x", i))
		}
		b.settle(time.Second)
		b.peers(6)
		b.stop()
		b.start()
		b.settle(20 * time.Second)
		b.peers(6)
		b.settle(20 * time.Second)
		b.peers(5)
		b.stop()
	})
}

func TestLostLeaseIsTakenAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		b.settle(time.Second)
		lease := b.node.Status().Node.Lease
		b.server.Delete(lease)
		b.settle(5 * time.Second)
		b.ready(true, "")
		if again := b.node.Status().Node.Lease; again != lease {
			t.Errorf("lease %s, want %s again", again, lease)
		}
		for range 3 { // and soon again: at once
			b.server.Delete(lease)
			b.settle(10 * time.Millisecond)
			if s := b.node.Status(); s.Store.Leases != 1 {
				t.Errorf("%d leases in the store soon after ours was deleted, want 1", s.Store.Leases)
			}
		}
		if s := b.node.Status(); s.Store.Leases != 1 {
			t.Errorf("%d leases in the store, want 1", s.Store.Leases)
		}
	})
}

func TestReadinessTellsTheTruth(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		b.settle(time.Second)
		b.ready(true, "")
		b.client.Cut()
		b.settle(time.Hour)
		b.ready(true, "") // a store that is away is no reason
		b.kernel.FailOps(func(op dataplane.Op) error {
			if op.Kind == dataplane.KindLink {
				return errors.New("no such luck")
			}
			return nil
		})
		if err := b.kernel.Delete(dataplane.State{Links: map[string]dataplane.Link{"flannel.1": {}}}); err != nil {
			t.Fatal(err)
		}
		b.settle(time.Second)
		b.ready(false, "no such luck")
		b.kernel.FailOps(nil)
		b.settle(time.Minute)
		b.ready(true, "")
	})
}

func TestIdleNodeDoesNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		writes, reads := b.kernel.Writes(), b.kernel.Reads()
		b.settle(time.Hour)
		if n := b.kernel.Writes() - writes; n != 0 {
			t.Errorf("%d kernel writes in an idle hour", n)
		}
		if n := b.kernel.Reads() - reads; n > 150 { // an audit a minute, and the facts
			t.Errorf("%d kernel reads in an idle hour", n)
		}
	})
}

// TestUplinkIsFollowed: what the host's administrator does to the uplink is in
// the tunnel, in the lease and in the subnet file within a second.
func TestUplinkIsFollowed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		b.settle(30 * time.Second)
		b.ready(true, "")
		b.world(dataplane.State{
			Links: map[string]dataplane.Link{"eth0": {MTU: 1400, Up: true}},
		})
		b.settle(time.Second)
		if mtu := b.device().MTU; mtu != 1350 {
			t.Errorf("MTU of the device: %d, want 1350", mtu)
		}
		if env, err := os.ReadFile(b.subnetFile()); err != nil || !strings.Contains(string(env), "FLANNEL_MTU=1350") {
			t.Errorf("subnet file: %s %v", env, err)
		}
		was := dataplane.AddrKey{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.77.1/24")}
		b.world(dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{
			{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.77.201/24")}: {},
		}})
		b.settle(time.Second)
		if local := b.device().VXLAN.Local; local != was.Prefix.Addr() {
			t.Errorf("a second address: the tunnel moved from the first to %s", local)
		}
		if err := b.kernel.Delete(dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{was: {}}}); err != nil {
			t.Fatal(err)
		}
		b.settle(time.Second)
		want := netip.MustParseAddr("192.168.77.201")
		if local := b.device().VXLAN.Local; local != want {
			t.Errorf("the tunnel's local address: %s, want %s", local, want)
		}
		if public := b.node.Status().Node.Public; len(public) != 1 || public[0] != want.String() {
			t.Errorf("announced: %v, want %s", public, want)
		}
		b.stop()
	})
}

func (b *bench) device() dataplane.Iface {
	b.t.Helper()
	facts, err := b.kernel.Facts(b.t.Context(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return facts.Ifaces["flannel.1"]
}
