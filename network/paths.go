package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// Paths to peers are asked for only if the backend uses them: that is one
// question to the kernel for each peer.

// readFacts reads the host, with the paths to the peers known so far.
func (n *Node) readFacts(ctx context.Context) (dataplane.Facts, error) {
	facts, err := n.loop.Facts(ctx, slices.Concat(n.opts.Wish.Paths(), n.view.asked)...)
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
		n.view.facts = facts
		break
	}
	return n.view.facts, nil
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
