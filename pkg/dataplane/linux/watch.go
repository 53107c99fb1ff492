package linux

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// settle is how long a scope waits for more of the same burst.
const settle = 5 * time.Millisecond

// nfnlgrpNFTables is NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const nfnlgrpNFTables = 7

func routeGroups() []int {
	return []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
		unix.RTNLGRP_NEXTHOP, // says nothing before Linux 5.3
	}
}

// Watch sends a scope for whatever changes in our territory.
func (k *Kernel) Watch(ctx context.Context, dirty chan<- dataplane.Scope) error {
	routes, err := k.ns.listen(unix.NETLINK_ROUTE, k.watchBytes, routeGroups()...)
	if err != nil {
		return err
	}
	defer routes.close()
	k.memory.hear(routes, unix.NETLINK_ROUTE)
	defer k.memory.deaf(routes)
	listeners := map[*listener]func(syscall.NetlinkMessage) dataplane.Scope{routes: k.memory.routeChange}
	filter, err := k.ns.listen(unix.NETLINK_NETFILTER, k.watchBytes, nfnlgrpNFTables)
	switch {
	case err == nil:
		defer filter.close()
		k.memory.hear(filter, unix.NETLINK_NETFILTER)
		defer k.memory.deaf(filter)
		listeners[filter] = k.memory.chainChange
	case !errors.Is(err, unix.EPROTONOSUPPORT):
		return err
	}
	k.memory.watching(1)
	defer k.memory.watching(-1)

	pending := &pending{ready: make(chan struct{}, 1)}
	pending.add(dataplane.Scope{All: true})
	g, ctx := errgroup.WithContext(ctx)
	for l, concerns := range listeners {
		stop := context.AfterFunc(ctx, l.close)
		defer stop()
		g.Go(func() error { return pending.collect(l, concerns) })
	}
	g.Go(func() error { return pending.deliver(ctx, dirty) })
	g.Go(func() error { return k.watchLegacy(ctx, pending) })
	err = g.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return err
}

// pending is the scope that was not sent yet.
type pending struct {
	mu    sync.Mutex
	scope dataplane.Scope
	ready chan struct{} // holds one token while scope is not empty
}

func (p *pending) add(s dataplane.Scope) {
	if s.Empty() {
		return
	}
	p.mu.Lock()
	p.scope.Add(s)
	p.mu.Unlock()
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

func (p *pending) take() dataplane.Scope {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.scope
	p.scope = dataplane.Scope{}
	return s
}

// collect turns notifications into scopes. What was lost may be anything.
func (p *pending) collect(l *listener, concerns func(syscall.NetlinkMessage) dataplane.Scope) error {
	for {
		messages, err := l.receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			p.add(dataplane.Scope{All: true})
			continue
		case err != nil:
			return err
		}
		for _, m := range messages {
			p.add(concerns(m))
		}
	}
}

// deliver sends one scope for each burst. While the receiver is busy, bursts
// become one.
func (p *pending) deliver(ctx context.Context, dirty chan<- dataplane.Scope) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for first := true; ; first = false {
		select {
		case <-p.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !first {
			pause.Reset(settle)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		s := p.take()
		if s.Empty() {
			continue
		}
		select {
		case dirty <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
