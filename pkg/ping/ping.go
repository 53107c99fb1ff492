// Package ping sends ICMP echo requests and hears the answers.
//
// It owns the sockets, of which it takes what it gets: an unprivileged ping
// socket (icmp(7)), which net.ipv4.ping_group_range must allow, or a raw one,
// which needs CAP_NET_RAW. Where the range is still the kernel's default, which
// allows nobody, and CAP_NET_ADMIN lets us, it allows group 0 first. It refuses
// to decide who is pinged when, and what silence means.
package ping

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Pinger has a socket for each address family that the host has.
type Pinger struct {
	cookie  [8]byte // tells our answers from others'
	sockets [2]*socket
}

type socket struct {
	conn net.PacketConn
	raw  bool
	ipv6 bool
}

// errNoSocket is where neither kind of socket can be had.
var errNoSocket = errors.New("it takes CAP_NET_RAW, or our group in net.ipv4.ping_group_range")

// Open opens the sockets. sysctls is the directory of the sysctls, "/proc/sys".
// Cookie is random. It is an error if there is no socket for IPv4.
func Open(sysctls string, cookie [8]byte) (*Pinger, error) {
	p := &Pinger{cookie: cookie}
	for i := range p.sockets {
		s, err := open(i == 1)
		if errors.Is(err, syscall.EACCES) && allow(sysctls) {
			s, err = open(i == 1)
		}
		if err != nil && i == 0 {
			return nil, fmt.Errorf("open a socket for pings: %w; %w", err, errNoSocket)
		}
		if err == nil {
			p.sockets[i] = s
		}
	}
	return p, nil
}

// allow lets group 0 open ping sockets if nobody may by the kernel's default. A
// range that somebody chose stays.
func allow(sysctls string) bool {
	path := filepath.Join(sysctls, "net/ipv4/ping_group_range")
	text, err := os.ReadFile(path)
	if err != nil || strings.Join(strings.Fields(string(text)), " ") != "1 0" || os.Getegid() != 0 {
		return false
	}
	return os.WriteFile(path, []byte("0 0"), 0o644) == nil //nolint:gosec // a sysctl has its mode already
}

// open tries the unprivileged kind first.
func open(ipv6 bool) (*socket, error) {
	family, protocol := syscall.AF_INET, syscall.IPPROTO_ICMP
	if ipv6 {
		family, protocol = syscall.AF_INET6, syscall.IPPROTO_ICMPV6
	}
	for _, kind := range []int{syscall.SOCK_DGRAM, syscall.SOCK_RAW} {
		fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, protocol)
		if err != nil {
			if kind == syscall.SOCK_RAW {
				return nil, syscall.EACCES
			}
			continue
		}
		return adopt(fd, ipv6, kind == syscall.SOCK_RAW)
	}
	return nil, syscall.EACCES
}

// adopt hands a socket over to Go. Packets are never cut up on this host, and the
// kernel's memory of smaller MTUs on the way doesn't count: a probe of the
// largest packet shall be one.
func adopt(fd int, ipv6, raw bool) (*socket, error) {
	const probe = 3 // IP_PMTUDISC_PROBE, ip(7)
	level, option := syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER
	if ipv6 {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer func() { _ = file.Close() }() // conn has a copy
	if err := syscall.SetsockoptInt(fd, level, option, probe); err != nil {
		return nil, fmt.Errorf("set up a socket for pings: %w", err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("set up a socket for pings: %w", err)
	}
	return &socket{conn: conn, raw: raw, ipv6: ipv6}, nil
}

// Close ends Listen, too.
func (p *Pinger) Close() {
	for _, s := range p.sockets {
		if s != nil {
			_ = s.conn.Close()
		}
	}
}

// Kind is "ping" or "raw", the kind of sockets.
func (p *Pinger) Kind() string {
	if p.sockets[0].raw {
		return "raw"
	}
	return "ping"
}

const (
	headerIPv4 = 20 // bytes, without options
	headerIPv6 = 40
	headerICMP = 8
	smallest   = headerICMP + 8 + 4 // our cookie and number
)

// Send sends an echo request to an address, in an IP packet of so many bytes, or
// a small one. An error is the host's: there is no way there, or the packet is
// too large for it.
func (p *Pinger) Send(to netip.Addr, seq uint32, size int) error {
	s, header := p.sockets[0], headerIPv4
	if to.Is6() {
		s, header = p.sockets[1], headerIPv6
	}
	if s == nil {
		return fmt.Errorf("ping %s: %w", to, syscall.EAFNOSUPPORT)
	}
	packet := make([]byte, max(smallest, size-header))
	packet[0] = 8 // echo request
	if s.ipv6 {
		packet[0] = 128
	}
	copy(packet[4:], p.cookie[:2])                      // the identifier; a ping socket has one of its own
	binary.BigEndian.PutUint16(packet[6:], uint16(seq)) //nolint:gosec // its lower half
	copy(packet[headerICMP:], p.cookie[:])
	binary.BigEndian.PutUint32(packet[headerICMP+8:], seq)
	if !s.ipv6 { // of ICMPv6 the kernel makes it
		binary.BigEndian.PutUint16(packet[2:], Checksum(packet))
	}
	err := s.write(packet, to)
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	return nil
}

func (s *socket) write(packet []byte, to netip.Addr) error {
	if !s.raw {
		_, err := s.conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
		return err
	}
	addr, err := net.ResolveIPAddr("ip", to.String())
	if err == nil {
		_, err = s.conn.WriteTo(packet, addr)
	}
	return err
}

// Checksum is that of the internet (RFC 1071).
func Checksum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum) //nolint:gosec // folded
}

// Listen tells of each answer with its number and when it came, until ctx ends;
// it returns ctx.Err(), or why it can't go on. It closes the sockets. heard must
// be safe for concurrent use.
func (p *Pinger) Listen(ctx context.Context, heard func(seq uint32, at time.Time)) error {
	stop := context.AfterFunc(ctx, p.Close)
	defer stop()
	var g errgroup.Group // none that cancels: it would hear of the end of ctx after the sockets
	var failed atomic.Bool
	for _, s := range p.sockets {
		if s == nil {
			continue
		}
		g.Go(func() error {
			err := p.listen(ctx, s, heard)
			if !failed.Swap(true) {
				p.Close() // so that the other one ends
			}
			return err
		})
	}
	return g.Wait()
}

func (p *Pinger) listen(ctx context.Context, s *socket, heard func(seq uint32, at time.Time)) error {
	buffer := make([]byte, 256) // the rest of a large one is ours, too
	for {
		n, _, err := s.conn.ReadFrom(buffer)
		at := time.Now()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // an ICMP error about one of our packets
		}
		if seq, ok := p.parse(buffer[:n], s); ok {
			heard(seq, at)
		}
	}
}

// parse gives the number of an answer to one of our requests. Go cuts the IP
// header off what a raw socket gets.
func (p *Pinger) parse(b []byte, s *socket) (seq uint32, ok bool) {
	reply := byte(0)
	if s.ipv6 {
		reply = 129
	}
	if len(b) < smallest || b[0] != reply || !bytes.Equal(b[headerICMP:headerICMP+8], p.cookie[:]) {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[headerICMP+8:]), true
}
