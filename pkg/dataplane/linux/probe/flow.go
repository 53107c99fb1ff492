// Package probe sends single packets and sees what becomes of them: an echo, a
// TCP connection's first packet, a datagram, from any namespace, with a size and
// no fragmentation if asked for.
//
// Live watches one of them on its way through a node: counters in an nftables
// table that belongs to a socket, so that the kernel takes it away with the
// process, however that ends.
//
// It owns the sockets and that table. It refuses to say what an answer means.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/ping"
)

// Flow says what to send.
type Flow struct {
	Path     string     // of the namespace; "": that of the caller
	Src, Dst netip.Addr // Src invalid: as the kernel chooses
	Proto    string     // "icmp", "tcp" or "udp"
	Port     uint16     // of tcp and udp
	Size     int        // of icmp: bytes of the whole IP packet; 0 is 64
}

// Answer is what came back.
type Answer struct {
	// What is "reply", "connected", "refused", "unreachable" or "" for nothing.
	What string
	RTT  time.Duration
}

// Came tells whether the other end has heard: a refusal is an answer too.
func (a Answer) Came() bool { return a.What == "reply" || a.What == "connected" || a.What == "refused" }

// Sender is a socket that is ready to send. Its flow can be told from all
// others before a packet is on its way.
type Sender struct {
	flow Flow
	fd   int
	id   uint16
	late int // looks after ctx had ended
}

// ID is the source port, or the echo's identifier.
func (s *Sender) ID() uint16 { return s.id }

// Close gives the socket back.
func (s *Sender) Close() { _ = unix.Close(s.fd) }

// Open prepares a flow.
func Open(f Flow) (*Sender, error) {
	s := &Sender{flow: f, fd: -1}
	err := linux.Within(f.Path, s.open)
	if err != nil {
		if s.fd >= 0 {
			s.Close()
		}
		return nil, fmt.Errorf("open a socket for %s to %s: %w", f.Proto, f.Dst, err)
	}
	return s, nil
}

func (s *Sender) open() (err error) {
	domain, typ, proto := unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP
	if s.flow.Dst.Is6() {
		domain = unix.AF_INET6
	}
	switch s.flow.Proto {
	case "udp":
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case "icmp":
		typ, proto = unix.SOCK_RAW, unix.IPPROTO_ICMP
		if s.flow.Dst.Is6() {
			proto = unix.IPPROTO_ICMPV6
		}
	}
	if s.fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto); err != nil {
		return err
	}
	src := s.flow.Src
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
		if s.flow.Dst.Is6() {
			src = netip.IPv6Unspecified()
		}
	}
	if err := unix.Bind(s.fd, sockaddr(src, 0)); err != nil {
		return fmt.Errorf("from %s: %w", src, err)
	}
	if s.flow.Proto == "icmp" {
		s.id = uint16(1 + rand.IntN(0xfffe))
		return s.dontFragment()
	}
	if s.flow.Proto == "tcp" {
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1)
	}
	name, err := unix.Getsockname(s.fd)
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		s.id = uint16(n.Port)
	case *unix.SockaddrInet6:
		s.id = uint16(n.Port)
	}
	return err
}

// dontFragment sets it on what is sent, whatever the path's MTU is remembered
// to be (IP_PMTUDISC_PROBE).
func (s *Sender) dontFragment() error {
	if s.flow.Dst.Is6() {
		return errors.Join(
			unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
	}
	return unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}

// Send sends the packet and waits for an answer until ctx ends. An error is
// one of sending; no answer is an Answer.
func (s *Sender) Send(ctx context.Context) (Answer, error) {
	start := time.Now()
	send := s.dial
	if s.flow.Proto == "icmp" {
		send = s.echo
	}
	what, err := send(ctx)
	switch refused := refusal(err); {
	case refused != "":
		what = refused
	case err != nil:
		return Answer{}, fmt.Errorf("send %s to %s: %w", s.flow.Proto, s.flow.Dst, err)
	}
	return Answer{What: what, RTT: time.Since(start)}, nil
}

func refusal(err error) string {
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return "refused"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
		return "unreachable"
	}
	return ""
}

// dial connects; a datagram is sent then, and whatever comes back is a reply.
func (s *Sender) dial(ctx context.Context) (string, error) {
	err := unix.Connect(s.fd, sockaddr(s.flow.Dst, s.flow.Port))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return "", err
	}
	events := int16(unix.POLLOUT)
	if s.flow.Proto == "udp" {
		if _, err := unix.Write(s.fd, []byte("weft")); err != nil {
			return "", err
		}
		events = unix.POLLIN
	}
	if ready, err := s.wait(ctx, events); !ready || err != nil {
		return "", err
	}
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return "", err
	case unix.Errno(code) == unix.ETIMEDOUT:
		return "", nil
	case code != 0:
		return "", unix.Errno(code)
	case s.flow.Proto == "udp":
		return "reply", nil
	}
	return "connected", nil
}

// lateLooks is more than what waits in a socket's queue.
const lateLooks = 4096

// wait gives false when ctx ended first, and nothing is there: what came in time
// counts, however late this process gets to see it on a busy machine.
func (s *Sender) wait(ctx context.Context, events int16) (bool, error) {
	for {
		tick := 20 // milliseconds, for noticing that ctx ended
		ended := ctx.Err() != nil
		if ended {
			tick = 0
			s.late++
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, tick)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, err
		case n > 0 && s.late <= lateLooks: // others' packets may go on coming for ever
			return true, nil
		case ended && err == nil:
			return false, nil
		}
	}
}

const (
	icmpHeader  = 8
	defaultSize = 64
)

// echo is one request (RFC 792, RFC 4443 section 4.1).
func (s *Sender) echo(ctx context.Context) (string, error) {
	request, reply, header := byte(8), byte(0), 20
	if s.flow.Dst.Is6() {
		request, reply, header = 128, 129, 40
	}
	size := s.flow.Size
	if size == 0 {
		size = defaultSize
	}
	b := make([]byte, max(icmpHeader, size-header))
	b[0] = request
	binary.BigEndian.PutUint16(b[4:], s.id)
	b[7] = 1
	binary.BigEndian.PutUint16(b[2:], ping.Checksum(b)) // of ICMPv6 the kernel's own takes its place (RFC 3542)
	if err := unix.Sendto(s.fd, b, 0, sockaddr(s.flow.Dst, 0)); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	for {
		ready, err := s.wait(ctx, unix.POLLIN)
		if !ready || err != nil {
			return "", err
		}
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return "", err
		}
		if s.isReply(buf[:n], from, reply) {
			return "reply", nil
		}
	}
}

func (s *Sender) isReply(b []byte, from unix.Sockaddr, reply byte) bool {
	if a, ok := from.(*unix.SockaddrInet4); ok {
		if netip.AddrFrom4(a.Addr) != s.flow.Dst || len(b) < 20 {
			return false
		}
		b = b[min(len(b), int(b[0]&0xf)*4):] // a raw IPv4 socket gives the IP header too (raw(7))
	}
	return len(b) >= icmpHeader && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == s.id
}
