package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	door "github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/topology"
)

// shots is how many packets of each kind are sent.
const shots = 10

// shot is one kind of packet at the tunnel's port, and which filters let it in. What
// the kernel drops by itself in a packet from the tunnel is let in by none.
type shot struct {
	name   string
	outer  netip.Addr
	vni    uint32
	inner  netip.Addr
	pieces []int // lengths of fragments but the last; nil: it is whole
	broken func(frame []byte)
	in     []door.Filter
}

// TestStrangersAreKeptOut sends real packets, with forged addresses, to a pod.
func TestStrangersAreKeptOut(t *testing.T) {
	c := newCluster(t, 3, underlay4, underlay6)
	first := c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start()
	victim, third := c.daemon(1).start(), c.daemon(2).start()
	for _, d := range []*daemon{first, victim, third} {
		d.awaitReady(2)
	}
	pods := []*topology.Pod{c.pod(c.Nodes[0], "a"), c.pod(c.Nodes[1], "a"), c.pod(c.Nodes[2], "a")}
	usual := victim.args
	for _, test := range []struct {
		filter door.Filter
		masq   bool // without it nobody puts fragments together before the filter
	}{{door.Strict, true}, {door.Strict, false}, {door.VTEPOnly, false}, {door.Off, true}} {
		t.Run(fmt.Sprintf("%s, masquerade %v", test.filter, test.masq), func(t *testing.T) {
			victim.stop()
			masq := fmt.Sprintf("--ip-masq=%v", test.masq)
			victim.args = append(slices.Clone(usual), "--vxlan-filter="+string(test.filter), masq)
			victim.start().awaitReady(2)
			eventually(t, 10*time.Second, func() error {
				s, err := victim.status()
				if err == nil && s.Tunnel.Filter != string(test.filter) {
					err = fmt.Errorf("filter %q, want %s", s.Tunnel.Filter, test.filter)
				}
				return err
			})
			victim.awaitPlanEmpty()
			for family := range c.Outside.Addrs {
				c.besiege(t, victim, pods, family, test.filter)
			}
		})
	}
}

func everyFilter() []door.Filter { return []door.Filter{door.Strict, door.VTEPOnly, door.Off} }

// shotsAt are from node 1, whose pod the first is, at the second's node; node 3 is
// the third's.
func (c *cluster) shotsAt(pods []*topology.Pod, family int) []shot {
	peer, victim, third := c.Nodes[0].Addrs[family], c.Nodes[1].Addrs[family], c.Nodes[2].Addrs[family]
	pod := func(i int) netip.Addr { return pods[i].Addrs[family] }
	stranger := c.Outside.Addrs[family]
	far, multicast, broadcast, loopback := "203.0.113.9", "224.0.0.9", "255.255.255.255", "127.0.0.9"
	if peer.Is6() {
		far, multicast, broadcast, loopback = "2001:db8::9", "ff02::9", "ff02::1", "::1"
	}
	addr := netip.MustParseAddr
	vtep, off := []door.Filter{door.VTEPOnly, door.Off}, []door.Filter{door.Off}
	unchecked := []door.Filter(nil) // IPv4 drops what seems to come from an address of its own, IPv6 does not
	if peer.Is6() {
		unchecked = vtep
	}
	vlan := func(frame []byte) { binary.BigEndian.PutUint16(frame[12:], 0x88b5) }
	return []shot{
		{name: "a pod of the peer", outer: peer, vni: 1, inner: pod(0), in: everyFilter()},
		{name: "the peer itself", outer: peer, vni: 1, inner: peer, in: everyFilter()},
		{name: "from outside through the peer", outer: peer, vni: 1, inner: addr(far), in: everyFilter()},
		{name: "in fragments", outer: peer, vni: 1, inner: pod(0), pieces: []int{96, 40}, in: everyFilter()},
		{name: "a stranger", outer: stranger, vni: 1, inner: pod(0), in: off},
		{name: "a stranger from outside", outer: stranger, vni: 1, inner: addr(far), in: off},
		{name: "a stranger in fragments", outer: stranger, vni: 1, inner: pod(0), pieces: []int{96, 40}, in: off},
		{name: "a stranger in tiny fragments", outer: stranger, vni: 1, inner: pod(0), pieces: []int{8, 8, 8}, in: off},
		{name: "a stranger with another VNI", outer: stranger, vni: 2, inner: pod(0)},
		{name: "a stranger without a VNI", outer: stranger, vni: 0, inner: pod(0)},
		{name: "the peer with another VNI", outer: peer, vni: 2, inner: pod(0)},
		{name: "as if from another node's pod", outer: peer, vni: 1, inner: pod(2), in: vtep},
		{name: "the same in fragments", outer: peer, vni: 1, inner: pod(2), pieces: []int{96, 40}, in: vtep},
		{name: "the same in tiny fragments", outer: peer, vni: 1, inner: pod(2), pieces: []int{8, 8, 8}, in: vtep},
		{name: "as if from another node", outer: peer, vni: 1, inner: third, in: vtep},
		{name: "as if from a pod here", outer: peer, vni: 1, inner: pod(1).Next(), in: vtep},
		{name: "as if from the host", outer: peer, vni: 1, inner: victim, in: unchecked},
		{name: "as if from multicast", outer: peer, vni: 1, inner: addr(multicast)},
		{name: "as if from broadcast", outer: peer, vni: 1, inner: addr(broadcast)},
		{name: "as if from loopback", outer: peer, vni: 1, inner: addr(loopback)},
		{name: "no IP inside", outer: peer, vni: 1, inner: pod(0), broken: vlan},
	}
}

// besiege sends all shots, and at last true ones, and wants what arrives to be what
// the filter lets in.
func (c *cluster) besiege(t *testing.T, victim *daemon, pods []*topology.Pod, family int, f door.Filter) {
	t.Helper()
	target := pods[1].Addrs[family]
	gun := c.gun(t, c.Nodes[1].Addrs[family])
	got := catch(t, pods[1], target)
	all := c.shotsAt(pods, family)
	before, err := victim.status()
	if err != nil {
		t.Fatal(err)
	}
	const foreign = 3 // kinds with another VNI: not ours to count
	want := map[string]int{}
	kept := 0
	for i, s := range all {
		for range shots {
			gun(s, frameFor(c.deviceMAC(c.Nodes[1], family), s, target, byte(i)))
		}
		if slices.Contains(s.in, f) {
			want[s.name] = shots
		} else {
			kept += shots
		}
	}
	have := map[string]int{}
	arrived := func() error {
		have = map[string]int{}
		for tag, n := range got() {
			have[all[tag].name] = n
		}
		if !maps.Equal(want, have) {
			return fmt.Errorf("%s: let in %v\nwant %v", f, have, want)
		}
		return nil
	}
	eventually(t, 20*time.Second, arrived)
	<-time.After(50 * time.Millisecond) // for one that comes late
	if err := arrived(); err != nil {
		t.Error(err)
	}
	after, err := victim.status()
	dropped := int(after.Tunnel.Dropped - before.Tunnel.Dropped)
	if err != nil || f == door.Strict && dropped < kept-foreign*shots {
		t.Errorf("%s: %d packets counted as dropped of %d (%v)", f, dropped, kept, err)
	}
	t.Logf("%s: %d kinds of packets, %d each: let in %d kinds, %d packets counted as dropped",
		target, len(all), shots, len(have), after.Tunnel.Dropped-before.Tunnel.Dropped)
}

func (c *cluster) deviceMAC(n *topology.Node, family int) net.HardwareAddr {
	c.t.Helper()
	name := "flannel.1"
	if n.Addrs[family].Is6() {
		name = "flannel-v6.1"
	}
	i, err := n.Interface(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return i.HardwareAddr
}

const targetPort = 7777

// catch counts what arrives at a pod, by the first byte.
func catch(t *testing.T, pod *topology.Pod, at netip.Addr) func() map[byte]int {
	t.Helper()
	var conn *net.UDPConn
	if err := pod.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, targetPort)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var mu sync.Mutex
	got := map[byte]int{}
	go func() {
		for b := make([]byte, 2048); ; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if n > 0 {
				mu.Lock()
				got[b[0]]++
				mu.Unlock()
			}
		}
	}()
	return func() map[byte]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(got)
	}
}

// gun sends from outside, with any source.
func (c *cluster) gun(t *testing.T, to netip.Addr) func(shot, []byte) {
	t.Helper()
	domain := unix.AF_INET
	if to.Is6() {
		domain = unix.AF_INET6
	}
	// So that nothing waits for the neighbour's answer, in a queue that has an end.
	eventually(t, 10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Outside.Ping(ctx, topology.Ping{To: to})
		return err
	})
	fd := -1
	if err := c.Outside.Do(func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	var at unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		at = &unix.SockaddrInet4{Addr: to.As4()}
	}
	id := uint32(time.Now().UnixNano())
	return func(s shot, frame []byte) {
		header := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, s.vni<<8)
		payload := udp(s.outer, to, 8472, append(header, frame...))
		id++
		for _, p := range fragments(s.outer, to, id, payload, s.pieces) {
			if err := unix.Sendto(fd, p, 0, at); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
	}
}

// frameFor is the Ethernet frame inside.
func frameFor(to net.HardwareAddr, s shot, target netip.Addr, tag byte) []byte {
	body := make([]byte, 64)
	body[0] = tag
	frame := append(append([]byte{}, to...), 2, 0, 0, 0, 0, 9)
	kind := uint16(unix.ETH_P_IP)
	if target.Is6() {
		kind = unix.ETH_P_IPV6
	}
	frame = binary.BigEndian.AppendUint16(frame, kind)
	frame = append(frame, fragments(s.inner, target, 1, udp(s.inner, target, targetPort, body), nil)[0]...)
	if s.broken != nil {
		s.broken(frame)
	}
	return frame
}

func udp(from, to netip.Addr, port uint16, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40000)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	b = append(append(b, 0, 0), body...)
	if from.Is6() { // IPv4 may go without
		pseudo := append(from.AsSlice(), to.AsSlice()...)
		pseudo = append(pseudo, 0, 0, byte(len(b)>>8), byte(len(b)), 0, 0, 0, unix.IPPROTO_UDP)
		binary.BigEndian.PutUint16(b[6:], checksum(append(pseudo, b...)))
	}
	return b
}

// fragments are IP packets; whole if pieces is nil.
func fragments(from, to netip.Addr, id uint32, body []byte, pieces []int) (out [][]byte) {
	for at := 0; at < len(body); {
		n := len(body) - at
		if len(pieces) > 0 {
			n, pieces = min(n, pieces[0]), pieces[1:]
		}
		more := at+n < len(body)
		whole := at == 0 && !more
		out = append(out, ipHeader(from, to, id, at, more, whole, body[at:at+n]))
		at += n
	}
	return out
}

func ipHeader(from, to netip.Addr, id uint32, at int, more, whole bool, body []byte) []byte {
	place := uint16(at / 8)
	if from.Is4() {
		if more {
			place |= 1 << 13
		}
		b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
		binary.BigEndian.PutUint16(b[4:], uint16(id))
		binary.BigEndian.PutUint16(b[6:], place)
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(b, body...)
	}
	next, extension := byte(unix.IPPROTO_UDP), []byte(nil)
	if !whole {
		next = unix.IPPROTO_FRAGMENT
		place <<= 3
		if more {
			place |= 1
		}
		extension = binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_UDP, 0}, place)
		extension = binary.BigEndian.AppendUint32(extension, id)
	}
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(extension)+len(body)))
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	return append(append(b, extension...), body...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
