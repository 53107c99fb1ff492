package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/masq"
	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/layers"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/subnet"
)

// The layers of a node, each with one source. The last holds no entries: it is
// Set when the store itself has said who our peers are, and until then the loop
// deletes nothing (what we know from the disk may be old).
const (
	layerBase      = "base"
	layerPeers     = "peers"
	layerRules     = "rules"
	layerTunnel    = "tunnel"
	layerConfirmed = "confirmed"
)

// suffixOf keeps our chains apart from others'. Two daemons for two networks
// share a host by their VNIs, and each takes everything out of its table that it
// doesn't want.
func suffixOf(base *dataplane.State) string {
	for _, l := range base.Links {
		if l.VNI > 1 { // 1 is the default
			return fmt.Sprintf("-%d", l.VNI)
		}
	}
	return ""
}

// pieces keeps the fragments of the last time, so that what did not change
// costs nothing: a fragment is made anew when its lease has another revision,
// all are when the host changed.
type pieces struct {
	host  backend.Host // what they were made for; Facts don't count
	base  []layers.Fragment
	links map[string]dataplane.Link // of base
	rules []layers.Fragment
	peers []piece           // of the admitted leases, in their order
	out   []layers.Fragment // that forPeers gave last; written over by the next
	// turnover is who came, changed and left since somebody asked.
	turnover turnover
	// retired are devices of configurations of before, see retire.
	retired  map[string]dataplane.Link
	door     door
	ways     ways     // of the last look at the host
	suffixes []string // of this configuration and of those before
	options  masq.Options
	// offloads are what devices shall do with checksums; those of base are made.
	offloads, made wishes
}

type piece struct {
	id       string // of the lease
	revision int64
	paths    *[2]dataplane.Route // to the peer; nil: none, or the backend uses none
	fragment layers.Fragment
	err      error
	since    int64 // Unix seconds: the lease counts since then
}

// stale is the revision of a piece that was made for another host.
const stale = -1

// is tells whether the piece was made of what is known of a lease now.
func (p *piece) is(l *subnet.Lease, facts dataplane.Facts) bool {
	switch {
	case p.revision != l.Revision || p.id != l.ID:
		return false
	case p.paths == nil || len(facts.Paths) == 0:
		return p.paths == nil && len(facts.Paths) == 0
	}
	return *p.paths == waysOf(facts, l)
}

// renew forgets everything if the host is not what it was, or other rules are
// wanted, and tells so.
func (p *pieces) renew(b backend.Backend, h backend.Host, rules masq.Options, hole bool) (bool, error) {
	if p.base != nil && p.offloads == p.made && sameHost(p.host, h) && reflect.DeepEqual(p.options, rules) {
		return false, nil
	}
	options := rules
	base, err := b.Base(h)
	if err != nil {
		return false, err
	}
	p.offloads.set(&base)
	rules.Suffix = suffixOf(&base)
	firewall := dataplane.State{Chains: masq.Chains(rules), Sysctls: masq.Sysctls(rules.Networks)}
	if hole {
		firewall.Routes = blackholes(rules.Subnets)
	}
	retired := map[string]dataplane.Link{}
	if p.base != nil {
		retired = retire(p.retired, p.links, base.Links)
	}
	suffixes := slices.Clone(p.suffixes)
	if !slices.Contains(suffixes, rules.Suffix) {
		suffixes = append(suffixes, rules.Suffix)
	}
	for i := range p.peers {
		p.peers[i].revision, p.peers[i].fragment = stale, layers.Fragment{}
	}
	p.door.renew(p.door.wish, &base, h)
	*p = pieces{
		peers:    p.peers,
		door:     p.door,
		ways:     p.ways,
		retired:  retired,
		suffixes: suffixes,
		options:  options,
		offloads: p.offloads,
		made:     p.offloads,

		host:  h,
		base:  []layers.Fragment{layers.New(layerBase, base)},
		links: base.Links,
		rules: []layers.Fragment{layers.New(layerRules, firewall)},
	}
	return true, nil
}

func sameHost(a, b backend.Host) bool {
	return string(a.Config.Raw) == string(b.Config.Raw) &&
		reflect.DeepEqual(a.Uplink, b.Uplink) &&
		a.Lease.ID == b.Lease.ID && reflect.DeepEqual(a.Lease.Shares, b.Lease.Shares)
}

// forPeers gives the fragments of the admitted peers, seniors first, and those
// that the backend can't make anything of. Of the facts only paths count. The
// fragments are good until the next call.
func (p *pieces) forPeers(
	b backend.Backend, facts dataplane.Facts, admitted []subnet.Lease, now time.Time,
) ([]layers.Fragment, []subnet.Skipped) {
	p.host.Facts = facts
	p.update(b, facts, admitted, now)
	p.out = slices.Grow(p.out[:0], len(admitted))
	var bad []subnet.Skipped
	for i := range p.peers {
		if got := &p.peers[i]; got.err != nil {
			bad = append(bad, skippedFor(admitted[i], got.err))
		} else {
			p.out = append(p.out, got.fragment)
		}
	}
	return p.out, bad
}

// update makes the pieces those of the admitted leases: it finds the part of the
// list that is not as it was, and looks at no other.
func (p *pieces) update(b backend.Backend, facts dataplane.Facts, admitted []subnet.Lease, now time.Time) {
	from, oldTo, newTo := 0, len(p.peers), len(admitted)
	for from < min(oldTo, newTo) && p.peers[from].is(&admitted[from], facts) {
		from++
	}
	for oldTo > from && newTo > from && p.peers[oldTo-1].is(&admitted[newTo-1], facts) {
		oldTo, newTo = oldTo-1, newTo-1
	}
	was := make(map[string]*piece, oldTo-from)
	for i := from; i < oldTo; i++ {
		was[p.peers[i].id] = &p.peers[i]
	}
	fresh := make([]piece, 0, newTo-from)
	var state dataplane.State // used again for each
	for i := from; i < newTo; i++ {
		l := &admitted[i]
		old := was[l.ID]
		delete(was, l.ID)
		if old != nil && old.is(l, facts) {
			fresh = append(fresh, *old)
			continue
		}
		got := piece{id: l.ID, revision: l.Revision, paths: pathsTo(facts, l), since: now.Unix()}
		p.turnover.note(old, l)
		if old != nil {
			got.since = old.since
		}
		state.Clear()
		if got.err = b.Peer(p.host, *l, &state); got.err == nil {
			p.door.admit(&state, l)
			p.ways.note(l)
			got.fragment = layers.New(l.ID, state)
		}
		fresh = append(fresh, got)
	}
	for id := range was {
		p.turnover.left.Note(id, "")
	}
	p.peers = slices.Replace(p.peers, from, oldTo, fresh...)
}

func skippedFor(l subnet.Lease, err error) subnet.Skipped {
	s := subnet.Skipped{ID: l.ID, Node: peerName(l), Field: "lease", Reason: err.Error()}
	var field *backend.FieldError
	if errors.As(err, &field) {
		s.Field, s.Reason = field.Field, field.Reason
	}
	return s
}

func peerName(l subnet.Lease) string {
	if l.Node != "" || len(l.Shares) == 0 {
		return l.Node
	}
	return l.Shares[0].Public.String()
}

// domainOf is what is ours on this host.
func (p *pieces) domainOf(h backend.Host) dataplane.Domain {
	d := dataplane.Domain{Links: map[string]dataplane.Link{}, Uplink: h.Uplink.Iface}
	for _, suffix := range p.suffixes {
		d.Tables = append(d.Tables, masq.Table(suffix))
		d.Chains = append(d.Chains, masq.Owned(suffix)...)
	}
	if !slices.Contains(p.suffixes, "") { // flannel has one name for all networks
		d.Leftovers = masq.Owned("")
	}
	for name, l := range p.links {
		d.Links[name] = dataplane.Link{VNI: l.VNI, Port: l.Port, Local: l.Local}
	}
	for name, l := range p.retired {
		d.Links[name] = l
	}
	for _, w := range h.Config.Networks {
		d.Networks = append(d.Networks, w.Prefix)
	}
	return d
}

// apply turns what is known into layers. It needs a lease of ours.
func (n *Node) apply(ctx context.Context) {
	h := n.host()
	if h.Lease.ID == "" || h.Uplink.Iface == "" || !n.fits(h.Config, h.Lease) {
		return
	}
	b, h, err := n.prepared(h)
	if err == nil {
		h, err = effectiveHost(h, b)
	}
	if err != nil {
		n.waitFor("backend", err)
		return
	}
	rules, why := n.ruleOptions(h)
	n.pieces.offloads = n.sums.wishes()
	anew, err := n.pieces.renew(b, h, rules, n.opts.Blackhole)
	if err != nil {
		n.waitFor("backend", err)
		return
	}
	ok, no := n.admit.Admit(h.Config, h.Lease, n.view.lingering.With(n.view.believed.Leases, time.Now()))
	facts, err := n.pathsOf(ctx, b, h.Config, ok)
	if err != nil {
		n.waitFor("host", err)
		return
	}
	if err := n.tasksFor(b, h, ok); err != nil {
		n.waitFor("backend", err)
		return
	}
	peers, bad := n.pieces.forPeers(b, facts, ok, time.Now())
	no = append(no, bad...)
	if n.newWays(ctx) { // what was decided is for another uplink; steer applies anew
		return
	}
	untrack, reason := tunnel.Untrack(n.opts.Tunnel.Untrack, n.view.facts.Firewall)
	door := n.pieces.door.fragments(n.view.confirmed, untrack)
	if anew {
		n.sums.stand(h.Uplink.Iface, n.pieces.links)
		n.logHost(h, b)
		n.tellEngine(why)
	}
	n.tellTunnel(untrack, reason)
	left := n.setLayers(anew, peers, door)
	for _, r := range left {
		no = append(no, subnet.Skipped{ID: r.ID, Field: r.Entry, Reason: "is held already by " + r.Holder})
	}
	if anew { // last, so that the first full round sees every layer
		n.loop.Own(n.pieces.domainOf(h))
	}
	n.logSkipped(no)
	n.tellPeers(no)
	if anew || len(no)+len(n.view.admitted.skipped) > 0 {
		n.probes.renew()
	}
	n.view.admitted = admitted{b, ok, no}
	n.updateStatus(func(s *Status) {
		s.fillPeers(h, b.MTU(h), len(peers)-len(left), no)
		s.Tunnel = n.tunnelStatus(untrack, reason)
		n.counting = tunnel.Counting(n.pieces.door.now)
		s.devices = slices.Sorted(maps.Keys(n.pieces.links))
		s.Rules = RulesStatus{why.String(), why.reason, why.warning}
	})
}

// setLayers gives what is wanted to the loop, all at once: rules that shut out whom no
// element lets in, and these elements. It gives the peers that were left out.
func (n *Node) setLayers(anew bool, peers, door []layers.Fragment) (left []layers.Refused) {
	next := []reconcile.Layer{{Name: layerPeers, Fragments: peers}, {Name: layerTunnel, Fragments: door}}
	if anew {
		base := []reconcile.Layer{
			{Name: layerBase, Fragments: n.pieces.base}, {Name: layerRules, Fragments: n.pieces.rules},
		}
		next = append(base, next...)
	}
	if n.view.confirmed {
		next = append(next, reconcile.Layer{Name: layerConfirmed})
	}
	for _, r := range n.loop.Set(next...) {
		if r.Layer == layerPeers {
			left = append(left, r)
			continue
		}
		n.refusedBase(r)
	}
	return left
}

func (n *Node) backend(cfg subnet.Config) (backend.Backend, error) {
	b, ok := n.opts.Backends[cfg.Backend]
	if !ok {
		return nil, refusedBackend(cfg.Backend, slices.Sorted(maps.Keys(n.opts.Backends)))
	}
	return b, nil
}

// ruleOptions are the rules that are wanted, and why in this engine.
func (n *Node) ruleOptions(h backend.Host) (masq.Options, engine) {
	var networks []netip.Prefix
	for _, w := range h.Config.Networks {
		networks = append(networks, w.Prefix)
	}
	firewall := n.view.facts.Firewall
	e := chooseEngine(h.Config.Engine, n.opts.Forward, networks, firewall)
	return masq.Options{
		Engine: e.Engine, Networks: networks, Subnets: subnetsOf(h.Lease),
		Masquerade: n.opts.Masquerade, Forward: n.opts.Forward,
		FullyRandom: n.opts.FullyRandom && (e.Engine == ruleset.NFTables || firewall.RandomFully),
	}, e
}

// tellEngine logs the choice of an engine, when it is another than before.
func (n *Node) tellEngine(e engine) {
	if e == n.told {
		return
	}
	n.told = e
	log := n.opts.Log.WithFields(logrus.Fields{"engine": e.String(), "reason": e.reason})
	if e.warning != "" {
		log.WithField("warning", e.warning).Warn("rules engine")
		return
	}
	log.Info("rules engine")
}

// refusedBase can't happen unless two layers of ours want one key: our bug.
func (n *Node) refusedBase(r layers.Refused) {
	n.opts.Log.WithFields(logrus.Fields{"layer": r.Layer, "entry": r.Entry, "holder": r.Holder}).
		Error("two parts of weft want one entry; please report this")
}

func (n *Node) logSkipped(no []subnet.Skipped) {
	for _, s := range no {
		n.once("skipped "+s.String(), func(log logrus.FieldLogger) {
			log.WithFields(logrus.Fields{"lease": s.ID, "peer": s.Node, "field": s.Field, "reason": s.Reason}).
				Warn("a peer is left out")
		})
	}
}

func (n *Node) logHost(h backend.Host, b backend.Backend) {
	warnings := slices.Clone(h.Config.Warnings)
	if w, ok := b.(backend.Warner); ok {
		warnings = append(warnings, w.Warnings(h.Config)...)
	}
	for _, w := range warnings {
		n.once("config "+w, func(log logrus.FieldLogger) { log.WithField("warning", w).Warn("network configuration") })
	}
	n.opts.Log.WithFields(logrus.Fields{
		"lease": h.Lease.ID, "backend": h.Config.Backend, "uplink": h.Uplink.Iface,
		"local": h.Uplink.Local, "public": h.Uplink.Public, "mtu": b.MTU(h),
	}).Info("node configured")
}
