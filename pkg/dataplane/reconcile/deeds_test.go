package reconcile_test

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// deed is something that may happen to a node at any moment.
type deed struct {
	name string
	do   func()
}

func (o *ordeal) deeds() []deed {
	told := slices.Concat(o.ourDeeds(), o.theirDeeds(), o.linkDeeds(), o.hostDeeds())
	if o.audit == day {
		return told
	}
	return append(told, o.untoldDeeds()...)
}

// untoldDeeds are those that only an audit finds.
func (o *ordeal) untoldDeeds() []deed {
	return []deed{
		{"notifications get lost", func() { o.k.Mute(true) }},
		{"notifications come again", func() { o.k.Mute(false) }},
		{"forwarding off", func() {
			o.do(o.k.Put, dataplane.State{Sysctls: map[string]string{"net/ipv4/ip_forward": "0"}})
		}},
	}
}

// ourDeeds are what we want, and lives of the process.
func (o *ordeal) ourDeeds() []deed {
	set := func() { o.life.Set(reconcile.Layer{Name: "peers", Fragments: fragments(o.peers...)}) }
	restart := func() {
		o.life.end()
		o.reads, o.writes = o.reads+o.k.Reads(), o.writes+o.k.Writes()
		o.k = o.k.Restarted()
		o.begin()
	}
	return []deed{
		{"other peers", func() { o.peers = o.somePeers(); set() }},
		{"one peer more or less", func() {
			n := o.anyPeer()
			if at := slices.Index(o.peers, n); at >= 0 {
				o.peers = slices.Delete(slices.Clone(o.peers), at, at+1)
			} else {
				o.peers = append(slices.Clone(o.peers), n)
			}
			set()
		}},
		{"restart", restart},
		{"kill -9 amid a plan", func() {
			o.k.CrashAfter(o.dice.IntN(6))
			o.peers = o.somePeers()
			set()
			pass(time.Millisecond)
			restart()
		}},
		{"the watch breaks", func() { o.k.BreakWatch(errRefused) }},
	}
}

// theirDeeds are what somebody does to entries on our links.
func (o *ordeal) theirDeeds() []deed {
	return []deed{
		{"entries deleted", func() {
			s := o.some(peer(o.anyPeer()))
			delete(s.Routes, devices()[0].routeKey(contested)) // not ours
			o.do(o.k.Delete, s)
		}},
		{"a stray peer", func() {
			s := o.some(peer(200 + o.anyPeer()))
			s.Routes = nil // a route without our mark may stay
			o.do(o.k.Put, s)
		}},
		{"an entry leads elsewhere", func() {
			s := o.some(peer(o.anyPeer()))
			s.Routes = nil
			for key := range s.FDB {
				s.FDB[key] = s.FDB[key].Next()
			}
			for key := range s.Neighs {
				s.Neighs[key] = mac.Addr{2, 9, 9, 9, 9, 9}
			}
			o.do(o.k.Put, s)
		}},
		{"a route in place of ours", func() {
			n := o.anyPeer()
			if n == contested {
				return
			}
			key, r := o.device().routeKey(n), dataplane.Route{Link: "other.7"}
			o.usurpers[key] = r
			o.do(o.k.Put, dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{key: r}})
		}},
		{"a foreign address of the cluster's", func() {
			d := o.device()
			a := d.subnet(77).Addr()
			key := dataplane.AddrKey{Link: d.name, Prefix: netip.PrefixFrom(a, a.BitLen())}
			o.do(o.k.Put, dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{key: {}}})
		}},
		{"an address deleted", func() {
			d := o.device()
			a := d.subnet(1).Addr()
			key := dataplane.AddrKey{Link: d.name, Prefix: netip.PrefixFrom(a, a.BitLen())}
			o.do(o.k.Delete, dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{key: {}}})
		}},
		{"a rule dropped", func() { o.do(func(dataplane.State) error { return o.k.DropRule(o.chain(), 0) }, dataplane.State{}) }},
		{"a rule inserted", func() { o.k.InsertRule(o.chain()) }},
		{"our table deleted", func() { o.k.DeleteTable(o.chain()) }},
	}
}

func (o *ordeal) chain() ruleset.Key {
	return ruleset.Key{IPv6: o.dice.IntN(2) == 0, Table: "weft", Chain: "forward"}
}

// linkDeeds are about our devices.
func (o *ordeal) linkDeeds() []deed {
	change := func(f func(*dataplane.Link)) func() {
		return func() {
			d := o.device()
			l := d.link
			f(&l)
			// Put would make what is not there, as nobody does by hand.
			if strings.Contains(o.k.Dump(), "link "+d.name+" ") {
				o.do(o.k.Put, dataplane.State{Links: map[string]dataplane.Link{d.name: l}})
			}
		}
	}
	return []deed{
		{"a device deleted", func() {
			o.do(o.k.Delete, dataplane.State{Links: map[string]dataplane.Link{o.device().name: {}}})
		}},
		{"a device down", change(func(l *dataplane.Link) { l.Up = false })},
		{"a device's MTU", change(func(l *dataplane.Link) { l.MTU -= 100 })},
		{"a device's MAC", change(func(l *dataplane.Link) { l.MAC[5] = 0x99 })},
		{"a device's local address", change(func(l *dataplane.Link) { l.Local = l.Local.Next() })},
		{"a device renamed", func() {
			d := o.device()
			o.do(func(dataplane.State) error { return o.k.Rename(d.name, "was-"+d.name[:9]) }, dataplane.State{})
		}},
	}
}

// hostDeeds are about what is none of ours.
func (o *ordeal) hostDeeds() []deed {
	foreign := func(n int) (dataplane.RouteKey, dataplane.Route) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(n), 0}), 24)
		return dataplane.RouteKey{Prefix: p}, dataplane.Route{Link: "other.7"}
	}
	return []deed{
		{"the uplink deleted and made anew", func() {
			up := uplinkState()
			o.do(o.k.Delete, dataplane.State{Links: up.Links})
			pass(time.Duration(o.dice.IntN(3)) * 100 * time.Millisecond)
			must(o.t, o.k.Put(up))
			must(o.t, o.k.Put(dataplane.State{ // what stood on it and is not ours
				Neighs: map[dataplane.NeighKey]mac.Addr{{Link: "up0", IP: netip.MustParseAddr("192.0.2.9")}: {2, 7, 2}},
				Routes: map[dataplane.RouteKey]dataplane.Route{
					{Prefix: netip.MustParsePrefix("10.42.2.0/24"), Table: 77}: {Link: "up0"},
				},
			}))
		}},
		{"foreign routes come", func() {
			for n := range 8 {
				key, r := foreign(o.dice.IntN(32) + n)
				o.foreign.Routes[key] = r
			}
			must(o.t, o.k.Put(o.foreign))
		}},
		{"foreign routes go", func() {
			gone := dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{}}
			for _, key := range sorted(maps.Keys(o.foreign.Routes)) {
				if o.dice.IntN(2) == 0 {
					gone.Routes[key] = o.foreign.Routes[key]
					delete(o.foreign.Routes, key)
				}
			}
			must(o.t, o.k.Delete(gone))
		}},
		{"default route flaps", func() {
			key := dataplane.RouteKey{Prefix: netip.MustParsePrefix("0.0.0.0/0")}
			s := dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
				key: {Via: netip.MustParseAddr("192.0.2.254"), Link: "up0"},
			}}
			must(o.t, o.k.Put(s))
			must(o.t, o.k.Delete(s))
		}},
	}
}

// sorted makes the order of a map's keys one that the seed decides about.
func sorted[K fmt.Stringer](keys iter.Seq[K]) []K {
	return slices.SortedFunc(keys, func(a, b K) int { return strings.Compare(a.String(), b.String()) })
}
