package network

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/offload"
)

// card is a network card, whose driver may compute wrong checksums of what is
// inside of a tunnel, and a way that may be down.
type card struct {
	b *bench

	mu           sync.Mutex
	broken, down bool
	knocks       int
}

func (c *card) set(broken, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken, c.down = broken, down
}

func (c *card) knock(ctx context.Context, to netip.Addr, finished bool) (bool, error) {
	c.mu.Lock()
	c.knocks++
	lost := c.down || c.broken && !finished && !c.b.computed()
	c.mu.Unlock()
	if lost {
		<-ctx.Done()
		return false, nil
	}
	return to == netip.MustParseAddr("10.42.2.0"), nil
}

// computed tells whether the device's checksums are computed on the host.
func (b *bench) computed() bool {
	return b.kernel.TXChecksum("flannel.1") == offload.Off
}

func carded(t *testing.T, mode checksum.Mode, f func(*bench, *air, *card)) {
	t.Helper()
	probed(t, func(b *bench, a *air) {
		c, tune := &card{b: b}, b.tune
		b.tune = func(o *Options) {
			tune(o)
			o.Checksums = checksum.Options{Mode: mode, Knock: c.knock}
		}
		b.peer(2, peerMAC)
		f(b, a, c)
	})
}

func (b *bench) checksums(off bool) {
	b.t.Helper()
	if have := b.computed(); have != off {
		b.t.Errorf("checksum offload is off: %t, want %t", have, off)
	}
	status := b.node.Status().Checksums
	if told := len(status) == 1 && status[0].Device == "flannel.1" && status[0].Reason != ""; told != off {
		b.t.Errorf("it is off: %t, and the status says %+v", off, status)
	}
	if have, ok := b.node.Metrics().Checksums["flannel.1"]; !ok || have != off {
		b.t.Errorf("it is off: %t, and the metrics say %t, %t", off, have, ok)
	}
}

func TestBrokenChecksumsAreComputedHere(t *testing.T) {
	carded(t, checksum.Auto, func(b *bench, _ *air, c *card) {
		b.start()
		b.settle(time.Hour)
		b.checksums(false)
		_, at := b.told(0)
		c.set(true, false)
		b.settle(time.Minute)
		b.checksums(true)
		b.ready(true, "")
		have, _ := b.told(at)
		if want := []string{"checksums-off flannel.1: 10.42.2.0 answers"}; !sameBeginnings(want, have) {
			t.Errorf("told %q, want %q", have, want)
		}

		b.deviceGoes() // the next one has it, too
		b.settle(time.Second)
		b.checksums(true)

		b.stop()
		b.start() // and the next process goes on with it
		b.settle(30 * time.Minute)
		b.checksums(true)
		b.settle(24 * time.Hour) // it is tried again and again
		b.checksums(true)
		if have, at = b.told(0); strings.Contains(strings.Join(have, "\n"), "checksums") {
			t.Errorf("what is known is told again: %q", have)
		}

		c.set(false, false)
		b.settle(9 * time.Hour)
		b.checksums(false)
		if have, _ = b.told(at); !sameBeginnings([]string{"checksums-on flannel.1"}, have) {
			t.Errorf("told %q", have)
		}
		b.stop()
		b.start()
		defer b.stop()
		b.settle(time.Hour)
		b.checksums(false)
	})
}

// deviceGoes deletes the tunnel's device.
func (b *bench) deviceGoes() {
	b.t.Helper()
	if err := b.kernel.Delete(dataplane.State{Links: map[string]dataplane.Link{"flannel.1": {}}}); err != nil {
		b.t.Fatal(err)
	}
}

func TestAWayThatIsDownSwitchesNothing(t *testing.T) {
	carded(t, "", func(b *bench, a *air, c *card) {
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		a.deafen("10.42.2.0", true)
		a.deafen("192.168.77.2", true)
		c.set(true, true)
		b.settle(time.Hour)
		b.checksums(false)
		a.deafen("10.42.2.0", false) // datagrams are lost for another reason
		b.settle(3 * time.Hour)
		b.checksums(false)
		if have, _ := b.told(0); strings.Contains(strings.Join(have, "\n"), "checksums") {
			t.Errorf("told %q", have)
		}
	})
}

func TestChecksumOffloadAsSaid(t *testing.T) {
	for mode, off := range map[checksum.Mode]bool{checksum.On: false, checksum.Off: true} {
		t.Run(string(mode), func(t *testing.T) {
			carded(t, mode, func(b *bench, _ *air, c *card) {
				c.set(true, false)
				b.start()
				defer b.stop()
				b.settle(time.Hour)
				b.checksums(off)
				if c.knocks > 0 {
					t.Errorf("%d datagrams though nothing is to be found out", c.knocks)
				}
			})
		})
	}
}

func TestAnotherUplinkIsTriedAtOnce(t *testing.T) {
	carded(t, checksum.Auto, func(b *bench, _ *air, c *card) {
		c.set(true, false)
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		b.checksums(true)
		c.set(false, false)
		b.world(dataplane.State{
			Links: map[string]dataplane.Link{"eth1": {MTU: 1500, Up: true}},
			Addrs: map[dataplane.AddrKey]struct{}{{Link: "eth1", Prefix: netip.MustParsePrefix("192.168.77.1/24")}: {}},
			Routes: map[dataplane.RouteKey]dataplane.Route{
				{Prefix: netip.MustParsePrefix("0.0.0.0/0")}: {Via: netip.MustParseAddr("192.168.77.254"), Link: "eth1"},
			},
		})
		b.settle(time.Minute)
		if up := b.node.Status().Node.Uplink; up != "eth1" {
			t.Fatalf("the uplink is %s", up)
		}
		b.checksums(false)
	})
}
