package network

import (
	"context"
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
	facts, err := n.loop.Facts(ctx, slices.Concat(n.opts.Wish.Paths(), n.view.asked, ways)...)
	if err != nil {
		return dataplane.Facts{}, fmt.Errorf("read the host: %w", err)
	}
	return facts, nil
}

// pathsOf gives facts that hold the paths to the peers if the backend uses any,
// and none if not. The host is read anew when a peer came that it was not asked
// about.
func (n *Node) pathsOf(
	ctx context.Context, b backend.Backend, cfg subnet.Config, peers []subnet.Lease,
) (dataplane.Facts, error) {
	user, ok := b.(backend.PathUser)
	if !ok || !user.UsesPaths(cfg) {
		n.view.asked = nil
		return dataplane.Facts{}, nil
	}
	was := n.view.asked
	n.view.asked = publicOf(peers)
	for _, a := range n.view.asked {
		if _, known := slices.BinarySearchFunc(was, a, netip.Addr.Compare); known {
			continue
		}
		facts, err := n.readFacts(ctx)
		if err != nil {
			n.view.asked = was
			return dataplane.Facts{}, err
		}
		n.pieces.ways.fresh = !maps.Equal(facts.PathMTU, n.view.facts.PathMTU)
		n.view.facts = facts
		break
	}
	return n.view.facts, nil
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

// publicOf gives the public addresses of the leases, sorted, each once.
func publicOf(leases []subnet.Lease) []netip.Addr {
	out := make([]netip.Addr, 0, len(leases))
	for i := range leases {
		for _, share := range leases[i].Shares {
			out = append(out, share.Public)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// pathsTo gives the path to each share of a lease, the zero one where there is
// none; nil if no paths were asked for.
func pathsTo(facts dataplane.Facts, l *subnet.Lease) *[2]dataplane.Route {
	if len(facts.Paths) == 0 {
		return nil
	}
	var out [2]dataplane.Route
	for i, share := range l.Shares[:min(len(l.Shares), len(out))] {
		out[i] = facts.Paths[share.Public]
	}
	return &out
}
