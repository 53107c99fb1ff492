package linux

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/attachment/mend"
)

// guards writes guards of pods with one socket, opened for the first.
type guards struct {
	p    *Pods
	conn *guard.Guard
}

func (g *guards) close() {
	if g.conn != nil {
		g.conn.Close()
		g.conn = nil
	}
}

func (g *guards) apply(s mend.Step) (err error) {
	defer g.p.tables.forget()
	if g.conn == nil {
		if err = g.p.k.ns.do(func() (err error) {
			g.conn, err = guard.Open()
			return err
		}); err != nil {
			g.conn = nil
		}
	}
	if err == nil {
		err = g.conn.Renew(s.Sources)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		err = nil // the pod went meanwhile, and its link with it
	case errors.Is(err, guard.ErrUnsupported):
		if g.p.noGuard {
			err = nil // told already
		}
		g.p.noGuard = true
	}
	g.close() // answers may still be under way
	return err
}

// podTables are the tables of guards and of host ports as they were read last: while
// nothing tells of a change they need not be read again, which takes some ms.
type podTables struct {
	mu    sync.Mutex
	heard bool      // somebody listens
	read  time.Time // zero: they are not known
	guard guard.State
	ports hostports.State
}

// tablesKept is less than the pause between two audits, which look at all.
const tablesKept = 50 * time.Second

func (t *podTables) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = time.Time{}
}

// hear begins and ends that changes are told.
func (t *podTables) hear(now bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard, t.read = now, time.Time{}
}

// look gives what the tables hold. A change that is told while they are read makes
// them be read again the next time.
func (t *podTables) look(read func() (guard.State, hostports.State, error)) (guard.State, hostports.State, error) {
	t.mu.Lock()
	now := time.Now()
	if t.heard && now.Sub(t.read) < tablesKept {
		defer t.mu.Unlock()
		return t.guard, t.ports, nil
	}
	t.read = now
	t.mu.Unlock()
	g, p, err := read()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.read = time.Time{}
	}
	t.guard, t.ports = g, p
	return g, p, err
}

// held tells which links are held to what they shall be, and which pods have the
// host's ports that they shall have.
func (p *Pods) held(want mend.Names, host *mend.Host) error {
	host.NoGuard = p.noGuard
	if len(want.Guards) == 0 && len(want.Led) == 0 {
		return nil
	}
	guards, ports, err := p.tables.look(func() (g guard.State, l hostports.State, err error) {
		err = p.k.ns.do(func() (err error) {
			if g, err = guard.Read(); err == nil {
				l, err = hostports.Read()
			}
			return err
		})
		return g, l, err
	})
	if err != nil {
		return err
	}
	host.Guarded = map[string]bool{}
	for _, s := range want.Guards {
		host.Guarded[s.Link] = guards.Holds(s)
	}
	host.PortRules, host.Led, host.Taken = ports.Whole, map[string]bool{}, map[string]string{}
	for _, a := range want.Led {
		host.Led[a.HostLink] = len(ports.Missing(a)) == 0
		if taken := ports.Taken(a); taken != nil {
			host.Taken[a.HostLink] = taken.Error()
		}
	}
	return nil
}

// setPortRules makes UDP clients meet their pods again, too: what they sent
// meanwhile went to the host.
func (p *Pods) setPortRules(s mend.Step) error {
	return p.withPorts(func(ports *hostports.Ports) error {
		errs := []error{ports.Install()}
		for _, a := range s.Pods {
			errs = append(errs, hostports.ForgetUDP(a, true))
		}
		return errors.Join(errs...)
	})
}

// leadPorts puts a pod's ports back. Its DEL takes them away when its link is
// gone; if that was before we put them there, they are ours to take away.
func (p *Pods) leadPorts(s mend.Step) error {
	_, there, err := p.k.linkByName(s.Link)
	if err != nil || !there {
		return err // the pod went meanwhile, and its link with it
	}
	return p.withPorts(func(ports *hostports.Ports) error {
		for _, a := range s.Pods {
			if err := ports.Add(a); err != nil {
				return err
			}
			if _, there, err = p.k.linkByName(s.Link); err == nil && !there {
				_, err = ports.Remove(a)
			}
			if err = errors.Join(err, hostports.ForgetUDP(a, there)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Pods) withPorts(f func(*hostports.Ports) error) error {
	defer p.tables.forget()
	return p.k.ns.do(func() error {
		ports, err := hostports.Open()
		if err != nil {
			return err
		}
		defer ports.Close()
		return f(ports)
	})
}
