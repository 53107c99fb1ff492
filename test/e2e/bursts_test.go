package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// TestBurstsOfPods: a pod sends to the tunnel's port, one by one and in bursts that the
// kernel cuts into datagrams only when a socket takes them (UDP_SEGMENT in udp(7)), so
// that rules see the first one's VNI, which is no one's here, and the device the second's.
func TestBurstsOfPods(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	c.command(1, "ip", "addr", "add", "192.168.77.99/24", "dev", topology.Eth0)
	c.command(1, "ip", "addr", "add", "fd77::99/64", "dev", topology.Eth0, "nodad")
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start(), c.daemon(1).start(),
	}
	var pods []*topology.Pod
	for i, d := range daemons {
		d.awaitReady(1)
		d.awaitPlanEmpty()
		pods = append(pods, c.pod(c.Nodes[i], "a"))
	}
	beside := c.pod(c.Nodes[0], "b")
	second := []netip.Addr{netip.MustParseAddr("192.168.77.99"), netip.MustParseAddr("fd77::99")}
	for family := range c.Outside.Addrs {
		gateway := func(of *topology.Pod) netip.Addr {
			return netip.PrefixFrom(of.Addrs[family], []int{24, 64}[family]).Masked().Addr().Next()
		}
		for _, aim := range []struct {
			name   string
			at     netip.Addr
			target *topology.Pod
		}{
			{"its own node", c.Nodes[0].Addrs[family], beside},
			{"its own gateway", gateway(pods[0]), beside},
			{"another node, by one address", c.Nodes[1].Addrs[family], pods[1]},
			{"another node's gateway", gateway(pods[1]), pods[1]},
			{"another node, by its other address", second[family], pods[1]},
		} {
			t.Run(fmt.Sprintf("%s, %s", aim.name, aim.at), func(t *testing.T) {
				node := c.Nodes[0]
				if aim.target == pods[1] {
					node = c.Nodes[1]
				}
				frame := frameFor(c.deviceMAC(node, family),
					shot{inner: beside.Addrs[family].Next()}, aim.target.Addrs[family], 1)
				got := catch(t, aim.target, aim.target.Addrs[family])
				for _, vnis := range [][]uint32{{1}, {2, 1}} {
					burst(t, pods[0], netip.AddrPortFrom(aim.at, 8472), frame, vnis)
				}
				<-time.After(200 * time.Millisecond) // nothing shall come, however late
				if have := got(); len(have) > 0 {
					t.Errorf("%d of %d packets came out of the tunnel", have[1], 2*shots)
				}
			})
		}
	}
}

// burst sends the frame in each of the VNIs by one call, some times.
func burst(t *testing.T, from *topology.Pod, to netip.AddrPort, frame []byte, vnis []uint32) {
	t.Helper()
	var all []byte
	for _, vni := range vnis {
		all = append(binary.BigEndian.AppendUint32(append(all, 8, 0, 0, 0), vni<<8), frame...)
	}
	err := from.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var errSet error
		err = raw.Control(func(fd uintptr) {
			errSet = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, len(all)/len(vnis))
		})
		for range shots {
			if err != nil || errSet != nil {
				return errors.Join(err, errSet)
			}
			if _, err = conn.Write(all); errors.Is(err, unix.ECONNREFUSED) {
				err = nil // what is said of the one before
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
