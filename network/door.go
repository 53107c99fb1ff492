package network

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/masq"
	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/layers"
	"github.com/weftnet/weft/subnet"
)

// TunnelOptions are those of the rules about the tunnel's own packets.
type TunnelOptions struct {
	Filter  tunnel.Filter // --vxlan-filter; empty: none, and no sets either
	Untrack bool          // --vxlan-notrack, where no firewall would mind
}

// door is what is made of them for one host. Rules that shut somebody out are wanted
// only when the store itself has said who our peers are.
type door struct {
	wish    TunnelOptions
	table   string
	devices []tunnel.Device
	now     tunnel.Options // what chains were made of
	chains  []layers.Fragment
}

// renew is for another host or another configuration. Without a tunnel, or without
// nftables, there is nothing to do.
func (d *door) renew(wish TunnelOptions, base *dataplane.State, h backend.Host) {
	*d = door{wish: wish, table: masq.Table(suffixOf(base))}
	if wish.Filter == "" || wish.Filter == tunnel.Off && !wish.Untrack || h.Facts.Firewall.NoNFTables {
		return
	}
	var networks []netip.Prefix
	for _, w := range h.Config.Networks {
		networks = append(networks, w.Prefix)
	}
	d.devices = tunnel.DevicesOf(base.Links, networks)
	for i := range d.devices {
		for _, w := range h.Config.Networks {
			if w.Prefix == d.devices[i].Network {
				d.devices[i].Lengths = []int{w.SubnetLen}
			}
		}
	}
}

// admit adds to a peer's state what lets its packets in.
func (d *door) admit(s *dataplane.State, l *subnet.Lease) {
	for i := range d.devices {
		for _, share := range l.Shares {
			for el := range d.devices[i].Elems(d.table, d.wish.Filter, share.Public, share.Subnet) {
				backend.Put(&s.Elems, el, struct{}{})
				d.devices[i].Learn(share.Subnet.Bits())
			}
		}
	}
}

// fragments are the rules: a layer of their own.
func (d *door) fragments(confirmed, untrack bool) []layers.Fragment {
	if !confirmed || len(d.devices) == 0 {
		d.now, d.chains = tunnel.Options{}, nil
		return nil
	}
	next := tunnel.Options{Table: d.table, Filter: d.wish.Filter, Untrack: untrack}
	for _, device := range d.devices {
		device.Lengths = slices.Clone(device.Lengths)
		next.Devices = append(next.Devices, device)
	}
	if d.chains == nil || !d.now.Equal(next) {
		d.now = next
		d.chains = []layers.Fragment{layers.New(layerTunnel, dataplane.State{Chains: tunnel.Chains(next)})}
	}
	return d.chains
}

// tellTunnel logs what was decided, when it is another thing than before.
func (n *Node) tellTunnel(untrack bool, why string) {
	d := &n.pieces.door
	if len(d.devices) == 0 || !n.view.confirmed {
		return
	}
	told := toldTunnel{string(d.wish.Filter), untrack, why}
	if told == n.toldTunnel {
		return
	}
	n.toldTunnel = told
	n.opts.Log.WithFields(logrus.Fields{"filter": told.filter, "untracked": untrack, "reason": why}).
		Info("packets of the tunnel")
}

type toldTunnel struct {
	filter  string
	untrack bool
	reason  string
}

// TunnelStatus is what is done with the tunnel's own packets.
type TunnelStatus struct {
	// Filter is strict, vtep-only or off; empty: there is no tunnel, or the store has not
	// said yet who the peers are.
	Filter    string `json:"filter,omitempty"`
	Untracked bool   `json:"untracked"`           // conntrack leaves them alone
	Reason    string `json:"reason,omitempty"`    // why, or why not
	Dropped   uint64 `json:"dropped"`             // packets that the filter has dropped since its rules were written
	Uncounted string `json:"uncounted,omitempty"` // why Dropped can't be told
}

func (n *Node) tunnelStatus(untrack bool, why string) TunnelStatus {
	if n.pieces.door.chains == nil {
		return TunnelStatus{}
	}
	return TunnelStatus{Filter: string(n.pieces.door.wish.Filter), Untracked: untrack, Reason: why}
}

// countDropped asks the kernel how many packets the filter has dropped.
func (n *Node) countDropped(ctx context.Context, s *TunnelStatus) {
	n.mu.Lock()
	keys := slices.Clone(n.counting)
	n.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	counts, err := n.loop.Dropped(ctx, keys)
	if err != nil {
		s.Uncounted = err.Error()
	}
	for _, c := range counts {
		s.Dropped += c
	}
}

// openDoor takes the filter away: who comes after us, may be no weft, and would be
// shut up with the peers that we knew. It is for the end, when nobody else uses the kernel.
func (n *Node) openDoor() {
	d := &n.pieces.door
	if d.chains == nil || d.wish.Filter == tunnel.Off {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), openPatience)
	defer stop()
	open := d.now
	open.Filter = tunnel.Off
	scope := dataplane.Scope{Domain: n.pieces.domainOf(n.pieces.host)}
	scope.Keys.Chains = maps.Clone(tunnel.Chains(d.now))
	seen, err := n.opts.Kernel.Observe(ctx, scope)
	if err != nil {
		n.opts.Log.WithError(err).Warn("the tunnel's filter stays: new nodes can't reach pods here until weftd runs again")
		return
	}
	want := dataplane.State{Chains: tunnel.Chains(open)}
	for _, failed := range n.opts.Kernel.Apply(ctx, dataplane.Diff(want, dataplane.Observed{Have: seen.Have})) {
		n.opts.Log.WithError(failed).Warn("the tunnel's filter stays: new nodes can't reach pods here until weftd runs again")
	}
}

const openPatience = 2 * time.Second
