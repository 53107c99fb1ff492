package backend

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// What backends share that send packets without a tunnel of their own.

// Direct tells whether the host reaches the address on the uplink's own link,
// with no router between.
func (h Host) Direct(peer netip.Addr) bool {
	path, ok := h.Facts.Paths[peer]
	return ok && !path.Via.IsValid() && path.Link == h.Uplink.Iface
}

// DirectRoute leads to a peer's subnet by its public address.
func (h Host) DirectRoute(share subnet.Share) (dataplane.RouteKey, dataplane.Route) {
	return RouteTo(share.Subnet), dataplane.Route{Via: share.Public, Link: h.Uplink.Iface}
}

// metric6 is the one that an IPv6 route gets unless it is given (kernel fact).
const metric6 = 1024

// RouteTo is the key of the one route to a peer's subnet: whichever way it
// leads, it is changed in place.
func RouteTo(p netip.Prefix) dataplane.RouteKey {
	k := dataplane.RouteKey{Prefix: p}
	if p.Addr().Is6() {
		k.Metric = metric6
	}
	return k
}

// AnnouncePublic gives a share for each network that says the public address
// and nothing else.
func (h Host) AnnouncePublic() ([]subnet.Share, error) {
	if h.Uplink.Iface == "" || h.Uplink.MTU <= 0 {
		return nil, fmt.Errorf("no uplink to build on: interface %q with MTU %d", h.Uplink.Iface, h.Uplink.MTU)
	}
	var shares []subnet.Share
	for i, network := range h.Config.Networks {
		if i >= len(h.Uplink.Public) || h.Uplink.Public[i].BitLen() != network.Prefix.Addr().BitLen() {
			return nil, fmt.Errorf("the uplink has no public address for the network %s", network.Prefix)
		}
		shares = append(shares, subnet.Share{Public: h.Uplink.Public[i]})
	}
	return shares, nil
}

// NoOptions gives the warnings of a backend that has no options: every key of
// the configuration's Backend object but its type means nothing.
func NoOptions(cfg subnet.Config) []string {
	var object map[string]json.RawMessage
	if json.Unmarshal(cfg.BackendOptions, &object) != nil {
		return nil // subnet.ParseConfig lets no such object through
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if !strings.EqualFold(key, "Type") {
			out = append(out, fmt.Sprintf("Backend.%.40s means nothing to %s", key, cfg.Backend))
		}
	}
	return out
}
