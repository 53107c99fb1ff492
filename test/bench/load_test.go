package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// load is one kind of traffic; run gives how much of it went through in a second.
type load struct {
	name, unit, network string
	serve               func(net.Conn)
	send                func(dial func() (net.Conn, error), end time.Time) (float64, error)
	service             bool // by the Service's address
}

func loads() []load {
	one := []byte{answer}
	exchange := func(dial func() (net.Conn, error), end time.Time) (float64, error) {
		c, err := dial()
		if err != nil {
			return 0, err
		}
		defer func() { _ = c.Close() }()
		return exchanges(c, one, end)
	}
	return []load{
		{"TCP stream", "MB/s", "tcp", drain, stream, false},
		{"TCP request/response", "1/s", "tcp", echo, exchange, false},
		{"TCP connect/request/response", "1/s", "tcp", echo, reconnect, false},
		{"UDP request/response", "1/s", "udp", nil, exchange, false},
		{"small UDP packets", "1/s", "udp", nil, flood, false},
		{"TCP request/response by a Service", "1/s", "tcp", echo, exchange, true},
	}
}

// answer is the first byte of a datagram that wants one.
const answer = 1

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func stream(dial func() (net.Conn, error), end time.Time) (sum float64, err error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	for b := make([]byte, 128<<10); err == nil && time.Now().Before(end); {
		var n int
		n, err = c.Write(b)
		sum += float64(n) / 1e6
	}
	return sum, err
}

func exchanges(c net.Conn, b []byte, end time.Time) (n float64, err error) {
	if err = c.SetDeadline(end.Add(time.Second)); err != nil {
		return 0, err
	}
	for time.Now().Before(end) {
		if _, err = c.Write(b); err != nil {
			return n, err
		}
		if _, err = io.ReadFull(c, b); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func reconnect(dial func() (net.Conn, error), end time.Time) (n float64, err error) {
	for b := make([]byte, 1); time.Now().Before(end); n++ {
		c, err := dial()
		if err != nil {
			return n, err
		}
		_, errWrite := c.Write(b)
		_, errRead := io.ReadFull(c, b)
		_ = c.(*net.TCPConn).SetLinger(0) // or ports run out
		if err := errors.Join(errWrite, errRead, c.Close()); err != nil {
			return n, err
		}
	}
	return n, nil
}

// flood sends datagrams in bursts that no queue is too short for, and waits until the last
// is answered, so that none is lost.
func flood(dial func() (net.Conn, error), end time.Time) (n float64, err error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	if err = c.SetDeadline(end.Add(time.Second)); err != nil {
		return 0, err
	}
	for b, last := make([]byte, 18), append([]byte{answer}, make([]byte, 17)...); time.Now().Before(end); n += burst {
		for range burst - 1 {
			if _, err = c.Write(b); err != nil {
				return n, err
			}
		}
		if _, err = c.Write(last); err != nil {
			return n, err
		}
		if _, err = c.Read(last); err != nil {
			return n, err
		}
	}
	return n, nil
}

const burst = 64

// run gives how much went through in a second of this process's time. Both ends and
// what the kernel does in between are in that: it happens where a packet is sent.
func (l load) run(b *testing.B, p pair, service netip.AddrPort) float64 {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	var at string
	must(b, p.to.Do(func() (err error) {
		at, err = l.listen(ctx, p.addr)
		return err
	}))
	if l.service {
		at = service.String()
	}
	var sum, seconds float64
	must(b, p.from.Do(func() (err error) {
		dial := func() (net.Conn, error) { return net.DialTimeout(l.network, at, 5*time.Second) }
		began := spent(b)
		sum, err = l.send(dial, time.Now().Add(pathTime))
		seconds = spent(b) - began
		return err
	}))
	return sum / seconds
}

// spent is the processor time so far, in seconds.
func spent(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// listen serves until ctx ends.
func (l load) listen(ctx context.Context, addr netip.Addr) (string, error) {
	at := netip.AddrPortFrom(addr, 0).String()
	if l.service {
		at = netip.AddrPortFrom(addr, servicePort).String()
	}
	if l.network == "udp" {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return "", err
		}
		context.AfterFunc(ctx, func() { _ = c.Close() })
		go func() {
			for b := make([]byte, 2048); ; {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				if n > 0 && b[0] == answer {
					_, _ = c.WriteTo(b[:n], from)
				}
			}
		}()
		return c.LocalAddr().String(), nil
	}
	s, err := net.Listen("tcp", at)
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() { l.serve(c); _ = c.Close() }()
		}
	}()
	return s.Addr().String(), nil
}
