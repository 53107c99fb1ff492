package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/weftnet/weft/subnet"
)

const (
	// patience is how long a call tries what a retry can heal before it says
	// why it comes to nothing.
	patience = 5 * time.Second
	// memory is how many of our writes to one Node are known again.
	memory = 8
)

// wrote is what this Store has announced at one Node, and perhaps has, as the
// answer was lost.
type wrote struct {
	count int                 // of all writes
	last  []map[string]string // the newest of them, as annotations
	user  map[string]string   // the overwrites that they followed
}

// announcing is what a Node shall say.
type announcing struct {
	backend string
	shares  []subnet.Share // Public as claimed, before a user's overwrite
}

// Acquire implements subnet.Store. The subnets are those that Kubernetes has
// given to the Node: Claim.Config says which families count and where they
// must lie, and nothing is ever exhausted.
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (subnet.Lease, error) {
	name := c.Node
	if name == "" {
		var err error
		if name, err = s.nodeName(ctx); err != nil {
			return subnet.Lease{}, err
		}
	}
	l, err := s.write(ctx, name, func(n *node) (announcing, error) {
		shares, err := claimed(n, c)
		return announcing{c.Backend, shares}, err
	})
	if apierrors.IsNotFound(err) {
		err = fmt.Errorf("%w; is this the name under which the kubelet registers? set NODE_NAME", err)
	}
	return l, err
}

// claimed gives the subnets of a Node what a claim announces. An error says
// what stands at the Node that no lease can be made of.
func claimed(n *node, c subnet.Claim) ([]subnet.Share, error) {
	subnets, err := n.subnets()
	if err != nil {
		return nil, err
	}
	var out []subnet.Share
	for _, network := range c.Config.Networks {
		width := network.Prefix.Addr().BitLen()
		at := slices.IndexFunc(subnets, func(p netip.Prefix) bool { return p.Addr().BitLen() == width })
		with := slices.IndexFunc(c.Shares, func(s subnet.Share) bool { return s.Public.BitLen() == width })
		switch {
		case at < 0:
			return nil, badField("podCIDRs", "has no subnet in the cluster network %s", network.Prefix)
		case subnets[at].Bits() < network.Prefix.Bits() || !network.Prefix.Contains(subnets[at].Addr()):
			return nil, badField("podCIDRs", "has %s, which lies outside of the cluster network %s", subnets[at], network.Prefix)
		case with < 0:
			return nil, fmt.Errorf("the claim has no public address for %s", subnets[at])
		}
		out = append(out, subnet.Share{Subnet: subnets[at], Public: c.Shares[with].Public, Data: c.Shares[with].Data})
	}
	return out, nil
}

// Publish implements subnet.Store.
func (s *Store) Publish(ctx context.Context, old, next subnet.Lease) (subnet.Lease, error) {
	if !slices.EqualFunc(old.Shares, next.Shares, func(a, b subnet.Share) bool { return a.Subnet == b.Subnet }) {
		return subnet.Lease{}, fmt.Errorf("publish lease %s: Kubernetes gives the subnets, a lease can't change them", old.ID)
	}
	before, err := s.keys.announcement(old.Backend, old.Shares)
	if err != nil {
		return subnet.Lease{}, err
	}
	var ours map[string]string // what we may have written already
	l, err := s.write(ctx, old.Node, func(n *node) (announcing, error) {
		if err := sameNode(n, old); err != nil {
			return announcing{}, err
		}
		if len(s.keys.difference(n, before)) > 0 && (ours == nil || len(s.keys.difference(n, ours)) > 0) {
			return announcing{}, subnet.ErrLeaseChanged
		}
		a := announcing{next.Backend, next.Shares}
		ours, err = s.overwritten(n, &a)
		return announcing{next.Backend, next.Shares}, err
	})
	if apierrors.IsNotFound(err) {
		err = subnet.ErrLeaseLost
	}
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("publish lease %s: %w", old.ID, err)
	}
	return l, nil
}

// sameNode tells whether a Node still is the one of a lease.
func sameNode(n *node, l subnet.Lease) error {
	subnets, err := n.subnets()
	switch {
	case n.created() != l.Created:
		return fmt.Errorf("%w: node %s was deleted, and there is a new one", subnet.ErrLeaseLost, n.name)
	case err != nil:
		return fmt.Errorf("%w: node %s: %w", subnet.ErrLeaseLost, n.name, err)
	}
	for _, share := range l.Shares {
		if !slices.Contains(subnets, share.Subnet) {
			return fmt.Errorf("%w: node %s has the pod subnets %v now", subnet.ErrLeaseLost, n.name, subnets)
		}
	}
	return nil
}

// overwritten puts the addresses that a user wants in place of ours, and gives
// all as annotations.
func (s *Store) overwritten(n *node, a *announcing) (map[string]string, error) {
	users, err := s.keys.overwrites(n, a.shares)
	if err != nil {
		return nil, err
	}
	a.shares = slices.Clone(a.shares)
	for i, address := range users {
		if address.IsValid() {
			a.shares[i].Public = address
		}
	}
	return s.keys.announcement(a.backend, a.shares)
}

// write makes a Node say what decide wants it to. What others write at the
// same time is a conflict, and decided upon anew.
func (s *Store) write(ctx context.Context, name string, decide func(*node) (announcing, error)) (subnet.Lease, error) {
	began, pace := time.Now(), pacer{}
	for {
		n, err := s.get(ctx, name)
		if err == nil {
			var l subnet.Lease
			if l, err = s.writeOnce(ctx, n, decide); err == nil {
				return l, nil
			}
		}
		switch bad := (*fieldError)(nil); {
		case ctx.Err() != nil:
			return subnet.Lease{}, ctx.Err()
		case errors.Is(err, errNoSubnet):
			if s.given(ctx, n, began) {
				continue
			}
			return subnet.Lease{}, fmt.Errorf("node %s: %w", name, err)
		case errors.As(err, &bad):
			s.tell(ctx, n, "WeftCannotUseNode", bad.Error()+"; mend it, weftd follows")
			return subnet.Lease{}, fmt.Errorf("node %s: %w", name, err)
		case !apierrors.IsConflict(err) && (!retry(err) || time.Since(began) > patience):
			return subnet.Lease{}, err
		}
		if apierrors.IsConflict(err) {
			pace = pacer{} // the server is well, and who was first is done
		}
		if err := sleep(ctx, pace.next(err, 0)); err != nil {
			return subnet.Lease{}, err
		}
	}
}

// retry tells errors of the API that pass from those that are final.
func retry(err error) bool {
	return !errors.Is(err, subnet.ErrLeaseLost) && !errors.Is(err, subnet.ErrLeaseChanged) && passes(err)
}

func (s *Store) get(ctx context.Context, name string) (*node, error) {
	raw, err := s.api.get(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.trimmer().trim(raw)
}

func (s *Store) trimmer() trimmer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return trimmer{keys: s.read, own: s.name}
}

// writeOnce patches the Node as it was read, if it has to say something else.
func (s *Store) writeOnce(ctx context.Context, n *node, decide func(*node) (announcing, error)) (subnet.Lease, error) {
	a, err := decide(n)
	if err != nil {
		return subnet.Lease{}, err
	}
	want, err := s.overwritten(n, &a)
	if err != nil {
		return subnet.Lease{}, err
	}
	s.remember(n, want)
	if changes := s.keys.difference(n, want); len(changes) > 0 {
		var raw *corev1.Node
		raw, err = s.api.patch(ctx, n.name, map[string]any{"metadata": map[string]any{
			"annotations": changes, "resourceVersion": fmt.Sprint(n.revision),
		}})
		if err == nil {
			n, err = s.trimmer().trim(raw)
		}
	}
	if err != nil {
		return subnet.Lease{}, err
	}
	l, _, err := s.keys.lease(n)
	return l, err
}

// remember notes what is going to be written, before anybody can see it.
func (s *Store) remember(n *node, want map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.wrote[n.name]
	w.count++
	w.last = append(slices.Clone(w.last), want)
	w.last = w.last[max(0, len(w.last)-memory):]
	w.user = s.keys.users(n)
	s.wrote[n.name] = w
}

func (s *Store) written(name string) wrote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote[name]
}

// given waits for a Node to get its pod subnet, as long as patience lasts.
func (s *Store) given(ctx context.Context, n *node, began time.Time) bool {
	s.tell(ctx, n, "WeftWaitsForPodCIDR", "podCIDR is not assigned, weftd waits for it; "+
		"let kube-controller-manager give it, by --allocate-node-cidrs and --cluster-cidr, or set it")
	s.nodes.join()
	defer s.nodes.leave()
	timer := time.NewTimer(patience - time.Since(began))
	defer timer.Stop()
	for {
		there := false
		changed := s.nodes.look(func(v *view) {
			e := v.nodes[n.name]
			there = e != nil && len(e.node.podCIDRs) > 0
		})
		if there {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// tell says once what a user has to do about a Node, to the log and by an
// Event. That the Event can't be made is only logged.
func (s *Store) tell(ctx context.Context, n *node, reason, message string) {
	s.mu.Lock()
	said := s.said[n.name+reason+message]
	s.said[n.name+reason+message] = true
	s.mu.Unlock()
	if said {
		return
	}
	log := s.log.WithField("node", n.name)
	log.Warn(message)
	if err := s.api.warn(ctx, n, reason, message); err != nil {
		log.WithError(err).Warn("no Event says so" + remedy(err))
	}
}

// Warn says on our Node, by an Event, what somebody has to do there. It doesn't
// log, and says whatever it is told to as often as it is.
func (s *Store) Warn(ctx context.Context, reason, message string) error {
	name, err := s.nodeName(ctx)
	if err != nil {
		return err
	}
	n, err := s.get(ctx, name)
	if err != nil {
		return err
	}
	return s.api.warn(ctx, n, reason, message)
}
