package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/mac"
)

// TestCloneLeavesTheLeaseAlone: a machine was cloned with its state directory. The
// clone gets a lease and a MAC of its own, and the first one's is a peer's.
func TestCloneLeavesTheLeaseAlone(t *testing.T) {
	up := mac.Addr{2, 0xaa, 0, 0, 0, 1}
	for name, c := range map[string]struct {
		from  origin
		where string // the uplink's address now
		mine  bool
	}{
		"a clone":                            {origin{"the boot before", up}, "192.168.77.9", false},
		"the same machine, with another NIC": {origin{"the boot before", up}, "192.168.77.1", true},
		"the same machine, at a new address": {origin{"the boot before", mac.Addr{2, 0xaa, 0, 0, 0, 9}}, "192.168.77.9", true},
		"the same boot, with all else new":   {origin{bootID(), up}, "192.168.77.9", true},
		"saved by a release that wrote less": {origin{}, "192.168.77.9", true},
		"saved where the uplink has no MAC":  {origin{"the boot before", mac.Addr{}}, "192.168.77.9", true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.server.SetConfig([]byte(config1))
				b.start()
				first := b.node.view.lease
				b.stop()
				if err := b.node.files.saveLease(first, c.from); err != nil {
					t.Fatal(err)
				}
				b.kernel = newHostAt(t, c.where, mac.Addr{2, 0xaa, 0, 0, 0, 9})
				b.start()
				defer b.stop()
				b.settle(5 * time.Second)
				b.ready(true, "")
				now := b.node.view.lease
				if (now.ID == first.ID) != c.mine {
					t.Errorf("lease %s, the saved one is %s", now.ID, first.ID)
				}
				if same := string(now.Shares[0].Data) == string(first.Shares[0].Data); same != c.mine {
					t.Errorf("announces %s, the saved one %s", now.Shares[0].Data, first.Shares[0].Data)
				}
				if routed := strings.Contains(b.kernel.Dump(), "route "+first.Shares[0].Subnet.String()); routed == c.mine {
					t.Errorf("a route to the saved lease's subnet: %v\n%s", routed, b.kernel.Dump())
				}
			})
		})
	}
}

// newHostAt is another machine.
func newHostAt(t *testing.T, addr string, hw mac.Addr) *fake.Kernel {
	t.Helper()
	k := fake.New()
	for _, s := range []dataplane.State{{
		Links: map[string]dataplane.Link{"eth0": {MTU: 1500, Up: true, MAC: hw}},
		Addrs: map[dataplane.AddrKey]struct{}{{Link: "eth0", Prefix: netip.MustParsePrefix(addr + "/24")}: {}},
	}, uplinkRoutes()} {
		if err := k.Put(s); err != nil {
			t.Fatal(err)
		}
	}
	return k
}
