package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// stream is a steady flow of numbered datagrams between two namespaces, which
// tells what got lost while something was done to the network. A packet that is
// late for lack of processor time is sent after the others, not left out.
type stream struct {
	t       *testing.T
	name    string
	every   time.Duration
	from    net.PacketConn
	to      net.PacketConn
	end     chan struct{}   // closed when nothing more shall be sent
	stop    func()          // closes it, once
	sent    chan tallySheet // once, by the sender
	arrived chan []uint64   // once, by the receiver, in the order of arrival
	count   atomic.Int64    // of arrivals
	handed  atomic.Int64    // to our own kernel, which may have refused some
}

// tallySheet is what the sender knows.
type tallySheet struct {
	sent    int
	refused []error     // by our own kernel
	at      []time.Time // when each was sent
}

// tally is how a stream went. The zero value but for Sent is a good one.
type tally struct {
	Sent    int
	Lost    []string // runs of packets, "12-20 (1.2s)", the time counted from the first
	Twice   int
	Refused []string
}

const streamRate = 1000 // packets a second

// startStream begins to send, and returns when the first packet has arrived.
func startStream(t *testing.T, from, to *topology.Namespace, addr netip.Addr) *stream {
	t.Helper()
	return startStreamOf(t, streamRate, from, to, addr)
}

// startStreamOf is startStream with so many packets a second.
func startStreamOf(t *testing.T, rate int, from, to *topology.Namespace, addr netip.Addr) *stream {
	t.Helper()
	s := &stream{
		t: t, name: fmt.Sprintf("%s to %s", from.Name, addr), every: time.Second / time.Duration(rate),
		end: make(chan struct{}), sent: make(chan tallySheet, 1), arrived: make(chan []uint64, 1),
	}
	s.stop = sync.OnceFunc(func() { close(s.end) })
	s.to = listenUDP(t, to, netip.AddrPortFrom(addr, 0))
	s.from = listenUDP(t, from, netip.AddrPort{})
	t.Cleanup(func() {
		s.stop()
		_ = errors.Join(s.from.Close(), s.to.Close())
	})
	go s.receive()
	go s.send(s.to.LocalAddr())
	eventually(t, 10*time.Second, func() error {
		if s.count.Load() == 0 {
			return fmt.Errorf("stream from %s: nothing arrives", s.name)
		}
		return nil
	})
	return s
}

// listenUDP opens a socket with room for seconds of the stream: the test itself
// may have to wait for a processor.
func listenUDP(t *testing.T, ns *topology.Namespace, at netip.AddrPort) net.PacketConn {
	t.Helper()
	const room = 8 << 20
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)
		}), err)
	}}
	address := ":0"
	if at.IsValid() {
		address = at.String()
	}
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = config.ListenPacket(t.Context(), "udp", address)
		return err
	})
	if err != nil {
		t.Fatalf("open a socket in %s: %v", ns.Name, err)
	}
	return conn
}

func (s *stream) send(to net.Addr) {
	var sheet tallySheet
	defer func() { s.sent <- sheet }()
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for start := time.Now(); ; {
		for due := int(time.Since(start)/s.every) + 1; sheet.sent < due; sheet.sent++ {
			if _, err := s.from.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(sheet.sent)), to); err != nil {
				sheet.refused = append(sheet.refused, err)
			}
			sheet.at = append(sheet.at, time.Now())
			s.handed.Add(1)
		}
		select {
		case <-tick.C:
		case <-s.end:
			return
		}
	}
}

func (s *stream) receive() {
	var arrived []uint64
	defer func() { s.arrived <- arrived }()
	for buf := make([]byte, 64); ; {
		n, _, err := s.to.ReadFrom(buf)
		if err != nil {
			return // finish closed the socket
		}
		if n == 8 {
			arrived = append(arrived, binary.BigEndian.Uint64(buf))
			s.count.Add(1)
		}
	}
}

// finish ends the stream, waits for what is on its way, and counts.
func (s *stream) finish() tally {
	s.t.Helper()
	sheet, arrived := s.ended()
	return count(sheet, arrived, s.every)
}

// lost ends the stream and tells when those packets were sent that got lost.
func (s *stream) lost() []time.Time {
	s.t.Helper()
	sheet, arrived := s.ended()
	missed := map[int]bool{}
	for i := range sheet.sent {
		missed[i] = true
	}
	for _, n := range arrived {
		delete(missed, int(n))
	}
	var out []time.Time
	for _, i := range slices.Sorted(maps.Keys(missed)) {
		out = append(out, sheet.at[i])
	}
	return out
}

// ended stops the stream and waits for what is on its way.
func (s *stream) ended() (tallySheet, []uint64) {
	s.t.Helper()
	s.stop()
	sheet := <-s.sent
	const onTheWay = 2 * time.Second
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(onTheWay); int(s.count.Load()) < sheet.sent && time.Now().Before(end); {
		<-tick.C
	}
	_ = s.to.Close()
	return sheet, <-s.arrived
}

// watch waits until so many more packets have arrived on each stream.
func watch(t *testing.T, packets int64, streams ...*stream) {
	t.Helper()
	var until []int64
	for _, s := range streams {
		until = append(until, s.count.Load()+packets)
	}
	for i, s := range streams {
		eventually(t, 30*time.Second, func() error {
			if have := s.count.Load(); have < until[i] {
				return fmt.Errorf("stream from %s: %d packets arrived, want %d", s.name, have, until[i])
			}
			return nil
		})
	}
}

// flawless ends the stream and wants every packet once.
func (s *stream) flawless() {
	s.t.Helper()
	have := s.finish()
	s.t.Logf("stream from %s: %d sent, %d runs lost, %d twice", s.name, have.Sent, len(have.Lost), have.Twice)
	if d := cmp.Diff(tally{Sent: have.Sent}, have); d != "" {
		s.t.Errorf("stream from %s: %s", s.name, d)
	}
}

// count compares what was sent with what arrived. Pure.
func count(sheet tallySheet, arrived []uint64, every time.Duration) tally {
	t := tally{Sent: sheet.sent}
	seen := make([]bool, sheet.sent)
	for _, n := range arrived {
		switch {
		case n >= uint64(len(seen)): // not ours
		case seen[n]:
			t.Twice++
		default:
			seen[n] = true
		}
	}
	for i := 0; i < len(seen); i++ {
		if seen[i] {
			continue
		}
		run := i
		for i+1 < len(seen) && !seen[i+1] {
			i++
		}
		t.Lost = append(t.Lost, fmt.Sprintf("%d-%d (%s)", run, i, time.Duration(run)*every))
	}
	for _, err := range sheet.refused {
		if !slices.Contains(t.Refused, err.Error()) {
			t.Refused = append(t.Refused, err.Error())
		}
	}
	return t
}

func TestCountOfAStream(t *testing.T) {
	for name, c := range map[string]struct {
		sheet   tallySheet
		arrived []uint64
		want    tally
	}{
		"all, out of order": {tallySheet{sent: 3}, []uint64{2, 0, 1}, tally{Sent: 3}},
		"none":              {tallySheet{sent: 3}, nil, tally{Sent: 3, Lost: []string{"0-2 (0s)"}}},
		"runs": {
			tallySheet{sent: 8}, []uint64{0, 3, 4, 6, 6, 99},
			tally{Sent: 8, Lost: []string{"1-2 (1ms)", "5-5 (5ms)", "7-7 (7ms)"}, Twice: 1},
		},
		"refused": {
			tallySheet{sent: 2, refused: []error{net.ErrClosed, net.ErrClosed}}, []uint64{0, 1},
			tally{Sent: 2, Refused: []string{net.ErrClosed.Error()}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, count(c.sheet, c.arrived, time.Millisecond)); d != "" {
				t.Error(d)
			}
		})
	}
}

// flows opens a new flow every few milliseconds and notes which address the
// other side sees: a gap in the rules for masquerading shows at once, as they
// are asked for the first packet of a flow only.
type flows struct {
	t    *testing.T
	to   net.PacketConn
	end  chan struct{}
	stop func() // closes it, once
	sent chan sentFlows
	seen chan map[netip.Addr]int
}

type sentFlows struct {
	count int
	err   error // that ended it
}

func startFlows(t *testing.T, from, to *topology.Namespace, addr netip.Addr) *flows {
	t.Helper()
	f := &flows{
		t: t, to: listenUDP(t, to, netip.AddrPortFrom(addr, 0)),
		end: make(chan struct{}), sent: make(chan sentFlows, 1), seen: make(chan map[netip.Addr]int, 1),
	}
	f.stop = sync.OnceFunc(func() { close(f.end) })
	t.Cleanup(func() {
		f.stop()
		_ = f.to.Close()
	})
	go f.receive()
	go func() {
		var sent sentFlows
		sent.err = from.Do(func() error { return f.open(&sent.count) })
		f.sent <- sent
	}()
	return f
}

func (f *flows) open(sent *int) error {
	const every = 5 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		conn, err := net.ListenUDP("udp", nil)
		if err != nil {
			return err
		}
		_, err = conn.WriteTo([]byte("weft"), f.to.LocalAddr())
		if err = errors.Join(err, conn.Close()); err != nil {
			return err
		}
		*sent++
		select {
		case <-tick.C:
		case <-f.end:
			return nil
		}
	}
}

func (f *flows) receive() {
	seen := map[netip.Addr]int{}
	defer func() { f.seen <- seen }()
	for buf := make([]byte, 64); ; {
		n, from, err := f.to.ReadFrom(buf)
		if err != nil {
			return
		}
		if strings.HasPrefix(string(buf[:n]), "weft") {
			seen[from.(*net.UDPAddr).AddrPort().Addr().Unmap()]++
		}
	}
}

// all wants every flow to have come from one address.
func (f *flows) all(want netip.Addr) {
	f.t.Helper()
	f.stop()
	sent := <-f.sent
	_ = f.to.SetReadDeadline(time.Now().Add(time.Second))
	seen := <-f.seen
	f.t.Logf("%d new flows, seen as %v", sent.count, seen)
	if d := cmp.Diff(map[string]int{want.String(): sent.count}, texts(seen)); sent.err != nil || d != "" {
		f.t.Errorf("new flows: %v, addresses: %s", sent.err, d)
	}
}

func texts(of map[netip.Addr]int) map[string]int {
	out := map[string]int{}
	for a, n := range of {
		out[a.String()] = n
	}
	return out
}
