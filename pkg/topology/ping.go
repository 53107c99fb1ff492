package topology

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Ping is one ICMP echo.
type Ping struct {
	From netip.Addr // the zero value lets the kernel choose
	To   netip.Addr
	Size int // bytes of the whole IP packet; 0: 64, the smallest MTU-sized packet is 28 or 48
}

const (
	defaultPing = 64
	icmpHeader  = 8
)

// Ping sends one echo request that must not be fragmented, and waits for the
// reply until ctx ends; a ctx without a deadline waits for ever. It returns the
// round-trip time. A packet larger than the path's known MTU is EMSGSIZE.
func (ns *Namespace) Ping(ctx context.Context, p Ping) (time.Duration, error) {
	rtt, err := ns.ping(ctx, p)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
			err = ctx.Err()
		}
		return 0, fmt.Errorf("ping %s from %s with %d bytes: %w", p.To, ns.Name, p.size(), err)
	}
	return rtt, nil
}

func (p Ping) size() int {
	if p.Size == 0 {
		return defaultPing
	}
	return p.Size
}

func (ns *Namespace) ping(ctx context.Context, p Ping) (time.Duration, error) {
	wire := wireOf(p.To)
	payload := p.size() - wire.header - icmpHeader
	if payload < 0 {
		return 0, fmt.Errorf("smaller than its headers of %d bytes", wire.header+icmpHeader)
	}
	conn, err := ns.listenICMP(ctx, wire, p.From)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // so that the read below ends

	echo := &icmp.Echo{ID: rand.IntN(1 << 16), Seq: 1, Data: make([]byte, payload)}
	request := icmp.Message{Type: wire.request, Body: echo}
	raw, err := request.Marshal(nil) // the kernel fills in the checksum of ICMPv6 (RFC 3542 section 3.1)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	if _, err := conn.WriteTo(raw, &net.IPAddr{IP: p.To.AsSlice()}); err != nil {
		return 0, err
	}
	return awaitReply(conn, wire, p.To, echo, sent)
}

// awaitReply reads until our reply is there: a raw socket is handed every ICMP
// packet of the namespace.
func awaitReply(conn net.PacketConn, w wire, to netip.Addr, echo *icmp.Echo, sent time.Time) (time.Duration, error) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		rtt := time.Since(sent)
		if addr, ok := from.(*net.IPAddr); !ok || !addr.IP.Equal(to.AsSlice()) {
			continue
		}
		if isReply(buf[:n], w, echo) {
			return rtt, nil
		}
	}
}

// isReply compares type, identifier, sequence number and length (RFC 792,
// RFC 4443 section 4.2).
func isReply(b []byte, w wire, echo *icmp.Echo) bool {
	return len(b) == icmpHeader+len(echo.Data) &&
		b[0] == w.reply &&
		int(binary.BigEndian.Uint16(b[4:])) == echo.ID &&
		int(binary.BigEndian.Uint16(b[6:])) == echo.Seq
}

// wire is what differs between the families.
type wire struct {
	network string // as package net calls it
	header  int    // bytes of the IP header
	request icmp.Type
	reply   byte
	options []option
}

type option struct{ level, name, value int }

func wireOf(a netip.Addr) wire {
	if a.Is4() {
		return wire{
			network: "ip4:icmp", header: ipv4.HeaderLen,
			request: ipv4.ICMPTypeEcho, reply: byte(ipv4.ICMPTypeEchoReply),
			options: []option{{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO}},
		}
	}
	return wire{
		network: "ip6:ipv6-icmp", header: ipv6.HeaderLen,
		request: ipv6.ICMPTypeEchoRequest, reply: byte(ipv6.ICMPTypeEchoReply),
		options: []option{
			{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO},
			{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1},
		},
	}
}

// listenICMP opens a raw socket that sets "don't fragment" on what it sends.
func (ns *Namespace) listenICMP(ctx context.Context, w wire, from netip.Addr) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var optErr error
		err := c.Control(func(fd uintptr) {
			for _, o := range w.options {
				optErr = errors.Join(optErr, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
			}
		})
		return errors.Join(err, optErr)
	}}
	address := ""
	if from.IsValid() {
		address = from.String()
	}
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = config.ListenPacket(ctx, w.network, address)
		return err
	})
	return conn, err
}
