package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/topology"
)

// liar is a pod that sends frames of its own making.
type liar struct {
	hw, host, victim, stranger         net.HardwareAddr
	own4, other4, gw4, own6, other6    netip.Addr
	third4, third6                     netip.Addr // of nobody
	gw6, ownLocal, hostLocal, farLocal netip.Addr
}

// lie is one kind of frame, and whether it passes.
type lie struct {
	name  string
	frame []byte
	pass  bool
	// arrives: it is to a pod that is there, and so can be counted there.
	arrives bool
}

// TestPodsCannotLie sends frames with forged sources from a pod: none arrives
// anywhere, and what is its own does.
func TestPodsCannotLie(t *testing.T) {
	c := newCluster(t, 2, underlay4, underlay6)
	c.Nodes[1].PTP = true
	// Bridge pods are attached by flannel's form, in which they have to be guarded
	// by word.
	c.Nodes[0].AllowSpoofing = []string{c.Nodes[0].Name + "/free*", "elsewhere"}
	c.Nodes[1].AllowSpoofing = []string{c.Nodes[1].Name + "/freeone"}
	for _, d := range c.configured(dualConfig(`{"Type":"vxlan"}`)) {
		d.awaitReady(1)
	}
	for i, mode := range []string{"bridge", "ptp"} {
		n := c.Nodes[i]
		victim := c.pod(n, "victim")
		for _, name := range []string{"liar", "freeone"} {
			t.Run(mode+", "+name, func(t *testing.T) {
				pod := c.pod(n, name)
				free := name == "freeone"
				l := c.liarOf(pod, victim)
				ear := listenTo(t, &victim.Namespace)
				l.tell(t, pod, n, ear, mode == "bridge", free)
				c.mesh([]*topology.Pod{pod, victim}, 1430)
				if !free {
					c.suspect(n, pod, l)
				}
			})
		}
	}
}

func (c *cluster) liarOf(pod, victim *topology.Pod) liar {
	c.t.Helper()
	hw := func(ns *topology.Namespace) net.HardwareAddr {
		i, err := ns.Interface(topology.Eth0)
		if err != nil {
			c.t.Fatal(err)
		}
		return i.HardwareAddr
	}
	l := liar{
		hw: hw(&pod.Namespace), victim: hw(&victim.Namespace), stranger: net.HardwareAddr{2, 0, 0, 0, 0, 0x66},
		own4: pod.Addrs[0], other4: victim.Addrs[0], own6: pod.Addrs[1], other6: victim.Addrs[1],
	}
	l.third4, l.third6 = l.own4.Next().Next(), l.own6.Next().Next()
	l.gw4 = netip.PrefixFrom(l.own4, 24).Masked().Addr().Next()
	l.gw6 = netip.PrefixFrom(l.own6, 64).Masked().Addr().Next()
	local := func(h net.HardwareAddr) netip.Addr { return attachment.LinkLocal(mac.FromBytes(h)) }
	i := slices.IndexFunc(c.Nodes, func(n *topology.Node) bool { return strings.HasPrefix(pod.Name, n.Name+"-") })
	_, link, _ := strings.Cut(c.command(i, "ip", "route", "get", l.own4.String()), " dev ")
	link, _, _ = strings.Cut(link, " ")
	at, err := c.Nodes[i].Interface(link)
	if err != nil {
		c.t.Fatal(err)
	}
	l.host = at.HardwareAddr
	l.ownLocal, l.hostLocal, l.farLocal = local(l.hw), local(l.host), local(l.victim)
	return l
}

// lies are all frames; bridged tells that the link is shared.
func (l liar) lies(bridged bool) []lie {
	to := l.victim // the next station on the way to the victim
	if !bridged {
		to = l.host
	}
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	all6 := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	allNodes, any6 := netip.MustParseAddr("ff02::1"), netip.IPv6Unspecified()
	far4, far6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
	data := func(from, to netip.Addr, hw, via net.HardwareAddr) []byte {
		return l.ip(hw, via, from, to, unix.IPPROTO_UDP, datagram(40000, targetPort), nil)
	}
	dhcp := func(from, to netip.Addr, ports ...uint16) []byte {
		return l.ip(l.hw, broadcast, from, to, unix.IPPROTO_UDP, datagram(ports[0], ports[1]), nil)
	}
	nd := func(from netip.Addr, kind byte, target netip.Addr) []byte {
		return l.ip(l.hw, all6, from, allNodes, unix.IPPROTO_ICMPV6, discovery(kind, target), nil)
	}
	arp := func(op uint16, hw net.HardwareAddr, sender, target netip.Addr) []byte {
		return l.arp(broadcast, op, hw, sender, target)
	}
	hopByHop := []byte{unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}
	hidden := l.ip(l.hw, all6, l.ownLocal, allNodes, unix.IPPROTO_ICMPV6, discovery(134, any6), hopByHop)
	mine4, mine6 := data(l.own4, l.other4, l.hw, to), data(l.own6, l.other6, l.hw, to)
	forged4 := data(l.third4, l.other4, l.hw, to)
	tagged := func(frame []byte, tags ...uint16) []byte {
		out := slices.Clone(frame[:12])
		for _, tag := range tags {
			out = append(binary.BigEndian.AppendUint16(out, tag), 0, 0)
		}
		return append(out, frame[12:]...)
	}
	strange := slices.Clone(mine4)
	binary.BigEndian.PutUint16(strange[12:], 0x88b5)
	probe := netip.IPv4Unspecified()
	return []lie{
		{name: "own IPv4", frame: mine4, pass: true, arrives: true},
		{name: "own IPv6", frame: mine6, pass: true, arrives: true},
		{name: "own link-local", frame: data(l.ownLocal, l.farLocal, l.hw, to), pass: true, arrives: bridged},
		{name: "own ARP reply", frame: arp(2, l.hw, l.own4, l.other4), pass: true, arrives: bridged},
		{name: "own gratuitous ARP", frame: arp(1, l.hw, l.own4, l.own4), pass: true, arrives: bridged},
		{name: "ARP probe", frame: arp(1, l.hw, probe, l.own4), pass: true, arrives: bridged},
		{name: "own advertisement", frame: nd(l.own6, 136, l.own6), pass: true, arrives: bridged},
		{name: "own link-local advertisement", frame: nd(l.ownLocal, 136, l.ownLocal), pass: true, arrives: bridged},
		{name: "question for the gateway", frame: nd(l.own6, 135, l.gw6), pass: true, arrives: bridged},
		{name: "search for duplicates", frame: nd(any6, 135, l.own6), pass: true, arrives: bridged},
		{name: "router solicitation", frame: nd(l.ownLocal, 133, any6), pass: true, arrives: bridged},
		{name: "multicast report", frame: nd(any6, 143, any6), pass: true, arrives: bridged},
		{name: "DHCP request", frame: dhcp(probe, netip.MustParseAddr("255.255.255.255"), 68, 67), pass: true, arrives: bridged},

		{name: "another's IPv4", frame: forged4},
		{name: "the victim's IPv4", frame: data(l.other4, l.own4, l.hw, to)},
		{name: "another's MAC", frame: data(l.own4, l.other4, l.stranger, to), pass: !bridged, arrives: true},
		{name: "another's MAC and IPv4", frame: data(l.third4, l.other4, l.stranger, to)},
		{name: "the gateway's IPv4", frame: data(l.gw4, l.other4, l.hw, to)},
		{name: "IPv4 from outside", frame: data(far4, l.other4, l.hw, to)},
		{name: "IPv4 loopback", frame: data(netip.MustParseAddr("127.0.0.1"), l.other4, l.hw, to)},
		{name: "no IPv4", frame: data(probe, l.other4, l.hw, to)},
		{name: "another's IPv6", frame: data(l.third6, l.other6, l.hw, to)},
		{name: "another's IPv6 and MAC", frame: data(l.third6, l.other6, l.stranger, to)},
		{name: "another's link-local", frame: data(l.hostLocal, l.farLocal, l.hw, to)},
		{name: "IPv6 from outside", frame: data(far6, l.other6, l.hw, to)},
		{name: "no IPv6", frame: data(any6, l.other6, l.hw, to)},
		{name: "ARP for the gateway", frame: arp(2, l.hw, l.gw4, l.other4)},
		{name: "ARP for another pod", frame: arp(2, l.hw, l.third4, l.other4)},
		{name: "gratuitous ARP for another", frame: arp(1, l.hw, l.third4, l.third4)},
		{name: "ARP with another's MAC", frame: arp(2, l.stranger, l.own4, l.other4), pass: !bridged},
		{name: "advertisement for the gateway", frame: nd(l.ownLocal, 136, l.gw6)},
		{name: "advertisement as the gateway", frame: nd(l.gw6, 136, l.gw6)},
		{name: "advertisement for another", frame: nd(l.own6, 136, l.third6)},
		{name: "search for another's duplicates", frame: nd(any6, 135, l.other6)},
		{name: "router advertisement", frame: nd(l.ownLocal, 134, any6)},
		{name: "the same behind an extension header", frame: hidden},
		{name: "router advertisement as the gateway", frame: nd(l.hostLocal, 134, any6)},
		{name: "redirect", frame: nd(l.ownLocal, 137, l.gw6)},
		{name: "DHCP offer", frame: dhcp(l.own4, netip.MustParseAddr("255.255.255.255"), 67, 68)},
		{name: "DHCP offer from nowhere", frame: dhcp(probe, netip.MustParseAddr("255.255.255.255"), 67, 68)},
		{name: "DHCPv6 reply", frame: dhcp(l.ownLocal, allNodes, 547, 546)},
		{name: "no IP", frame: strange},
		{name: "another's IPv4 with a priority", frame: tagged(forged4, 0x8100)},
		{name: "another's IPv4 with two", frame: tagged(forged4, 0x8100, 0x8100)},
	}
}

// tell sends each kind, and wants what arrives to be what passes. Of a free pod
// all does that isn't thrown away later, as ARP is on a link of its own.
func (l liar) tell(t *testing.T, pod *topology.Pod, n *topology.Node, ear func() map[byte]int, bridged, free bool) {
	t.Helper()
	send := mouth(t, &pod.Namespace)
	all := l.lies(bridged)
	want, have := map[string]int{}, map[string]int{}
	refused := 0
	before := refusals(t, n, pod)
	for i, one := range all {
		for range shots {
			send(seal(one.frame, byte(i)))
		}
		if one.pass && one.arrives {
			want[one.name] = shots
		}
		if !one.pass {
			refused += shots
		}
	}
	arrived := func() error {
		have = map[string]int{}
		for tag, n := range ear() {
			have[all[tag].name] = n
		}
		if free {
			return l.tellsAll(bridged, have)
		}
		if !maps.Equal(want, have) {
			return fmt.Errorf("arrived: %v\nwant %v", have, want)
		}
		return nil
	}
	eventually(t, 5*time.Second, arrived)
	<-time.After(50 * time.Millisecond) // for one that comes late
	if err := arrived(); err != nil {
		t.Error(err)
	}
	if counted := refusals(t, n, pod) - before; !free && counted != refused {
		t.Errorf("%d frames counted as refused, want %d", counted, refused)
	}
	t.Logf("%d kinds of frames, %d each: %d kinds arrived", len(all), shots, len(have))
}

// tellsAll wants the lies that a pod without a guard gets through.
func (l liar) tellsAll(bridged bool, have map[string]int) error {
	want := []string{"own IPv4", "another's IPv4"}
	if bridged {
		want = append(want, "ARP for the gateway", "router advertisement", "DHCP offer", "advertisement for another", "no IP",
			"another's IPv4 with a priority", "another's IPv4 with two", "the same behind an extension header")
	}
	for _, name := range want {
		if have[name] != shots {
			return fmt.Errorf("%s: %d arrived of %d, without a guard", name, have[name], shots)
		}
	}
	return nil
}

// suspect wants the host to believe nothing of what was said.
func (c *cluster) suspect(n *topology.Node, pod *topology.Pod, l liar) {
	c.t.Helper()
	out, err := output(c.t, &n.Namespace, "ip", "neigh", "show")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		at, _, _ := strings.Cut(line, " ")
		addr, err := netip.ParseAddr(at)
		if err != nil {
			continue
		}
		own := addr == l.own4 || addr == l.own6 || addr == l.ownLocal
		if !own && strings.Contains(line, l.hw.String()) {
			c.t.Errorf("%s: the host believes %s", pod.Name, line)
		}
	}
}

// refusals are what was counted for a pod's link.
func refusals(t *testing.T, n *topology.Node, pod *topology.Pod) (sum int) {
	t.Helper()
	records, err := attachment.Dir(n.Attachments()).Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Container != pod.Name || !r.Guard {
			continue
		}
		out, err := output(t, &n.Namespace, "nft", "list", "set", "netdev", "weft-guard", "refusals")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_, out, there := strings.Cut(out, r.HostLink)
		_, out, _ = strings.Cut(out, "counter packets ")
		if _, err := fmt.Sscan(out, &sum); there && err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return sum
}

// marker ends a frame, and tells which kind it is.
// It can be an option of RFC 4861: of type 253 and 8 bytes.
func marker(kind byte) []byte { return []byte{253, 1, 'w', 'e', 'f', 't', 'l', kind} }

// seal marks a frame, and gives ICMPv6 its checksum, so that a host would believe
// it.
func seal(frame []byte, kind byte) []byte {
	const ethernet, header, sum = 14, 40, 2
	b := append(slices.Clone(frame), marker(kind)...)
	if binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IPV6 {
		return b
	}
	packet := b[ethernet:]
	body := packet[header:]
	if packet[6] == unix.IPPROTO_HOPOPTS {
		body = body[8:]
	} else if packet[6] != unix.IPPROTO_ICMPV6 {
		return b
	}
	pseudo := binary.BigEndian.AppendUint32(slices.Clone(packet[8:header]), uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[sum:], checksum(append(pseudo, body...)))
	return b
}

func packetSocket(t *testing.T, ns *topology.Namespace, protocol uint16) (fd, index int) {
	t.Helper()
	i, err := ns.Interface(topology.Eth0)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol<<8|protocol>>8))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return fd, i.Index
}

// mouth sends frames as they are.
func mouth(t *testing.T, ns *topology.Namespace) func([]byte) {
	t.Helper()
	fd, index := packetSocket(t, ns, 0)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func(frame []byte) {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
			t.Fatal(err)
		}
	}
}

// listenTo counts the marked frames that come to a namespace's eth0, by kind.
func listenTo(t *testing.T, ns *topology.Namespace) func() map[byte]int {
	t.Helper()
	fd, _ := packetSocket(t, ns, unix.ETH_P_ALL)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	heard, done, ended := map[byte]int{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 2048); ; {
			select {
			case <-done:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, 0)
			ll, ok := from.(*unix.SockaddrLinklayer)
			if err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			begin := marker(0)[:7]
			if at := bytes.LastIndex(b[:n], begin); at >= 0 && at+len(begin) < n {
				mu.Lock()
				heard[b[at+len(begin)]]++
				mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-ended
		_ = unix.Close(fd)
	})
	return func() map[byte]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(heard)
	}
}

// ip is a frame with a whole packet, but for the marker, which its lengths have
// in them.
func (l liar) ip(hw, via net.HardwareAddr, from, to netip.Addr, proto byte, body, extension []byte) []byte {
	frame := append(slices.Clone(via), hw...)
	length := len(body) + len(marker(0))
	if from.Is4() {
		frame = append(frame, 8, 0)
		b := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}
		binary.BigEndian.PutUint16(b[2:], uint16(20+length))
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(append(frame, b...), body...)
	}
	next := proto
	if extension != nil {
		next = unix.IPPROTO_HOPOPTS
	}
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	binary.BigEndian.PutUint16(b[4:], uint16(len(extension)+length))
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	return append(append(append(append(frame, 0x86, 0xdd), b...), extension...), body...)
}

func datagram(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	return append(binary.BigEndian.AppendUint16(b, uint16(8+8+len(marker(0)))), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// discovery is a message of RFC 4861 with a target.
func discovery(kind byte, target netip.Addr) []byte {
	return append([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
}

func (l liar) arp(to net.HardwareAddr, op uint16, sender net.HardwareAddr, from, target netip.Addr) []byte {
	b := append(append(slices.Clone(to), l.hw...), 8, 6, 0, 1, 8, 0, 6, 4)
	b = append(append(binary.BigEndian.AppendUint16(b, op), sender...), from.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}
