package network

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Peer is another node as `weftctl peers` shows it; /v1/peers serves a list of
// them. The names are stable.
type Peer struct {
	Lease string `json:"lease"`
	Node  string `json:"node,omitempty"` // its name, else its public address, where known
	// Reason is why it doesn't count; empty: it does.
	Reason string     `json:"reason,omitempty"`
	Since  time.Time  `json:"since,omitzero"` // it counts, as far as this process knows
	Paths  []PeerPath `json:"paths,omitempty"`
}

// PeerPath is how packets get to one subnet of a peer.
type PeerPath struct {
	Subnet string `json:"subnet"`
	Public string `json:"public"`
	VTEP   string `json:"vtep,omitempty"` // its address inside of the overlay; absent: it has none
	MAC    string `json:"mac,omitempty"`
	Way    string `json:"way"` // tunnel, direct, or none: this backend writes no route
	Dev    string `json:"dev,omitempty"`
	// Probe is what probes found, see probe.State; absent: it is not probed.
	Probe      probe.State `json:"probe,omitempty"`
	ProbeSince time.Time   `json:"probeSince,omitzero"`
	RTT        float64     `json:"rttMs,omitempty"` // milliseconds, of the newest answer through the overlay
	Loss       float64     `json:"loss,omitempty"`  // part of the newest 16 small probes that were lost
}

// admitted is what came of the leases the last time.
type admitted struct {
	backend backend.Backend
	ok      []subnet.Lease // good until the next time
	skipped []subnet.Skipped
}

// crowd is all that there is to say about peers, at one moment.
type crowd struct {
	admitted
	host  backend.Host
	links map[string]dataplane.Link   // ours
	since map[string]int64            // lease → Unix seconds
	paths map[netip.Addr]probe.Status // by the address in the overlay
}

// crowd copies what steer knows: it costs him a moment, whoever asks, and
// nothing when nobody does.
func (n *Node) crowd(ctx context.Context) (c crowd, err error) {
	err = n.ask(ctx, func() {
		c.admitted = n.view.admitted
		c.ok, c.skipped = slices.Clone(c.ok), slices.Clone(c.skipped)
		c.host, c.links = n.pieces.host, n.pieces.links
		c.since = make(map[string]int64, len(n.pieces.peers))
		for i := range n.pieces.peers {
			c.since[n.pieces.peers[i].id] = n.pieces.peers[i].since
		}
	})
	c.paths = n.probes.paths()
	return c, err
}

// ask has steer answer a question.
func (n *Node) ask(ctx context.Context, question func()) error {
	done := make(chan struct{})
	select {
	case n.asks <- func() { defer close(done); question() }:
	case <-ctx.Done():
		return fmt.Errorf("weftd is busy, or it stops: %w", context.Cause(ctx))
	}
	<-done
	return nil
}

// each gives the peers one by one, so that nobody holds 10,000 of them.
func (c *crowd) each(yield func(Peer) bool) {
	left := make(map[string]bool, len(c.skipped))
	for _, s := range c.skipped {
		left[s.ID] = true
	}
	for i := range c.ok {
		if !left[c.ok[i].ID] && !yield(c.peer(&c.ok[i])) {
			return
		}
	}
	for _, s := range c.skipped {
		if !yield(Peer{Lease: s.ID, Node: s.Node, Reason: s.Field + " " + s.Reason}) {
			return
		}
	}
}

func (c *crowd) peer(l *subnet.Lease) Peer {
	p := Peer{Lease: l.ID, Node: peerName(*l), Since: time.Unix(c.since[l.ID], 0)}
	state, err := backend.Entries(c.backend, c.host, *l)
	if err != nil {
		p.Reason = err.Error() // can't be: it was made of the same
		return p
	}
	for _, share := range l.Shares {
		path := pathTo(share, state, c.links)
		if s, ok := c.paths[share.Subnet.Addr()]; ok {
			path.Probe, path.ProbeSince, path.Loss = s.State, s.Since, s.Loss
			path.RTT = float64(s.RTT.Microseconds()) / 1000
		}
		p.Paths = append(p.Paths, path)
	}
	return p
}

// pathTo reads off a peer's entries how its subnet is reached.
func pathTo(share subnet.Share, state dataplane.State, links map[string]dataplane.Link) PeerPath {
	out := PeerPath{Subnet: share.Subnet.String(), Public: share.Public.String(), Way: "none"}
	for key, route := range state.Routes {
		if key.Prefix != share.Subnet {
			continue
		}
		out.Dev, out.Way = route.Link, "direct"
		if _, ours := links[route.Link]; ours {
			out.Way = "tunnel"
		}
	}
	for key, lladdr := range state.Neighs {
		if key.IP.BitLen() == share.Public.BitLen() {
			out.VTEP, out.MAC = key.IP.String(), lladdr.String()
		}
	}
	return out
}

// servePeers writes a JSON array, a peer a line.
func servePeers(w io.Writer, c *crowd) {
	out := bufio.NewWriter(w)
	defer func() { _ = out.Flush() }() // the client went away: nobody is left to tell
	separator := "["
	for p := range c.each {
		line, err := json.Marshal(p)
		if err != nil {
			continue // strings and times always encode
		}
		_, _ = out.WriteString(separator + "\n")
		_, _ = out.Write(line)
		separator = ","
	}
	if separator == "[" {
		_, _ = out.WriteString(separator)
	}
	_, _ = out.WriteString("\n]\n")
}

func joined(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
