package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

const floodRate = 50_000 // packets a second

// measureFlood has a stranger send VXLAN to one node while pods of that node, and of two
// others, talk: how much of their speed is left, next to a flood at a port where
// nobody listens, and to one that no filter stops.
func measureFlood(b *testing.B, p plan, out *report) {
	r := newRig(b, 7)
	open := out.Daemons[0]
	open.name, open.args = "open", open.args+" --vxlan-filter=off"
	others := r.ends(b, route{contender: out.Daemons[0]}, 1)
	shut := r.ends(b, route{contender: out.Daemons[0]}, 3)
	unshut := r.ends(b, route{contender: open}, 5)
	const none, closed, filtered, unfiltered = "no flood", "at a closed port", "filtered", "not filtered"
	s := out.section("A flood at the tunnel's port", "TCP requests answered in a second of the clock, from a pod to a "+
		"pod on another node, while a stranger sends 50,000 small packets a second, with a source inside that would be "+
		"right, to the second pod's node, or to one of a third pair. All share this machine's processors with the stranger.")
	s.Names = []string{none, closed, filtered, unfiltered}
	exchange := loads()[1]
	for range p.rounds * turns {
		for _, c := range []struct {
			name   string
			victim pair
			node   *topology.Node
			port   uint16
		}{
			{none, shut, r.Nodes[4], 0}, {closed, shut, r.Nodes[4], 9}, {filtered, shut, r.Nodes[4], 8472},
			{unfiltered, unshut, r.Nodes[6], 8472},
		} {
			at := netip.AddrPortFrom(c.node.Addrs[0], c.port)
			for what, measured := range map[string]pair{"of others": others, "of the flooded node": c.victim} {
				stop := func() float64 { return 0 }
				if c.port != 0 {
					stop = startFlood(b, r.Outside, at, vxlanTo(b, c.node, c.victim))
				}
				s.add(what, "1/s", c.name, exchange.clocked(b, measured))
				if rate := stop(); rate > 0 {
					s.add("the flood itself", "packets/s", c.name, rate)
				}
			}
		}
	}
}

// clocked gives how much went through in a second of the clock.
func (l load) clocked(b *testing.B, p pair) float64 {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	var at string
	must(b, p.to.Do(func() (err error) {
		at, err = l.listen(ctx, p.addr)
		return err
	}))
	var sum float64
	began := time.Now()
	must(b, p.from.Do(func() (err error) {
		dial := func() (net.Conn, error) { return net.DialTimeout(l.network, at, 5*time.Second) }
		began = time.Now()
		sum, err = l.send(dial, began.Add(pathTime))
		return err
	}))
	return sum / time.Since(began).Seconds()
}

// startFlood sends one packet again and again; stop gives how many a second there were.
func startFlood(b *testing.B, from *topology.Namespace, to netip.AddrPort, payload []byte) (stop func() float64) {
	b.Helper()
	var conn *net.UDPConn
	must(b, from.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	}))
	ctx, cancel := context.WithCancel(b.Context())
	sent, began := 0, time.Now()
	var failed error
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && failed == nil {
			for due := int(time.Since(began).Seconds() * floodRate); sent < due && failed == nil; sent++ {
				// A closed port is told of once in a while.
				if _, err := conn.Write(payload); !errors.Is(err, syscall.ECONNREFUSED) {
					failed = err
				}
			}
			<-tick.C
		}
	})
	return func() float64 {
		b.Helper()
		cancel()
		done.Wait()
		must(b, errors.Join(failed, conn.Close()))
		return float64(sent) / time.Since(began).Seconds()
	}
}

// vxlanTo is a packet of the tunnel with a datagram from the pair's first pod to its
// second, as the first's node would send it.
func vxlanTo(b *testing.B, n *topology.Node, p pair) []byte {
	b.Helper()
	link, err := n.Interface(device)
	must(b, err)
	udp := []byte{0x9c, 0x40, 0x1e, 0x61, 0, 8 + 18, 0, 0} // ports 40000 and 7777, no checksum
	udp = append(udp, make([]byte, 18)...)
	ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, syscall.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, p.from.Addrs[0].AsSlice()...), p.addr.AsSlice()...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	frame := append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, link.HardwareAddr...)
	frame = append(frame, 2, 0, 0, 0, 0, 9, 8, 0)
	return append(append(frame, ip...), udp...)
}
