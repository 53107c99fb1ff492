package linux

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
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

// guarded tells which links are held to what they shall be.
func (p *Pods) guarded(want []attachment.Sources) (map[string]bool, error) {
	if len(want) == 0 || p.noGuard {
		return nil, nil
	}
	var have guard.State
	if err := p.k.ns.do(func() (err error) {
		have, err = guard.Read()
		return err
	}); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, s := range want {
		out[s.Link] = have.Holds(s)
	}
	return out, nil
}

// led tells which pods have the host's ports that they shall have.
func (p *Pods) led(want []attachment.Attachment, host *mend.Host) error {
	if len(want) == 0 {
		return nil
	}
	var have hostports.State
	if err := p.k.ns.do(func() (err error) {
		have, err = hostports.Read()
		return err
	}); err != nil {
		return err
	}
	host.PortRules, host.Led, host.Taken = have.Whole, map[string]bool{}, map[string]string{}
	for _, a := range want {
		host.Led[a.HostLink] = len(have.Missing(a)) == 0
		if taken := have.Taken(a); taken != nil {
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
	return p.k.ns.do(func() error {
		ports, err := hostports.Open()
		if err != nil {
			return err
		}
		defer ports.Close()
		return f(ports)
	})
}
