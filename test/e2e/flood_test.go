package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

const (
	floodRate = 50_000 // packets a second
	floodTime = 1500 * time.Millisecond
)

// TestFlood: a stranger sends to one node's tunnel as much as it can take, while pods
// of this node and of others talk.
func TestFlood(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start(),
		c.daemon(1).start(), c.daemon(2).start(),
	}
	var pods []*topology.Pod
	for i, d := range daemons {
		d.awaitReady(2)
		pods = append(pods, c.pod(c.Nodes[i], "a"))
	}
	for family := range c.Outside.Addrs {
		to := pods[1].Addrs[family]
		got := catch(t, pods[1], to)
		before, err := daemons[1].status()
		if err != nil {
			t.Fatal(err)
		}
		streams := map[string]*stream{
			"of others":             startStreamOf(t, 5000, &pods[0].Namespace, &pods[2].Namespace, pods[2].Addrs[family]),
			"of the node's own pod": startStreamOf(t, 5000, &pods[0].Namespace, &pods[1].Namespace, to),
		}
		inner := shot{inner: pods[0].Addrs[family]}
		frame := frameFor(c.deviceMAC(c.Nodes[1], family), inner, to, 1)
		sent := c.flood(c.Nodes[1].Addrs[family], append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, frame...))
		for name, s := range streams {
			sheet, arrived := s.ended()
			t.Logf("%s, %s: %d of %d packets lost", to, name, sheet.sent-len(arrived), sheet.sent)
			if len(arrived) < sheet.sent*9/10 {
				t.Errorf("%s, %s: %d of %d packets arrived", to, name, len(arrived), sheet.sent)
			}
		}
		after, err := daemons[1].status()
		dropped := int(after.Tunnel.Dropped - before.Tunnel.Dropped)
		if err != nil || dropped < sent/2 {
			t.Errorf("%s: %d packets counted of a flood of %d (%v)", to, dropped, sent, err)
		}
		t.Logf("%s: a flood of %d packets, %d of them counted as dropped", to, sent, dropped)
		if let := got(); len(let) > 0 {
			t.Errorf("%s: delivered from the flood: %v", to, let)
		}
	}
}

// flood sends one packet from outside again and again, and says how often.
func (c *cluster) flood(to netip.Addr, payload []byte) (sent int) {
	c.t.Helper()
	var conn *net.UDPConn
	if err := c.Outside.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 8472)))
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < floodTime; <-tick.C {
		for due := int(time.Since(start).Seconds() * floodRate); sent < due; sent++ {
			if _, err := conn.Write(payload); err != nil {
				c.t.Fatalf("after %d packets of the flood: %v", sent, err)
			}
		}
	}
	return sent
}
