package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/netnstest"
	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/pkg/topology"
)

// underlay is the namespace with the bridge, where node i is port node<i+1>.
func (c *cluster) underlay() *topology.Namespace {
	name, _ := strings.CutSuffix(c.Outside.Name, "-outside")
	return &topology.Namespace{Name: name + "-underlay"}
}

func (c *cluster) underlayIP(args string) {
	c.t.Helper()
	if out, err := outputOf(c.t, c.underlay(), exec.Command("ip", strings.Fields(args)...)); err != nil {
		c.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// other does something to a peer, and undoes it with the case.
func (w *ward) block(peer int, script string) {
	w.nft(peer, "table ip block {\n"+script+"\n}")
	w.undo(peer, "nft", "delete", "table", "ip", "block")
}

func pathInjuries() []injury {
	return []injury{
		{check: "cloned-machine", also: []string{"underlay", "tunnel-blocked", "one-way", "mtu"}, probes: true, mends: "machine id", hurt: func(w *ward) []string {
			clone := w.node().Addrs[0].String() + "/32"
			if out, err := outputOf(w.t, w.Outside, exec.Command("ip", "addr", "add", clone, "dev", "eth0")); err != nil {
				w.t.Fatalf("%v\n%s", err, out)
			}
			w.t.Cleanup(func() {
				_, _ = outputOf(w.t, w.Outside, exec.Command("ip", "addr", "del", clone, "dev", "eth0"))
				for i := range w.Nodes { // who heard the clone forgets it
					_, _ = output(w.t, &w.Nodes[i].Namespace, "ip", "neigh", "flush", "dev", "eth0")
				}
			})
			return nil
		}},
		{check: "underlay", probes: true, mends: "ip route get", hurt: func(w *ward) []string {
			w.underlayIP("link set node2 down")
			w.t.Cleanup(func() {
				w.underlayIP("link set node2 up")
				w.awaitPeer()
			})
			return nil
		}},
		{check: "tunnel-blocked", probes: true, mends: "let UDP on the tunnel's port through", hurt: func(w *ward) []string {
			w.block(1, "chain i { type filter hook input priority 0; udp dport 8472 drop; }\n"+
				"chain o { type filter hook output priority 0; udp dport 8472 drop; }")
			return nil
		}},
		{check: "one-way", probes: true, mends: "the peer", hurt: func(w *ward) []string {
			w.block(1, "chain i { type filter hook input priority 0; udp dport 8472 ip saddr "+
				w.node().Addrs[0].String()+" drop; }")
			w.chatter(1)
			return nil
		}},
		{check: "mtu", probes: true, mends: "MTU", hurt: func(w *ward) []string {
			w.underlayIP("link set node3 mtu 1400")
			w.t.Cleanup(func() { w.underlayIP("link set node3 mtu 1500") })
			return nil
		}},
		{check: "checksum-offload", probes: true, mends: "ethtool -K flannel.1 tx-checksum-ip-generic off", hurt: func(w *ward) []string {
			w.brokenCard()
			return nil
		}},
	}
}

// tunnelAddr is a node's end of the tunnel.
func (w *ward) tunnelAddr(i int) netip.Addr {
	w.t.Helper()
	env, err := subnetenv.Read(w.Nodes[i].SubnetFile())
	if err != nil {
		w.t.Fatal(err)
	}
	return env.Subnets[0].Addr()
}

// awaitPeer waits until the patient reaches node 1 again.
func (w *ward) awaitPeer() {
	eventually(w.t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		_, err := w.node().Ping(ctx, topology.Ping{To: w.tunnelAddr(1)})
		return err
	})
}

// chatter has a node send to the patient through the tunnel all the time.
func (w *ward) chatter(from int) {
	to, end, done := w.tunnelAddr(w.patient), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			_, _ = w.Nodes[from].Ping(ctx, topology.Ping{To: to})
			cancel()
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	w.t.Cleanup(func() {
		close(end)
		<-done
	})
}

// brokenCard puts a program between the patient's port and the bridge. Frames
// reach it as they would reach a network card that computes checksums: not
// finished. It sends them on as they are but for the tunnel's own checksum,
// which is what a card does that gets wrong what is inside of a tunnel.
func (w *ward) brokenCard() {
	w.t.Helper()
	w.underlayIP("link add relay0 type veth peer name relay1")
	w.underlayIP("link set relay1 master br0 up")
	w.underlayIP("link set relay0 up")
	w.underlayIP("link set node3 nomaster")
	port, relay := w.frames("node3"), w.frames("relay0")
	done := make(chan struct{}, 2)
	go carryFrames(port, relay, done)
	go carryFrames(relay, port, done)
	w.t.Cleanup(func() {
		_ = unix.Shutdown(port, unix.SHUT_RDWR)
		w.underlayIP("link set node3 master br0")
		w.underlayIP("link del relay0") // ends both reads
		<-done
		_ = unix.Close(port)
		_ = unix.Close(relay)
		w.awaitPeer()
	})
}

// frames opens a packet socket on a link of the underlay.
func (w *ward) frames(link string) (fd int) {
	w.t.Helper()
	err := w.underlay().Do(func() (err error) {
		iface, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all&0xffff); err != nil {
			return err
		}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: iface.Index})
	})
	if err != nil {
		w.t.Fatalf("packet socket on %s: %v", link, err)
	}
	return fd
}

// carryFrames ends when the link that it sends to, or reads from, is gone.
func carryFrames(from, to int, done chan<- struct{}) {
	defer func() { done <- struct{}{} }()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(from, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return
		}
		forgetOuterChecksum(buf[:n])
		if _, err := unix.Write(to, buf[:n]); errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return
		}
	}
}

// forgetOuterChecksum says of a VXLAN packet over IPv4 that it has none (RFC 768).
func forgetOuterChecksum(frame []byte) {
	const ethernet, ip = 14, 20
	if len(frame) < ethernet+ip+8 || frame[12] != 8 || frame[13] != 0 || frame[ethernet]&0xf != 5 ||
		frame[ethernet+9] != unix.IPPROTO_UDP {
		return
	}
	datagram := frame[ethernet+ip:]
	if binary.BigEndian.Uint16(datagram[2:]) == 8472 {
		datagram[6], datagram[7] = 0, 0
	}
}

// checksumsOff does what the finding says: ethtool -K flannel.1
// tx-checksum-ip-generic off.
func (w *ward) checksumsOff() {
	w.t.Helper()
	if err := w.node().Do(func() error { return netnstest.SwitchTXChecksum("flannel.1", false) }); err != nil {
		w.t.Fatal(err)
	}
}
