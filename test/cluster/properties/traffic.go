package properties

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

const (
	rate     = 200             // packets a second in each flow
	onTheWay = 3 * time.Second // the longest that one may be
)

// flow is a steady flow of numbered datagrams from one pod to another.
type flow struct {
	name     string
	from, to net.PacketConn

	mu      sync.Mutex
	sent    int
	refused int // by the sender's own kernel
	arrived map[uint64]struct{}
	last    time.Time // of an arrival
	gap     time.Duration
}

// traffic is several flows at once, for as long as something is done to the
// network.
type traffic struct {
	flows  []*flow
	start  time.Time
	stop   context.CancelFunc
	ended  sync.WaitGroup
	closed sync.WaitGroup
}

// end is a place where a flow begins or ends.
type end struct {
	ns   *topology.Namespace
	name string
	addr netip.Addr
}

// startTraffic sends both ways between each pair, and returns when every flow
// has arrived.
func startTraffic(ctx context.Context, pairs ...[2]end) (*traffic, error) {
	within, stop := context.WithCancel(ctx)
	t := &traffic{stop: stop, start: time.Now()}
	for _, p := range pairs {
		for _, way := range [][2]end{{p[0], p[1]}, {p[1], p[0]}} {
			f, err := newFlow(ctx, way[0], way[1])
			if err != nil {
				return nil, errors.Join(err, t.close())
			}
			t.flows = append(t.flows, f)
		}
	}
	for _, f := range t.flows {
		t.closed.Go(f.receive)
		t.ended.Go(func() { f.send(within) })
	}
	arrives := t.all(func(f *flow) bool { return len(f.arrived) > 0 })
	if err := eventually(ctx, 20*time.Second, "every flow arrives", arrives); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// all gives an error that names the flows for which ok isn't true.
func (t *traffic) all(ok func(*flow) bool) func() error {
	return func() error {
		var bad []string
		for _, f := range t.flows {
			f.mu.Lock()
			if !ok(f) {
				bad = append(bad, fmt.Sprintf("%s: %d sent, %d refused, %d arrived, longest gap %s",
					f.name, f.sent, f.refused, len(f.arrived), f.gap.Round(time.Millisecond)))
			}
			f.mu.Unlock()
		}
		if len(bad) == 0 {
			return nil
		}
		return errors.New(strings.Join(bad, "; "))
	}
}

func (t *traffic) close() error {
	t.stop()
	t.ended.Wait()
	var errs []error
	for _, f := range t.flows {
		errs = append(errs, f.from.Close(), f.to.Close())
	}
	t.closed.Wait()
	return errors.Join(errs...)
}

// finish ends the flows, waits for what is on its way, and tells what is lost.
func (t *traffic) finish(ctx context.Context) (evidence string, err error) {
	lasted := time.Since(t.start)
	t.stop()
	t.ended.Wait()
	err = eventually(ctx, onTheWay, "packets lost", t.all(func(f *flow) bool { return len(f.arrived) == f.sent }))
	sent, gap := 0, time.Duration(0)
	for _, f := range t.flows {
		f.mu.Lock()
		sent, gap = sent+f.sent, max(gap, f.gap)
		f.mu.Unlock()
	}
	return fmt.Sprintf("%d packets in %d flows over %s, 0 lost, longest gap %s", sent, len(t.flows),
		lasted.Round(time.Second), gap.Round(time.Millisecond)), errors.Join(err, t.close())
}

func newFlow(ctx context.Context, from, to end) (*flow, error) {
	f := &flow{name: fmt.Sprintf("%s to %s at %s", from.name, to.name, to.addr), arrived: map[uint64]struct{}{}}
	var err error
	if f.to, err = listenUDP(ctx, to.ns, netip.AddrPortFrom(to.addr, 0)); err != nil {
		return nil, err
	}
	if f.from, err = listenUDP(ctx, from.ns, netip.AddrPortFrom(from.addr, 0)); err != nil {
		return nil, errors.Join(err, f.to.Close())
	}
	return f, nil
}

// listenUDP opens a socket with room for seconds of a flow: we may have to wait
// for a processor.
func listenUDP(ctx context.Context, ns *topology.Namespace, at netip.AddrPort) (conn net.PacketConn, err error) {
	const room = 8 << 20
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)
		}), err)
	}}
	err = ns.Do(func() (err error) {
		conn, err = config.ListenPacket(ctx, "udp", at.String())
		return err
	})
	return conn, err
}

// send keeps to the clock: what is late for lack of a processor is sent after.
func (f *flow) send(ctx context.Context) {
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	for start := time.Now(); ; {
		for due := int(time.Since(start)*rate/time.Second) + 1; ; {
			f.mu.Lock()
			n := f.sent
			if n < due {
				f.sent++
			}
			f.mu.Unlock()
			if n >= due {
				break
			}
			if _, err := f.from.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(n)), f.to.LocalAddr()); err != nil {
				f.mu.Lock()
				f.refused++
				f.mu.Unlock()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *flow) receive() {
	for buf := make([]byte, 64); ; {
		n, _, err := f.to.ReadFrom(buf)
		if err != nil {
			return // close closed the socket
		}
		if n != 8 {
			continue
		}
		f.mu.Lock()
		if now := time.Now(); !f.last.IsZero() {
			f.gap, f.last = max(f.gap, now.Sub(f.last)), now
		} else {
			f.last = now
		}
		f.arrived[binary.BigEndian.Uint64(buf)] = struct{}{}
		f.mu.Unlock()
	}
}
