package network

import (
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// configChange decides about a configuration that was edited while this node
// runs: it is followed as a whole, or refused as a whole and the old one kept.
// A node that has just started takes whatever the store says.
func (n *Node) configChange(s *subnet.Snapshot) {
	have, next := n.view.believed.Config, s.Config
	if !n.view.confirmed || len(have.Networks) == 0 || n.view.lease.ID == "" {
		return
	}
	if string(have.Raw) == string(next.Raw) {
		n.updateStatus(func(st *Status) { st.Store.Refused = "" })
		return
	}
	if err := n.followable(next); err != nil {
		s.Config = have
		n.once("config refused "+string(next.Raw), func(log logrus.FieldLogger) {
			log.WithError(err).Warn("the network configuration has changed and is refused; this node keeps the old one")
			n.happened(events.ConfigRefused, "", oneLine(err))
		})
		n.updateStatus(func(st *Status) { st.Store.Refused = err.Error() })
		return
	}
	n.opts.Log.WithField("config", string(next.Raw)).Info("the network configuration has changed; following")
	n.happened(events.ConfigChanged, "", string(next.Raw))
	n.updateStatus(func(st *Status) { st.Store.Refused = "" })
}

// followable says why a configuration can't be followed without a restart, or
// nil. What the backend can't make anything of is found before anything is
// changed.
func (n *Node) followable(next subnet.Config) error {
	if !n.fits(next, n.view.lease) {
		return fmt.Errorf("our lease %s does not fit into it, and running pods would lose their addresses; "+
			"drain this node and restart weftd to take a new lease", n.view.lease.ID)
	}
	b, err := n.backend(next)
	if err != nil {
		return err
	}
	h := n.host()
	h.Config = next
	shares, err := b.Announce(h, h.Lease.Shares)
	if err != nil {
		return err
	}
	if len(shares) != len(h.Lease.Shares) {
		return errors.New("it has other address families than our lease; restart weftd to take a new one")
	}
	h.Lease = announcing(h.Lease, next.Backend, shares)
	_, err = b.Base(h)
	return err
}

// announcing is the lease with what is announced replaced, subnet by subnet.
func announcing(l subnet.Lease, backendType string, shares []subnet.Share) subnet.Lease {
	l.Backend = backendType
	old := l.Shares
	l.Shares = make([]subnet.Share, len(old))
	for i, s := range old {
		l.Shares[i] = subnet.Share{Subnet: s.Subnet, Public: shares[i].Public, Data: shares[i].Data}
	}
	return l
}

// effectiveHost is the host as it will be when the store has taken what we
// announce: a changed VNI is in the base and in the lease at once.
func effectiveHost(h backend.Host, b backend.Backend) (backend.Host, error) {
	shares, err := b.Announce(h, h.Lease.Shares)
	if err != nil {
		return h, err
	}
	if len(shares) == len(h.Lease.Shares) {
		h.Lease = announcing(h.Lease, h.Config.Backend, shares)
	}
	return h, nil
}

// retire keeps the devices of a configuration that is no longer wanted in our
// domain, so that they are seen, and removed as unwanted.
func retire(retired, before, after map[string]dataplane.Link) map[string]dataplane.Link {
	out := map[string]dataplane.Link{}
	for name, l := range retired {
		out[name] = l
	}
	for name, l := range before {
		out[name] = dataplane.Link{VNI: l.VNI, Port: l.Port, Local: l.Local}
	}
	for name := range after {
		delete(out, name)
	}
	return out
}
