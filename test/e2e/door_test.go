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

// slowDoor stands before the store: what goes through it may take its time, and
// connections may be cut.
type slowDoor struct {
	c        *cluster
	listener net.Listener
	delay    atomic.Int64
	done     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

const doorPort = 2378

func newSlowDoor(t *testing.T, c *cluster) *slowDoor {
	t.Helper()
	d := &slowDoor{c: c, conns: map[net.Conn]bool{}}
	var err error
	if d.listener, err = c.Outside.Listen(netip.AddrPortFrom(c.Outside.Addrs[0], doorPort)); err != nil {
		t.Fatal(err)
	}
	d.done.Go(d.serve)
	t.Cleanup(func() {
		_ = d.listener.Close()
		d.cut()
		d.done.Wait()
	})
	return d
}

func (d *slowDoor) url() string { return "http://" + d.listener.Addr().String() }

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

func (d *slowDoor) serve() {
	for {
		client, err := d.listener.Accept()
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
		to := netip.AddrPortFrom(d.c.Outside.Addrs[0], 2379).String()
		server, err = new(net.Dialer).DialContext(context.Background(), "tcp", to)
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
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
	}
}
