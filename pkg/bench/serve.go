package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// greeting is what a client hears that is let in.
	greeting = "weft-bench 1\n"
	// patience is how long either side waits for the other.
	patience = 5 * time.Second
	// longest is how long one measurement may take.
	longest = time.Minute
	piece   = 256 << 10 // bytes that are written or read at once
)

// Server takes in what clients send, throws it away, and tells how much it was.
// It takes one client at a time, and only those that Known lets in.
type Server struct {
	Known func(context.Context, netip.Addr) bool // tells a peer by the source of its connection
	Tell  func(string)                           // hears of each client; must be safe for concurrent use
	busy  atomic.Bool
}

// Serve listens at each address until ctx ends; it returns nil then, or why it
// can't listen or go on. It closes the listeners.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		g.Go(func() error {
			for {
				conn, err := l.Accept()
				if err != nil && ctx.Err() == nil {
					return fmt.Errorf("serve at %s: %w", l.Addr(), err)
				}
				if err != nil {
					return nil //nolint:nilerr // its time is over
				}
				g.Go(func() error { s.client(ctx, conn); return nil })
			}
		})
	}
	return g.Wait()
}

// client serves one, or shuts the door.
func (s *Server) client(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	from := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().Unmap() // of TCP always one
	// Asked first, so that many strangers cost no more than one.
	if !s.busy.CompareAndSwap(false, true) {
		s.Tell(fmt.Sprintf("%s is refused: another one measures", from))
		return
	}
	defer s.busy.Store(false)
	if !s.Known(ctx, from) {
		s.Tell(fmt.Sprintf("%s is refused: no peer has this address", from))
		return
	}
	n, took, err := drain(conn)
	if err != nil {
		s.Tell(fmt.Sprintf("%s broke off: %v", from, err))
		return
	}
	s.Tell(fmt.Sprintf("%s sent %d bytes in %s", from, n, took.Round(time.Millisecond)))
}

// drain reads to the end, and answers how many bytes came and in how many
// nanoseconds since the first.
func drain(conn net.Conn) (n int64, took time.Duration, err error) {
	end := time.Now().Add(longest)
	if _, err := io.WriteString(conn, greeting); err != nil {
		return 0, 0, err
	}
	buffer := make([]byte, piece)
	var first time.Time
	for {
		if err := conn.SetReadDeadline(earlier(end, time.Now().Add(patience))); err != nil {
			return n, took, err
		}
		read, err := conn.Read(buffer)
		if first.IsZero() {
			first = time.Now()
		}
		n += int64(read)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, took, err
		}
	}
	took = time.Since(first)
	var answer [16]byte
	binary.BigEndian.PutUint64(answer[:], uint64(n))     //nolint:gosec // not negative
	binary.BigEndian.PutUint64(answer[8:], uint64(took)) //nolint:gosec // the same
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return n, took, err
	}
	_, err = conn.Write(answer[:])
	return n, took, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
