package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// closedPort is where nobody listens (tcpmux, RFC 1078, was never in use over
// UDP): a refusal is an answer.
const closedPort = 1

// Knock sends one UDP datagram to a closed port and tells whether an answer
// came before ctx ends: the peer's ICMP port unreachable (RFC 792, RFC 4443
// section 3.1), which comes as ECONNREFUSED. A peer answers a few of them at
// once, and then one a second (icmp_ratelimit).
//
// Its checksum is left to the device that it leaves by, where that offers to
// compute it; with finished, the kernel has computed it before any device sees
// the packet. (Kernel fact: ip_append_data makes it CHECKSUM_PARTIAL unless more
// is to come, MSG_MORE.) An error is the host's: nothing was sent.
func Knock(ctx context.Context, to netip.Addr, finished bool) (answered bool, err error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(to, closedPort).String())
	if err != nil {
		return false, fmt.Errorf("knock at %s: %w", to, err)
	}
	defer func() { _ = c.Close() }()
	if err := sendDatagram(c.(*net.UDPConn), finished); err != nil { //nolint:forcetypeassert // "udp" is one
		return false, fmt.Errorf("knock at %s: %w", to, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = c.Read(make([]byte, 1))
	return err == nil || errors.Is(err, syscall.ECONNREFUSED), nil
}

func sendDatagram(conn *net.UDPConn, finished bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	body, flags := []byte("weft"), 0
	if finished {
		flags = syscall.MSG_MORE
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		_, failed = syscall.SendmsgN(int(fd), body, nil, nil, flags)
		if failed == nil && finished { // that was all of it
			_, failed = syscall.SendmsgN(int(fd), nil, nil, nil, 0)
		}
	})
	return errors.Join(err, failed)
}
