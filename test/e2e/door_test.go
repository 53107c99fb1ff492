package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowDoor stands before a port outside, the store's: what goes through it may
// take its time, and connections may be cut.
type slowDoor struct {
	c        *cluster
	at, to   netip.AddrPort
	listener net.Listener // of an open door
	delay    atomic.Int64
	frozen   sync.RWMutex // who writes holds it to read
	done     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newSlowDoor(t *testing.T, c *cluster, at, to uint16) *slowDoor {
	t.Helper()
	outside := c.Outside.Addrs[0]
	d := &slowDoor{
		c: c, at: netip.AddrPortFrom(outside, at), to: netip.AddrPortFrom(outside, to), conns: map[net.Conn]bool{},
	}
	d.open()
	t.Cleanup(func() {
		d.shut()
		d.done.Wait()
	})
	return d
}

func (d *slowDoor) url() string { return "http://" + d.at.String() }

// open lets connections in.
func (d *slowDoor) open() {
	var err error
	if d.listener, err = d.c.Outside.Listen(d.at); err != nil {
		d.c.t.Fatal(err)
	}
	d.done.Go(func() { d.serve(d.listener) })
}

// shut ends all connections, and new ones are refused.
func (d *slowDoor) shut() {
	_ = d.listener.Close()
	d.cut()
}

// freeze keeps what comes until thaw.
func (d *slowDoor) freeze() { d.frozen.Lock() }

func (d *slowDoor) thaw() { d.frozen.Unlock() }

// slow makes each answer, and each question, take so long from now on.
func (d *slowDoor) slow(by time.Duration) { d.delay.Store(int64(by)) }

// cut ends all connections; new ones are let through.
func (d *slowDoor) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.conns {
		_ = conn.Close()
	}
}

func (d *slowDoor) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		d.done.Go(func() { d.join(client) })
	}
}

// join carries what both say until one of them ends.
func (d *slowDoor) join(client net.Conn) {
	var server net.Conn
	err := d.c.Outside.Do(func() (err error) {
		server, err = new(net.Dialer).DialContext(context.Background(), "tcp", d.to.String())
		return err
	})
	if err != nil {
		_ = client.Close()
		return
	}
	d.mu.Lock()
	d.conns[client], d.conns[server] = true, true
	d.mu.Unlock()
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		_ = d.carry(to, from)
		_ = errors.Join(to.Close(), from.Close())
	}
	both.Go(func() { carry(server, client) })
	both.Go(func() { carry(client, server) })
	both.Wait()
	d.mu.Lock()
	delete(d.conns, client)
	delete(d.conns, server)
	d.mu.Unlock()
}

func (d *slowDoor) carry(to io.Writer, from io.Reader) error {
	for buf := make([]byte, 64<<10); ; {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		if delay := time.Duration(d.delay.Load()); delay > 0 {
			<-time.After(delay)
		}
		d.frozen.RLock()
		d.frozen.RUnlock() //nolint:staticcheck // to wait for a thaw is all
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
	}
}
