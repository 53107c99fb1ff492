package cniplugin_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	netipv4 "golang.org/x/net/ipv4"
	netipv6 "golang.org/x/net/ipv6"

	"github.com/weftnet/weft/pkg/netnstest"
)

const patience = 10 * time.Second

// reach sends from one namespace to an address in another: echo requests, a
// datagram and a connection, each once: nothing may be lost on the way, not
// even right after ADD.
func reach(t *testing.T, from, to *netnstest.NS, addr net.IP) {
	t.Helper()
	if err := errors.Join(ping(from, addr), udp(from, to, addr), tcp(from, to, addr)); err != nil {
		t.Errorf("to %s: %v", addr, err)
	}
}

func reachAll(t *testing.T, from, to *netnstest.NS, of *types100.Result) {
	t.Helper()
	for _, ip := range of.IPs {
		reach(t, from, to, ip.Address.IP)
	}
}

// When ADD returns, the path is open: a datagram for which nobody must be asked
// first, and which nobody sends again, arrives.
func TestFirstPacketArrives(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4)
	p, first := newPod(t, 0)
	n.add(p)
	h, err := netlink.NewHandleAt(first.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := listen(first)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 20 {
		p, ns := newPod(t, 1+i)
		server, err := listen(ns)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		r := n.add(p)
		hw, err := net.ParseMAC(r.Interfaces[2].Mac)
		if err != nil {
			t.Fatal(err)
		}
		addr := r.IPs[0].Address.IP
		if err := h.NeighSet(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index, IP: addr, HardwareAddr: hw, State: netlink.NUD_PERMANENT,
		}); err != nil {
			t.Fatal(err)
		}
		if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		to := &net.UDPAddr{IP: addr, Port: server.LocalAddr().(*net.UDPAddr).Port}
		if _, err := client.WriteTo([]byte("weft"), to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := server.ReadFrom(make([]byte, 8)); err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
	}
}

// listen opens a socket for datagrams, which waits for a while only.
func listen(ns *netnstest.NS) (conn net.PacketConn, err error) {
	ns.Do(func() { conn, err = net.ListenUDP("udp4", nil) })
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

func ping(from *netnstest.NS, addr net.IP) error {
	network, local, proto := "ip4:icmp", "0.0.0.0", 1
	var request, reply icmp.Type = netipv4.ICMPTypeEcho, netipv4.ICMPTypeEchoReply
	if addr.To4() == nil {
		network, local, proto = "ip6:ipv6-icmp", "::", 58
		request, reply = netipv6.ICMPTypeEchoRequest, netipv6.ICMPTypeEchoReply
	}
	var conn *icmp.PacketConn
	var err error
	from.Do(func() { conn, err = icmp.ListenPacket(network, local) })
	if err != nil {
		return err
	}
	defer conn.Close()
	msg := icmp.Message{Type: request, Body: &icmp.Echo{ID: 4242, Seq: 1, Data: []byte("weft")}}
	b, err := msg.Marshal(nil)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.WriteTo(b, &net.IPAddr{IP: addr}); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	for buf := make([]byte, 1500); ; {
		n, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		got, err := icmp.ParseMessage(proto, buf[:n])
		if err == nil && got.Type == reply && peer.(*net.IPAddr).IP.Equal(addr) {
			return nil
		}
	}
}

// payload fills a packet of the pods' MTU of 1450 over IPv6 and UDP.
func payload() []byte { return bytes.Repeat([]byte("x"), 1450-40-8) }

func udp(from, to *netnstest.NS, addr net.IP) error {
	var server, client net.PacketConn
	var err error
	to.Do(func() { server, err = net.ListenUDP("udp", &net.UDPAddr{IP: addr}) })
	if err != nil {
		return err
	}
	defer server.Close()
	from.Do(func() { client, err = net.ListenUDP("udp", nil) })
	if err != nil {
		return err
	}
	defer client.Close()
	if err := server.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := client.WriteTo(payload(), server.LocalAddr()); err != nil {
		return fmt.Errorf("udp: %w", err)
	}
	buf := make([]byte, 2000)
	n, _, err := server.ReadFrom(buf)
	if err != nil || !bytes.Equal(buf[:n], payload()) {
		return fmt.Errorf("udp: %d bytes arrived: %w", n, err)
	}
	return nil
}

func tcp(from, to *netnstest.NS, addr net.IP) error {
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: addr}) })
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write(payload())
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	var c net.Conn
	from.Do(func() { c, err = net.DialTimeout("tcp", l.Addr().String(), patience) })
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if !bytes.Equal(got, payload()) {
		err = errors.Join(err, fmt.Errorf("tcp: %d bytes arrived", len(got)))
	}
	return errors.Join(err, <-served)
}
