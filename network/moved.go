package network

import (
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
)

// movable is a store with connections that may be from an address that is gone.
type movable interface{ Moved() }

// tellMoved tells the store when the uplink has lost an address, before anything
// is written because of that.
func (n *Node) tellMoved(next dataplane.Facts) {
	store, ok := n.opts.Store.(movable)
	if !ok {
		return
	}
	name := n.view.uplink.Iface
	for _, a := range n.view.facts.Ifaces[name].Addrs {
		if !slices.Contains(next.Ifaces[name].Addrs, a) {
			store.Moved()
			return
		}
	}
}
