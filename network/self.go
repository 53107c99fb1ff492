package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/subnet"
)

// selfStore is a store in which this node has an object of its own, as its Node
// in Kubernetes. Its subnets are given by whoever made that, not chosen.
type selfStore interface {
	// Self gives what the object says, as far as it was heard: what this node
	// announced last, and the addresses that a user wants it to use in place
	// of those of the flags. It doesn't block.
	Self() (last subnet.Lease, public []netip.Addr)
	// SetNetworkAvailable writes there whether pods can be served, and why
	// not. It writes nothing that stands there already.
	SetNetworkAvailable(ctx context.Context, ready bool, reason string) error
	// Warn says there what somebody has to see to.
	Warn(ctx context.Context, reason, message string) error
}

// announcedBefore is what peers know of this node: what our lease says, else
// what our object in the store does, so that the MAC outlives a reboot without
// a state directory too.
func (n *Node) announcedBefore() []subnet.Share {
	if n.view.lease.ID != "" || n.self == nil {
		return n.view.lease.Shares
	}
	last, _ := n.self.Self()
	return last.Shares
}

// wish is what the flags say of the uplink, and what a user says of this node.
func (n *Node) wish() uplink.Wish {
	w := n.opts.Wish
	if n.self == nil {
		return w
	}
	_, public := n.self.Self()
	for _, a := range w.Public {
		same := func(b netip.Addr) bool { return a.BitLen() == b.BitLen() }
		if !slices.ContainsFunc(public, same) {
			public = append(public, a)
		}
	}
	w.Public = public
	return w
}

// fits tells whether a lease can be used under a configuration.
func (n *Node) fits(cfg subnet.Config, l subnet.Lease) bool {
	return subnet.Compatible(cfg, l) || n.self != nil && given(cfg, l)
}

// given tells whether a lease of subnets that were given to us has one in each
// network. Lengths and bounds are those of whoever gives them.
func given(cfg subnet.Config, l subnet.Lease) bool {
	if len(l.Shares) != len(cfg.Networks) {
		return false
	}
	for i, w := range cfg.Networks {
		p := l.Shares[i].Subnet
		if !p.IsValid() || p.Bits() < w.Prefix.Bits() || !w.Prefix.Contains(p.Addr()) {
			return false
		}
	}
	return true
}

// tellAgain is how often the object in the store is compared with the truth.
const tellAgain = time.Minute

// tellStore keeps the object in the store true to whether pods can be served,
// from the first time on that they can: before, as after a restart, what stands
// there may well be so.
func (n *Node) tellStore(ctx context.Context) error {
	ever, said, warned := false, "", ""
	for attempt := 0; ; attempt++ {
		pause := tellAgain
		notReady := n.opts.Health.Ready()
		ever = ever || notReady == nil
		if ever {
			err := n.self.SetNetworkAvailable(ctx, notReady == nil, reasonOf(notReady))
			switch {
			case err == nil:
				attempt, said = 0, ""
				warned = n.warnOfRules(ctx, warned)
			case ctx.Err() != nil:
				return ctx.Err()
			default:
				pause = backoff(attempt)
				if said != err.Error() {
					said = err.Error()
					n.opts.Log.WithError(err).Warn("the store was not told whether pods can be served; trying again")
				}
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-n.turned:
			timer.Stop()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// warnOfRules says what somebody has to see to about the rules, if it is other
// than before. A warning that nobody can be told is not worth a second request.
func (n *Node) warnOfRules(ctx context.Context, before string) (now string) {
	n.mu.Lock()
	now = n.status.Rules.Warning
	n.mu.Unlock()
	if now == "" || now == before {
		return now
	}
	if err := n.self.Warn(ctx, "WeftRulesNotice", now); err != nil {
		n.opts.Log.WithError(err).Warn("no Event says what the rules engine lacks")
	}
	return now
}

func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// storeAdvice says what to do when the store says nothing, or no configuration.
func (n *Node) storeAdvice() (silent, empty error) {
	if n.self != nil {
		return errors.New("the API server has not answered yet; the log says why"),
			errors.New("there is no valid network configuration yet; put one into the ConfigMap, or see --net-config-path")
	}
	return errors.New("the store has not answered yet; check that etcd runs, and --etcd-endpoints"),
		errors.New(`the store has no valid network configuration yet; ` +
			`write one: weftctl config set '{"Network":"10.42.0.0/16"}'`)
}
