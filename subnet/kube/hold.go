package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/subnet"
)

// Hold implements subnet.Store. Nothing has to be renewed: a lease lives as
// long as its Node. What ends it is the Node's deletion, other pod subnets,
// somebody else's write to our annotations, or another address that a user
// wants to be announced.
func (s *Store) Hold(ctx context.Context, l subnet.Lease) error {
	want, err := s.keys.announcement(l.Backend, l.Shares)
	if err != nil {
		return fmt.Errorf("hold lease %s: %w", l.ID, err)
	}
	h := holding{s: s, l: l, want: want, seen: s.written(l.Node).upTo(want)}
	s.nodes.join()
	defer s.nodes.leave()
	for {
		var n node
		there, synced, revision := false, false, int64(0)
		changed := s.nodes.look(func(v *view) {
			n, there = v.self(l.Node)
			synced, revision = v.synced, v.revision
		})
		if synced {
			if err := h.judge(ctx, n, there, revision); err != nil {
				return fmt.Errorf("hold lease %s: %w", l.ID, err)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holding is one call of Hold.
type holding struct {
	s    *Store
	l    subnet.Lease
	want map[string]string
	seen int // how many of our writes are no news
}

// upTo counts our writes as far as the one that made the lease what it is: a
// Publish may have come between that and the beginning of Hold, and is no more
// somebody else's than one that comes later.
func (w wrote) upTo(want map[string]string) int {
	for i := len(w.last) - 1; i >= 0; i-- {
		if equalMaps(w.last[i], want) {
			return w.count - (len(w.last) - 1 - i)
		}
	}
	return w.count
}

// judge tells whether the lease still is what it was. What was heard may be
// older than the lease itself: then it says nothing yet.
func (h *holding) judge(ctx context.Context, n node, there bool, revision int64) error {
	if !there {
		if revision < h.l.Revision {
			return nil
		}
		return fmt.Errorf("%w: node %s was deleted", subnet.ErrLeaseLost, h.l.Node)
	}
	if n.revision < h.l.Revision {
		return nil
	}
	if err := sameNode(&n, h.l); err != nil {
		return err
	}
	wrote := h.s.written(h.l.Node)
	if len(h.s.keys.difference(&n, h.want)) > 0 && !h.ours(&n, wrote) {
		return fmt.Errorf("%w: the annotations of node %s", subnet.ErrLeaseChanged, n.name)
	}
	if wrote.user == nil || equalMaps(h.s.keys.users(&n), wrote.user) {
		return nil
	}
	if h.ignored(ctx, &n) {
		return nil
	}
	return fmt.Errorf("%w: node %s shall announce another address", subnet.ErrLeaseChanged, n.name)
}

// ignored tells a user whose overwrite is no address: the one before stays.
func (h *holding) ignored(ctx context.Context, n *node) bool {
	_, err := h.s.keys.overwrites(n, h.l.Shares)
	if err != nil {
		h.s.tell(ctx, n, "WeftIgnoresAnnotation", err.Error()+"; the address before stays announced")
	}
	return err != nil
}

// ours finds what stands at the Node among what we wrote since the last look.
func (h *holding) ours(n *node, wrote wrote) bool {
	first := max(0, len(wrote.last)-(wrote.count-h.seen))
	for i := first; i < len(wrote.last); i++ {
		if len(h.s.keys.difference(n, wrote.last[i])) == 0 {
			h.want, h.seen = wrote.last[i], wrote.count-(len(wrote.last)-1-i)
			return true
		}
	}
	return false
}

// SetNetworkAvailable writes the condition NetworkUnavailable of our Node, in
// flannel's words while pods can be served, and reason when they can't be. It
// writes only where something differs from what was heard, so that it can be
// called again at any time.
func (s *Store) SetNetworkAvailable(ctx context.Context, ready bool, reason string) error {
	if !s.opts.KeepCondition {
		return nil
	}
	name, err := s.nodeName(ctx)
	if err != nil {
		return err
	}
	want := condition{"False", "FlannelIsUp", "Flannel is running on this node"}
	if !ready {
		want = condition{"True", "WeftIsNotReady", reason}
	}
	if have, known := s.heard(name); known && have == want {
		return nil
	}
	for pace := (pacer{}); ; {
		err := s.setCondition(ctx, name, want)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, pace.next(err, 0)); err != nil {
			return err
		}
	}
}

func (s *Store) heard(name string) (c condition, known bool) {
	s.nodes.look(func(v *view) {
		var n node
		n, known = v.self(name)
		known = known && v.synced
		c = n.network
	})
	return c, known
}

func (s *Store) setCondition(ctx context.Context, name string, want condition) error {
	raw, err := s.api.get(ctx, name)
	if err != nil {
		return err
	}
	have := networkOf(raw)
	if have == want {
		return nil
	}
	now := metav1.NewTime(time.Now()).Rfc3339Copy()
	next := map[string]any{
		"type": "NetworkUnavailable", "status": want.status, "reason": want.reason, "message": want.message,
		"lastHeartbeatTime": now,
	}
	if have.status != want.status {
		next["lastTransitionTime"] = now
	}
	_, err = s.api.patch(ctx, name, map[string]any{
		"metadata": map[string]any{"resourceVersion": raw.ResourceVersion},
		"status":   map[string]any{"conditions": []any{next}},
	})
	return err
}
