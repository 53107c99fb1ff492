package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
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

// ofGuards tells whether a notification of nftables is of the guards' table.
func ofGuards(m []byte) bool {
	if len(m) < sizeofNfgenmsg || m[0] != unix.NFPROTO_NETDEV {
		return false
	}
	for a := range attrs(m[sizeofNfgenmsg:]) {
		if a.kind == nftaTable {
			return a.text() == guard.Table
		}
	}
	return false
}

// Watch tells when something changed that the last Observe read; at first it
// tells in any case. It blocks until ctx ends, and returns ctx.Err() or why it
// can't go on. Telling never blocks.
func (p *Pods) Watch(ctx context.Context, changed chan<- struct{}) error {
	l, err := p.k.ns.listen(unix.NETLINK_ROUTE, p.k.watchBytes,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return err
	}
	_ = l.attach(hostRoutes()) // what passes is sorted out here
	listeners := []*listener{l}
	// A kernel without nftables has no guards to be changed.
	if nft, err := p.k.ns.listen(unix.NETLINK_NETFILTER, p.k.watchBytes, unix.NFNLGRP_NFTABLES); err == nil {
		listeners = append(listeners, nft)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error { return p.watch(ctx, l, changed) })
	}
	return g.Wait()
}

func (p *Pods) watch(ctx context.Context, l *listener, changed chan<- struct{}) error {
	defer l.close()
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	for {
		select {
		case changed <- struct{}{}:
		default:
		}
		for tell := false; !tell; {
			messages, err := l.receive()
			switch {
			case errors.Is(err, unix.ENOBUFS):
				tell = true
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				return err
			}
			for _, m := range messages {
				tell = tell || p.concerns(m)
			}
		}
	}
}

func (p *Pods) concerns(m syscall.NetlinkMessage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		return len(p.names.Guards) > 0 && ofGuards(m.Data)
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		if p.indices[int(int32(binary.NativeEndian.Uint32(m.Data[4:])))] {
			return true
		}
		for a := range attrs(m.Data[unix.SizeofIfInfomsg:]) {
			if a.kind == unix.IFLA_IFNAME {
				return p.names.Links[a.text()]
			}
		}
	case unix.RTM_DELADDR:
		return len(m.Data) >= unix.SizeofIfAddrmsg && p.indices[int(binary.NativeEndian.Uint32(m.Data[4:]))]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := parseRoute(m.Data)
		return ok && p.names.Routes[r.key.Prefix]
	}
	return false
}
