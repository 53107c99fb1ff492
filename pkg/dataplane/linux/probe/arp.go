package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/mac"
)

// Claimed asks by ARP whether somebody else has an IPv4 address of ours, as a
// host does before it takes one (RFC 5227 section 2.1.1). The zero MAC is nobody.
func Claimed(ctx context.Context, link string, ip netip.Addr) (mac.Addr, error) {
	iface, err := net.InterfaceByName(link)
	if err != nil || len(iface.HardwareAddr) != 6 {
		return mac.Addr{}, err // no Ethernet: nobody to ask
	}
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
	if err != nil {
		return mac.Addr{}, fmt.Errorf("open a packet socket: %w", err)
	}
	s := Sender{fd: fd}
	defer s.Close()
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: iface.Index}); err != nil {
		return mac.Addr{}, fmt.Errorf("bind to %s: %w", link, err)
	}
	to := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: iface.Index, Halen: 6}
	copy(to.Addr[:], bytes.Repeat([]byte{0xff}, 6))
	if err := unix.Sendto(fd, request(mac.FromBytes(iface.HardwareAddr), ip), 0, to); err != nil {
		return mac.Addr{}, fmt.Errorf("ask for %s on %s: %w", ip, link, err)
	}
	buf := make([]byte, 1500)
	for {
		ready, err := s.wait(ctx, unix.POLLIN)
		if !ready || err != nil {
			return mac.Addr{}, err
		}
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return mac.Addr{}, fmt.Errorf("read ARP on %s: %w", link, err)
		}
		if who, has := sender(buf[:max(n, 0)]); has == ip && who != mac.FromBytes(iface.HardwareAddr) {
			return who, nil
		}
	}
}

// request is an ARP probe (RFC 826): its sender has no address yet.
func request(self mac.Addr, ip netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(b, self[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(b, ip.AsSlice()...)
}

func sender(b []byte) (mac.Addr, netip.Addr) {
	const size, reply = 28, 2
	if len(b) < size || b[7] != reply {
		return mac.Addr{}, netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(b[14:18])
	return mac.FromBytes(b[8:14]), ip
}
