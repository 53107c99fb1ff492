package fake

import (
	"context"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// watcher is one Watch that runs. What the reader has not taken yet is merged.
type watcher struct {
	pending dataplane.Scope
	wake    chan struct{} // holds one
	broken  chan error    // holds one
}

// Watch is told what the world does within the domain of the last Observe,
// but sysctls, of which no kernel tells. Our own writes are not echoed.
func (k *Kernel) Watch(ctx context.Context, dirty chan<- dataplane.Scope) error {
	w := &watcher{wake: make(chan struct{}, 1), broken: make(chan error, 1)}
	w.add(dataplane.Scope{All: true})
	k.mu.Lock()
	k.watchers[w] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.watchers, w)
		k.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.broken:
			return err
		case <-w.wake:
		}
		k.mu.Lock()
		next := w.pending
		w.pending = dataplane.Scope{}
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.broken:
			return err
		case dirty <- next:
		}
	}
}

func (w *watcher) add(s dataplane.Scope) {
	w.pending.Add(s)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// BreakWatch makes every Watch that runs return err.
func (k *Kernel) BreakWatch(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.watchers {
		select {
		case w.broken <- err:
		default:
		}
	}
}

// Mute loses all notifications from now on, or no longer.
func (k *Kernel) Mute(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.muted = on
}

func (k *Kernel) notify(keys dataplane.State) {
	if k.applying || k.muted || keys.Len() == 0 {
		return
	}
	for w := range k.watchers {
		w.add(dataplane.Scope{Keys: keys})
	}
}

// tell reports an entry that stands on a link, if the link is ours.
func (k *Kernel) tell(i *iface, keys func(link string) dataplane.State) {
	if name, ours := k.wantedName(i); ours {
		k.notify(keys(name))
	}
}

func (k *Kernel) tellFDB(i *iface, m mac.Addr) {
	k.tell(i, func(link string) dataplane.State {
		return dataplane.State{FDB: map[dataplane.FDBKey]netip.Addr{{Link: link, MAC: m}: {}}}
	})
}

// tellLink reports a link that is ours or bears a name that we want: the
// kernel's one message for all that goes with it.
func (k *Kernel) tellLink(i *iface) {
	keys := dataplane.State{Links: map[string]dataplane.Link{}}
	if name, ours := k.wantedName(i); ours {
		keys.Links[name] = dataplane.Link{}
	}
	if _, wanted := k.domain.Links[i.name]; wanted || i.name == k.domain.Uplink {
		keys.Links[i.name] = dataplane.Link{}
	}
	k.notify(keys)
}

func (k *Kernel) tellRoute(key dataplane.RouteKey) {
	r, there := k.routes[key]
	through := false
	if i := k.ifaces[r.Link]; there && i != nil {
		_, through = k.wantedName(i)
	}
	if through || k.inNetworks(key.Prefix) {
		k.notify(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{key: {}}})
	}
}

func (k *Kernel) tellChains(keys ...ruleset.Key) {
	chains := map[ruleset.Key]ruleset.Chain{}
	for _, key := range keys {
		if k.ours(key) {
			chains[key] = ruleset.Chain{}
		}
	}
	k.notify(dataplane.State{Chains: chains})
}

// tellHost says that Facts are stale, if a link with an address that counts
// has changed: not one of ours, and not one that only pods are on.
func (k *Kernel) tellHost(i *iface) {
	for p := range i.addrs {
		if k.countsForHost(i, p) {
			k.stale()
			return
		}
	}
}

func (k *Kernel) countsForHost(i *iface, p netip.Prefix) bool {
	_, ours := k.wantedName(i)
	return !ours && p.Addr().IsGlobalUnicast() && !k.inNetworks(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
}

// tellPath says so of a route to everywhere or to a peer of the last Facts.
func (k *Kernel) tellPath(key dataplane.RouteKey) {
	leads := func(to netip.Addr) bool { return key.Prefix.Contains(to) }
	if key.Table == 0 && (key.Prefix.Bits() == 0 || slices.ContainsFunc(k.peers, leads)) {
		k.stale()
	}
}

func (k *Kernel) stale() {
	if k.applying || k.muted {
		return
	}
	for w := range k.watchers {
		w.add(dataplane.Scope{Facts: true})
	}
}
