// Package bench measures a path to another host: round trips, the largest packet
// that passes, and how much goes through in a second.
//
// It owns the protocol between the side that sends and the side that throws away
// (Server). It refuses to choose addresses, to know peers, and to open a port
// that nobody asked for.
package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// RTT is what came of some round trips. Without an answer its times are 0.
type RTT struct {
	Sent, Lost       int
	Min, Median, Max time.Duration
}

// Pinger sends echo requests and hears the answers, as *ping.Pinger does.
type Pinger interface {
	Send(to netip.Addr, seq uint32, size int) error
	Listen(ctx context.Context, heard func(seq uint32, at time.Time)) error
}

// Prober measures by echo requests, one after the other. Not safe for concurrent
// use.
type Prober struct {
	Pinger Pinger
	Wait   time.Duration // for each answer
	Pause  time.Duration // between two round trips

	seq     uint32
	answers chan answer
}

type answer struct {
	seq uint32
	at  time.Time
}

// Listen hears answers until ctx ends, and has to run while something is
// measured. It returns as Pinger's does.
func (p *Prober) Listen(ctx context.Context) error {
	return p.Pinger.Listen(ctx, func(seq uint32, at time.Time) {
		select {
		case p.answers <- answer{seq, at}:
		case <-ctx.Done():
		}
	})
}

// NewProber gives one that waits a second for each answer.
func NewProber(p Pinger) *Prober {
	return &Prober{Pinger: p, Wait: time.Second, Pause: 20 * time.Millisecond, answers: make(chan answer, 16)}
}

// once makes one round trip with a packet of so many bytes, 0 for a small one. It
// is false without an answer.
func (p *Prober) once(ctx context.Context, to netip.Addr, size int) (time.Duration, bool, error) {
	p.seq++
	sent := time.Now()
	if err := p.Pinger.Send(to, p.seq, size); err != nil {
		return 0, false, err
	}
	timer := time.NewTimer(p.Wait)
	defer timer.Stop()
	for {
		select {
		case a := <-p.answers:
			if a.seq == p.seq { // not one that comes late
				return a.at.Sub(sent), true, nil
			}
		case <-timer.C:
			return 0, false, nil
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

// RTT makes so many round trips with small packets. An error is this host's: it
// has no way there.
func (p *Prober) RTT(ctx context.Context, to netip.Addr, count int) (out RTT, err error) {
	var times []time.Duration
	for range count {
		took, heard, err := p.once(ctx, to, 0)
		if err != nil {
			return out, err
		}
		out.Sent++
		if !heard {
			out.Lost++
			continue
		}
		times = append(times, took)
		select {
		case <-time.After(p.Pause):
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
	if len(times) > 0 {
		slices.Sort(times)
		out.Min, out.Median, out.Max = times[0], times[len(times)/2], times[len(times)-1]
	}
	return out, nil
}

// MTU finds the largest packet, in bytes with the IP header, that is answered; 0
// if none is.
func (p *Prober) MTU(ctx context.Context, to netip.Addr) (int, error) {
	low, high := 0, 65535
	for size := 1280; low < high; size = (low + high + 1) / 2 { // begins with what every host takes
		passes := false
		for range 2 { // one may be lost for another reason
			_, heard, err := p.once(ctx, to, size)
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			if passes = heard; heard || err != nil { // an error: too large for this host
				break
			}
		}
		switch {
		case passes:
			low = size
		case size == 1280:
			return 0, nil
		default:
			high = size - 1
		}
	}
	return low, nil
}

// ErrRefused is a peer that shuts the door: something else listens there, or it
// doesn't know us, or another one measures.
var ErrRefused = errors.New("the peer refuses")

// Throughput sends for so long as fast as it goes over one TCP connection, and
// gives bits per second as the peer has counted.
func Throughput(ctx context.Context, to netip.AddrPort, length time.Duration) (float64, error) {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	hello := make([]byte, len(greeting))
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != greeting {
		return 0, fmt.Errorf("%w at %s", ErrRefused, to)
	}
	if err := conn.SetDeadline(time.Now().Add(length + patience)); err != nil {
		return 0, err
	}
	buffer := make([]byte, piece)
	for end := time.Now().Add(length); time.Now().Before(end); {
		if _, err := conn.Write(buffer); err != nil {
			return 0, fmt.Errorf("send to %s: %w", to, err)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, fmt.Errorf("send to %s: %w", to, err)
	}
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil { // what is on its way has to arrive
		return 0, err
	}
	var counted [16]byte
	if _, err := io.ReadFull(conn, counted[:]); err != nil {
		return 0, fmt.Errorf("hear from %s what arrived: %w", to, err)
	}
	n, took := binary.BigEndian.Uint64(counted[:]), binary.BigEndian.Uint64(counted[8:])
	if took == 0 {
		return 0, fmt.Errorf("%s counted nothing", to)
	}
	return float64(n) * 8 / (float64(took) / float64(time.Second)), nil
}
