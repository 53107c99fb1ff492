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

// RawSYN is Send of a TCP flow whose checksum is finished before the packet
// leaves the program, so that no device computes it. The source must be given.
func RawSYN(ctx context.Context, f Flow) (Answer, error) {
	fd, err := rawTCP(f)
	if err != nil {
		return Answer{}, fmt.Errorf("open a raw TCP socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	s := Sender{flow: f, fd: fd, id: uint16(20000 + rand.IntN(10000))}
	start := time.Now()
	if err := unix.Sendto(fd, syn(f.Src, f.Dst, s.id, f.Port), 0, sockaddr(f.Dst, 0)); err != nil {
		if what := refusal(err); what != "" {
			return Answer{What: what}, nil
		}
		return Answer{}, fmt.Errorf("send a SYN to %s: %w", f.Dst, err)
	}
	buf := make([]byte, 1<<16)
	for {
		ready, err := s.wait(ctx, unix.POLLIN)
		if !ready || err != nil {
			return Answer{}, err
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return Answer{}, fmt.Errorf("read TCP packets: %w", err)
		}
		if s.isSegment(buf[:n], from) {
			return Answer{What: "reply", RTT: time.Since(start)}, nil
		}
	}
}

func rawTCP(f Flow) (fd int, err error) {
	err = linux.Within(f.Path, func() error {
		domain := unix.AF_INET
		if f.Dst.Is6() {
			domain = unix.AF_INET6
		}
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, sockaddr(f.Src, 0)); err != nil {
			_ = unix.Close(fd)
			return err
		}
		return nil
	})
	return fd, err
}

// syn is a TCP header alone (RFC 9293 section 3.1), with its checksum over the
// pseudo header (RFC 9293, RFC 8200 section 8.1).
func syn(src, dst netip.Addr, from, to uint16) []byte {
	const size, flagSYN = 20, 2
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], rand.Uint32())
	b[12], b[13] = size/4<<4, flagSYN
	binary.BigEndian.PutUint16(b[14:], 0xffff)
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, size)
	binary.BigEndian.PutUint16(b[16:], ping.Checksum(append(pseudo, b...)))
	return b
}

// isSegment tells our peer's answer from all other TCP packets.
func (s *Sender) isSegment(b []byte, from unix.Sockaddr) bool {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		if netip.AddrFrom4(a.Addr) != s.flow.Dst || len(b) < 20 {
			return false
		}
		b = b[min(len(b), int(b[0]&0xf)*4):]
	case *unix.SockaddrInet6:
		if netip.AddrFrom16(a.Addr) != s.flow.Dst {
			return false
		}
	}
	return len(b) >= 4 && binary.BigEndian.Uint16(b) == s.flow.Port && binary.BigEndian.Uint16(b[2:]) == s.id
}
