package e2e

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

// transfer is one long TCP connection between two namespaces, whose two ends
// must agree on every byte.
type transfer struct {
	t        *testing.T
	end      chan struct{} // closed when nothing more shall be sent
	stop     func()        // closes it, once
	sent     chan digest
	received chan digest
}

// digest is what one end knows.
type digest struct {
	bytes int64
	sum   [sha256.Size]byte
	err   error
}

func startTransfer(t *testing.T, from, to *topology.Namespace, addr netip.Addr) *transfer {
	t.Helper()
	f := &transfer{t: t, end: make(chan struct{}), sent: make(chan digest, 1), received: make(chan digest, 1)}
	f.stop = sync.OnceFunc(func() { close(f.end) })
	listener, err := to.Listen(netip.AddrPortFrom(addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.stop()
		_ = listener.Close()
	})
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { f.sent <- f.send(conn) }()
	go func() { f.received <- receiveAll(listener) }()
	return f
}

// send writes a few megabytes a second: what leaves the processor to others.
func (f *transfer) send(conn net.Conn) (d digest) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	dice := rand.NewChaCha8([32]byte{}) //nolint:gosec // any bytes will do
	hash, chunk := sha256.New(), make([]byte, 16<<10)
	for {
		select {
		case <-f.end:
			hash.Sum(d.sum[:0])
			d.err = errors.Join(d.err, conn.Close())
			return d
		case <-tick.C:
		}
		_, _ = dice.Read(chunk) // never fails
		_, _ = hash.Write(chunk)
		n, err := conn.Write(chunk)
		d.bytes += int64(n)
		d.err = errors.Join(d.err, err)
	}
}

func receiveAll(l net.Listener) (d digest) {
	conn, err := l.Accept()
	if err != nil {
		d.err = err
		return d
	}
	hash := sha256.New()
	d.bytes, d.err = io.Copy(hash, conn)
	hash.Sum(d.sum[:0])
	d.err = errors.Join(d.err, conn.Close())
	return d
}

// intact ends the transfer and wants both ends to have the same.
func (f *transfer) intact() {
	f.t.Helper()
	f.stop()
	sent, received := <-f.sent, <-f.received
	f.t.Logf("a TCP connection carried %d bytes", sent.bytes)
	if err := errors.Join(sent.err, received.err); err != nil || sent.bytes != received.bytes || sent.sum != received.sum {
		f.t.Errorf("sent %d bytes, received %d, sums equal: %v (%v)",
			sent.bytes, received.bytes, sent.sum == received.sum, err)
	}
}
