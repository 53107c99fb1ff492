package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// twoSubnets is a network with a subnet for each of two nodes.
const twoSubnets = `{"Network":"10.42.0.0/16","SubnetMin":"10.42.100.0","SubnetMax":"10.42.101.0",` +
	`"Backend":{"Type":"vxlan"}}`

// bridgeOf is what the pods of a subnet leave on the host.
func bridgeOf(gateway string) dataplane.State {
	return dataplane.State{
		Links: map[string]dataplane.Link{"cni0": {MTU: 1450, Up: true}},
		Addrs: map[dataplane.AddrKey]struct{}{{Link: "cni0", Prefix: netip.MustParsePrefix(gateway)}: {}},
	}
}

// TestPodsOfASubnetThatIsAnothersNow: the node serves new pods, and is not ready
// as long as there are old ones.
func TestPodsOfASubnetThatIsAnothersNow(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.world(bridgeOf("10.42.5.1/24"))
		b.start()
		defer func() { b.stop() }()
		b.ready(true, "") // it is nobody's
		b.peer(5, peerMAC)
		b.settle(time.Second)
		b.ready(false, "cni0 has 10.42.5.1/24, and 10.42.5.0/24 is the subnet of node 192.168.77.5 now")
		if env, err := readEnv(b.subnetFile()); err != nil || len(env.Subnets) != 1 {
			t.Errorf("subnet.env: %v, %v", env, err)
		}
		b.stop()
		b.start() // of this a new process knows nothing
		b.ready(false, "ip address del 10.42.5.1/24 dev cni0")
		if err := b.kernel.Delete(bridgeOf("10.42.5.1/24")); err != nil {
			t.Fatal(err)
		}
		b.settle(3 * time.Second)
		b.ready(true, "")
	})
}

// TestSubnetGivenAwayAndNoOtherIsThere: another node has ours and a third one
// the last. All stays as it is until there is one again.
func TestSubnetGivenAwayAndNoOtherIsThere(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(twoSubnets))
		b.peer(3, peerMAC)
		b.start()
		defer b.stop()
		mine := b.node.view.lease
		other := 201 - int(mine.Shares[0].Subnet.Addr().As4()[2])
		b.client.Cut()
		b.server.Delete(mine.ID)
		b.settle(time.Second)
		b.peer(int(mine.Shares[0].Subnet.Addr().As4()[2]), "02:00:00:00:00:05")
		last := b.peer(other, "02:00:00:00:00:06")
		b.settle(time.Second)
		b.ready(true, "") // nobody has told
		b.client.Heal()
		b.settle(time.Minute)
		b.ready(false, mine.Shares[0].Subnet.String()+" is the subnet of node 192.168.77.")
		b.peers(2) // peer 3, and the last one's
		if dump := b.kernel.Dump(); !strings.Contains(dump, mine.Shares[0].Subnet.Addr().String()+"/32") {
			t.Errorf("our address is gone:\n%s", dump)
		}
		b.server.Delete(last.ID)
		b.settle(time.Minute)
		b.ready(true, "")
		b.peers(2)
		if now := b.node.Status().Node.Subnets; len(now) != 1 || now[0] != last.Shares[0].Subnet.String() {
			t.Errorf("subnets %v, want %s", now, last.Shares[0].Subnet)
		}
	})
}

// TestLostIsSureOfIt: what may be our own lease, or an old snapshot, is no loss.
func TestLostIsSureOfIt(t *testing.T) {
	lease := func(id string, created int64, prefix, public string) subnet.Lease {
		return subnet.Lease{ID: id, Created: created, Revision: created, Shares: []subnet.Share{{
			Subnet: netip.MustParsePrefix(prefix), Public: netip.MustParseAddr(public), Data: []byte("{}"),
		}}}
	}
	own := lease("a", 10, "10.42.5.0/24", "192.0.2.1")
	for name, c := range map[string]struct {
		revision int64
		leases   []subnet.Lease
		lost     bool
	}{
		"ours is there":                   {20, []subnet.Lease{own, lease("b", 11, "10.42.6.0/24", "192.0.2.2")}, false},
		"ours, and one that overlaps":     {20, []subnet.Lease{own, lease("b", 11, "10.42.5.0/25", "192.0.2.2")}, false},
		"nobody's":                        {20, nil, false},
		"another's":                       {20, []subnet.Lease{lease("a", 11, "10.42.5.0/24", "192.0.2.2")}, true},
		"another's, with other networks":  {20, []subnet.Lease{lease("b", 11, "10.42.4.0/23", "192.0.2.2")}, true},
		"another's of before ours":        {9, []subnet.Lease{lease("a", 8, "10.42.5.0/24", "192.0.2.2")}, false},
		"ours, taken again, not told yet": {20, []subnet.Lease{lease("a", 11, "10.42.5.0/24", "192.0.2.1")}, false},
		"out of order, and ours is there": {20, []subnet.Lease{lease("b", 12, "10.42.5.0/25", "192.0.2.2"), own}, false},
		"an older one that is refused":    {20, []subnet.Lease{lease("b", 5, "10.42.5.0/25", "192.0.2.2")}, false},
	} {
		if err := lost(own, subnet.Snapshot{Revision: c.revision, Leases: c.leases}); (err != nil) != c.lost {
			t.Errorf("%s: %v", name, err)
		}
	}
}
