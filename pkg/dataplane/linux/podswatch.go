package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/attachment/hostports"
)

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
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.watch(ctx, l, func() {}, changed) })
	// A kernel without nftables has no guards and no ports to be changed.
	if nft, err := p.k.ns.listen(unix.NETLINK_NETFILTER, p.k.watchBytes, unix.NFNLGRP_NFTABLES); err == nil {
		p.tables.hear(true)
		defer p.tables.hear(false)
		g.Go(func() error { return p.watch(ctx, nft, p.tables.forget, changed) })
	}
	return g.Wait()
}

// watch tells at once, and when it heard of something that concerns us; before that it
// calls first.
func (p *Pods) watch(ctx context.Context, l *listener, first func(), changed chan<- struct{}) error {
	defer l.close()
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	for {
		first()
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

// nftTable is the table that a notification of nftables is of.
func nftTable(m []byte) (family byte, name string) {
	if len(m) < sizeofNfgenmsg {
		return 0, ""
	}
	for a := range attrs(m[sizeofNfgenmsg:]) {
		if a.kind == nftaTable {
			return m[0], a.text()
		}
	}
	return 0, ""
}

func (p *Pods) concerns(m syscall.NetlinkMessage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		switch family, table := nftTable(m.Data); table {
		case guard.Table:
			return family == unix.NFPROTO_NETDEV
		case hostports.Table:
			return family == unix.NFPROTO_INET
		}
		return false
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
