package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/bench"
)

// server takes in what peers send until its time is over, or it is interrupted.
func (f *benchFlags) server(cmd *cobra.Command, g *globals) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), f.stay)
	defer cancel()
	var s network.Status
	if err := askDaemon(ctx, g.socket, "/v1/status", &s); err != nil {
		return err
	}
	listeners, err := listenAt(ctx, ownAddresses(s.Node), f.port)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	var at []string
	for _, l := range listeners {
		at = append(at, l.Addr().String())
	}
	tell(fmt.Sprintf("for %s, for peers only, at %s", f.stay, strings.Join(at, ", ")))
	server := bench.Server{Tell: tell, Known: func(ctx context.Context, from netip.Addr) bool {
		var peers []network.Peer
		return askDaemon(ctx, g.socket, "/v1/peers", &peers) == nil && isPeer(peers, from)
	}}
	return server.Serve(ctx, listeners...)
}

// ownAddresses are those of the underlay, and those that peers reach through the
// overlay: the first of each subnet, which is on the tunnel's device where the
// backend has one.
func ownAddresses(n network.NodeStatus) (all []netip.Addr) {
	for _, text := range n.Local {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a)
		}
	}
	for _, text := range n.Subnets {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p.Masked().Addr())
		}
	}
	return all
}

// listenAt leaves out what is no address of this host.
func listenAt(ctx context.Context, addrs []netip.Addr, port uint16) (all []net.Listener, err error) {
	var lc net.ListenConfig
	for _, a := range addrs {
		l, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(a, port).String())
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			continue
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("%w; choose another --port, on both sides", err)
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, errors.New("this node has no address yet; weftctl status tells why")
	}
	return all, nil
}

// isPeer tells whether a connection from an address is a peer's.
func isPeer(peers []network.Peer, from netip.Addr) bool {
	for _, p := range peers {
		for _, path := range p.Paths {
			for _, text := range []string{path.VTEP, path.Public} {
				if a, err := netip.ParseAddr(text); err == nil && a == from && p.Reason == "" {
					return true
				}
			}
		}
	}
	return false
}
