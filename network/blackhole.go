package network

import (
	"math"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
)

// blackholeMetric is worse than that of any other route to the same prefix:
// the one to a bridge with the subnet's gateway address has 0 (IPv4) or 256
// (IPv6), and must go first.
const blackholeMetric = math.MaxInt32

// blackholes drop what is for our own subnets and for no pod in them, so that
// it does not leave by the default route and come back by the tunnel.
func blackholes(subnets []netip.Prefix) map[dataplane.RouteKey]dataplane.Route {
	out := make(map[dataplane.RouteKey]dataplane.Route, len(subnets))
	for _, p := range subnets {
		out[dataplane.RouteKey{Prefix: p, Metric: blackholeMetric}] = dataplane.Route{Blackhole: true}
	}
	return out
}
