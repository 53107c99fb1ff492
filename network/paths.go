package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Paths to peers are asked for only if the backend uses them: that is one
// question to the kernel for each peer.

// readFacts reads the host, with the paths to the peers known so far, and those that
// bound the MTU.
func (n *Node) readFacts(ctx context.Context) (dataplane.Facts, error) {
	ways := n.pieces.ways.to(n.view.believed.Leases)
	asked := slices.Collect(maps.Keys(n.view.asked))
	facts, err := n.loop.Facts(ctx, slices.Concat(n.opts.Wish.Paths(), asked, ways)...)
	if err != nil {
		return dataplane.Facts{}, fmt.Errorf("read the host: %w", err)
	}
	return facts, nil
}

// pathsOf gives facts that hold the paths to the peers if the backend uses any,
// and none if not. About a few that came the kernel is asked alone, about very many
// together with all else.
func (n *Node) pathsOf(
	ctx context.Context, b backend.Backend, cfg subnet.Config, peers []subnet.Lease,
) (dataplane.Facts, error) {
	user, ok := b.(backend.PathUser)
	if !ok || !user.UsesPaths(cfg) {
		n.view.asked = nil
		return dataplane.Facts{}, nil
	}
	more := n.unasked(peers)
	if len(more) == 0 {
		return n.view.facts, nil
	}
	facts, err := n.morePaths(ctx, more)
	if errors.Is(err, errors.ErrUnsupported) {
		was := n.view.asked
		n.view.asked = publicOf(peers)
		if facts, err = n.readFacts(ctx); err != nil {
			n.view.asked = was
		}
	}
	if err != nil {
		return dataplane.Facts{}, err
	}
	n.pieces.ways.fresh = n.pieces.ways.fresh || !maps.Equal(facts.PathMTU, n.view.facts.PathMTU)
	n.view.facts = facts
	return facts, nil
}

// unasked are the peers' addresses that the host was not asked about.
func (n *Node) unasked(peers []subnet.Lease) (out []netip.Addr) {
	for i := range peers {
		for _, share := range peers[i].Shares {
			if !n.view.asked[share.Public] {
				out = append(out, share.Public)
			}
		}
	}
	return out
}

// morePaths gives the facts with the paths to a few more peers. Others may hold the
// facts of before.
func (n *Node) morePaths(ctx context.Context, more []netip.Addr) (dataplane.Facts, error) {
	facts := n.view.facts
	if len(more) > len(n.view.asked)/4 {
		return facts, errors.ErrUnsupported
	}
	found, err := n.loop.Paths(ctx, more)
	if err != nil {
		return facts, err
	}
	facts.Paths, facts.PathMTU = maps.Clone(facts.Paths), maps.Clone(facts.PathMTU)
	maps.Copy(facts.Paths, found.Paths)
	maps.Copy(facts.PathMTU, found.PathMTU)
	for _, a := range more {
		n.view.asked[a] = true
	}
	return facts, nil
}

// ways are the paths that bound the MTU: to one peer of each part of the underlay, for
// nearly always all of a part are reached alike.
type ways struct {
	asked map[netip.Prefix]bool // parts that Facts know the way to
	fresh bool                  // there are others
}

// maxWays bounds what every look at the host costs.
const maxWays = 64

// to gives a peer in each part.
func (w *ways) to(leases []subnet.Lease) (out []netip.Addr) {
	w.asked = map[netip.Prefix]bool{}
	for i := range leases {
		for _, share := range leases[i].Shares {
			part := partOf(share.Public)
			if len(out) == maxWays || !part.IsValid() || w.asked[part] {
				continue
			}
			w.asked[part] = true
			out = append(out, share.Public)
		}
	}
	return out
}

// note looks whether a peer is in a part that was not asked about.
func (w *ways) note(l *subnet.Lease) {
	for _, share := range l.Shares {
		w.fresh = w.fresh || len(w.asked) < maxWays && !w.asked[partOf(share.Public)]
	}
}

// partOf is what is taken for one part of the underlay.
func partOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	part, _ := a.Prefix(bits) // an invalid address is in none
	return part
}

// newWays reads the host anew if there are peers in another part of the underlay, and tells
// whether that makes the uplink another: by the MTU of the way there.
func (n *Node) newWays(ctx context.Context) bool {
	if !n.pieces.ways.fresh {
		return false
	}
	n.pieces.ways.fresh = false // also if that fails: whoever waits tries everything anew
	n.mu.Lock()
	n.ledger.factsDue = true
	n.mu.Unlock()
	was := n.view.uplink
	n.refreshFacts(ctx)
	return !reflect.DeepEqual(was, n.view.uplink)
}

// publicOf gives the public addresses of the leases.
func publicOf(leases []subnet.Lease) map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(leases))
	for i := range leases {
		for _, share := range leases[i].Shares {
			out[share.Public] = true
		}
	}
	return out
}

// pathsTo gives the path to each share of a lease, the zero one where there is
// none; nil if no paths were asked for.
func pathsTo(facts dataplane.Facts, l *subnet.Lease) *[2]dataplane.Route {
	if len(facts.Paths) == 0 {
		return nil
	}
	out := waysOf(facts, l)
	return &out
}

func waysOf(facts dataplane.Facts, l *subnet.Lease) (out [2]dataplane.Route) {
	for i, share := range l.Shares[:min(len(l.Shares), len(out))] {
		out[i] = facts.Paths[share.Public]
	}
	return out
}
