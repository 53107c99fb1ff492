package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// The world of these tests: this node with both families' devices, and peers
// that are told apart by a number.

const (
	dev4 = "flannel.1"
	dev6 = "flannel-v6.1"
)

func addr(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

func prefix(format string, args ...any) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, args...))
}

func vtep(n int) mac.Addr { return mac.Addr{0x02, 0, 0, 0, byte(n >> 8), byte(n)} }

func device(local netip.Addr, mtu, n int) Link {
	return Link{VNI: 1, Port: 8472, Local: local, Parent: "eth0", MAC: vtep(n), MTU: mtu, Up: true}
}

// base is what this node wants without any peer.
func base() State {
	return State{
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
		Links:   map[string]Link{dev4: device(addr("192.168.77.1"), 1450, 1), dev6: device(addr("fd77::1"), 1430, 2)},
		Addrs:   map[AddrKey]struct{}{{dev4, prefix("10.42.1.0/32")}: {}, {dev6, prefix("fd00:42:0:1::/128")}: {}},
	}
}

// fragment is what one peer adds in both families: its pod subnets n, behind
// the VTEP with MAC number m.
func fragment(n, m int) State {
	net4, net6 := prefix("10.%d.%d.0/24", 42+n>>8, n&255), prefix("fd00:42:0:%x::/64", n)
	return State{
		FDB: map[FDBKey]netip.Addr{
			{dev4, vtep(m)}: addr("192.168.%d.%d", 77+n>>8, n&255),
			{dev6, vtep(m)}: addr("fd77::%x", n),
		},
		Neighs: map[NeighKey]mac.Addr{{dev4, net4.Addr()}: vtep(m), {dev6, net6.Addr()}: vtep(m)},
		Routes: map[RouteKey]Route{
			{Prefix: net4}:               {Via: net4.Addr(), Link: dev4, OnLink: true},
			{Prefix: net6, Metric: 1024}: {Via: net6.Addr(), Link: dev6, OnLink: true},
		},
	}
}

// union is a new state with the entries of all; later ones win.
func union(states ...State) State {
	var s State
	for _, o := range states {
		s.Merge(o)
	}
	return s
}

// world is the base and the peers with these numbers.
func world(peers ...int) State {
	s := base()
	for _, n := range peers {
		s.Merge(fragment(n, n))
	}
	return s
}

// relink is the state with one of its links changed.
func relink(s State, name string, change func(*Link)) State {
	s = union(s)
	l := s.Links[name]
	change(&l)
	s.Links[name] = l
	return s
}

func chainOf(verdict ruleset.Verdict) map[ruleset.Key]ruleset.Chain {
	key := ruleset.Key{Table: "weft", Chain: "forward"}
	rule := ruleset.Rule{Src: ruleset.Match{Prefix: prefix("10.42.0.0/16")}, Verdict: verdict}
	return map[ruleset.Key]ruleset.Chain{key: {Type: "filter", Hook: ruleset.Forward, Rules: []ruleset.Rule{rule}}}
}

// perform is the model of a kernel: what it holds after the op. It knows what
// a link takes along, and no more.
func perform(s *State, op Op) {
	rowOf(op.Kind).(interface{ perform(*State, Op) }).perform(s, op)
	if op.Kind != KindLink || op.Verb == Create {
		return
	}
	for _, r := range rows() {
		r.(interface{ sweep(*State, Op) }).sweep(s, op)
	}
}

func (t *table[K, V]) perform(s *State, op Op) {
	m := t.of(s)
	if op.Verb == Delete {
		delete(*m, op.Key.(K))
		return
	}
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[op.Key.(K)] = op.New.(V)
}

// sweep removes what a change or a deletion of a link takes along.
func (t *table[K, V]) sweep(s *State, op Op) {
	if t.link == nil {
		return
	}
	for k, v := range *t.of(s) {
		if t.link(k, v) != op.Key.(string) {
			continue
		}
		if op.Verb == Delete || t.flush(op.Old.(Link), op.New.(Link)) {
			delete(*t.of(s), k)
		}
	}
}

// thin drops and spoils entries of a state at random, the same ones for the
// same r; what stands on a link goes with it.
func thin(s State, r *rand.Rand) State {
	out := union(s)
	for _, op := range Diff(s, Observed{}).Ops {
		var scope Scope
		scope.AddOp(op)
		if out.Within(scope).Len() == 0 {
			continue // it went with its link
		}
		op.Old = op.New
		switch r.IntN(4) {
		case 0:
			op.Verb = Delete
			perform(&out, op)
		case 1:
			// Without what the kernel would flush: a link that was wrong from
			// the start has its entries all the same.
			op.Verb, op.New = Change, spoilt(op.New, r)
			rowOf(op.Kind).(interface{ perform(*State, Op) }).perform(&out, op)
		}
	}
	return out
}

// spoilt is a wrong value of the same type.
func spoilt(v any, r *rand.Rand) any {
	switch v := v.(type) {
	case string:
		return v + "0"
	case Link:
		switch r.IntN(3) {
		case 0:
			v.MAC = vtep(0xf000 + r.IntN(9))
		case 1:
			v.Port = 4789
		default:
			v.MTU--
		}
		return v
	case netip.Addr:
		return v.Next()
	case mac.Addr:
		return vtep(0xe000 + r.IntN(9))
	case Route:
		v.Unmarked = true
		return v
	}
	return v
}

// broken names the entries that lack what they stand on: a route its
// neighbour, a neighbour its FDB entry.
func broken(s State) map[string]bool {
	out := map[string]bool{}
	for k, v := range s.Routes {
		if _, ok := s.Neighs[NeighKey{v.Link, v.Via}]; v.OnLink && !ok {
			out["route "+k.String()] = true
		}
	}
	for k, v := range s.Neighs {
		if _, ok := s.FDB[FDBKey{k.Link, v}]; !ok {
			out["neigh "+k.String()] = true
		}
	}
	return out
}
