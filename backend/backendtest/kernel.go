package backendtest

import (
	"maps"
	"math/rand/v2"
	"net/netip"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// merged puts fragments together.
func merged(parts []dataplane.State) dataplane.State {
	var s dataplane.State
	for _, p := range parts {
		s.Merge(p)
	}
	return s
}

func clone(s dataplane.State) dataplane.State { return merged([]dataplane.State{s}) }

// text lists a state in a fixed order.
func text(s dataplane.State) string { return dataplane.Diff(s, dataplane.Observed{}).String() }

// perform does to the state what the kernel would do.
func perform(s *dataplane.State, op dataplane.Op) {
	write(s, op)
	if op.Kind == dataplane.KindLink && op.Verb != dataplane.Create {
		flush(s, op.Key.(string), op)
	}
}

// write does the op alone.
func write(s *dataplane.State, op dataplane.Op) {
	switch key := op.Key.(type) {
	case string:
		if op.Kind == dataplane.KindSysctl {
			put(&s.Sysctls, key, op)
			return
		}
		put(&s.Links, key, op)
	case dataplane.AddrKey:
		put(&s.Addrs, key, op)
	case dataplane.FDBKey:
		put(&s.FDB, key, op)
	case dataplane.NeighKey:
		put(&s.Neighs, key, op)
	case dataplane.RouteKey:
		put(&s.Routes, key, op)
	case ruleset.Key:
		put(&s.Chains, key, op)
	default:
		panic("an op of a kind that backendtest does not know: " + op.Entry())
	}
}

func put[K comparable, V any](m *map[K]V, key K, op dataplane.Op) {
	if op.Verb == dataplane.Delete {
		delete(*m, key)
		return
	}
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = op.New.(V)
}

// flush: a link takes its entries along, and its static neighbours already
// when its MAC changes.
func flush(s *dataplane.State, name string, op dataplane.Op) {
	gone := op.Verb == dataplane.Delete
	if gone || op.Old.(dataplane.Link).MAC != op.New.(dataplane.Link).MAC {
		maps.DeleteFunc(s.Neighs, func(k dataplane.NeighKey, _ mac.Addr) bool { return k.Link == name })
	}
	if gone {
		maps.DeleteFunc(s.Addrs, func(k dataplane.AddrKey, _ struct{}) bool { return k.Link == name })
		maps.DeleteFunc(s.FDB, func(k dataplane.FDBKey, _ netip.Addr) bool { return k.Link == name })
		maps.DeleteFunc(s.Routes, func(_ dataplane.RouteKey, v dataplane.Route) bool { return v.Link == name })
	}
}

// holes names what lacks something below it: a route through a gateway on a
// link of its own (onlink) its neighbour, a neighbour on one of our devices
// its FDB entry.
func holes(s dataplane.State) map[string]bool {
	out := map[string]bool{}
	for k, v := range s.Routes {
		if _, ok := s.Neighs[dataplane.NeighKey{Link: v.Link, IP: v.Via}]; v.OnLink && !ok {
			out["route "+k.String()+" without its neighbour"] = true
		}
	}
	for k, v := range s.Neighs {
		_, device := s.Links[k.Link]
		if _, ok := s.FDB[dataplane.FDBKey{Link: k.Link, MAC: v}]; device && !ok {
			out["neighbour "+k.String()+" without its FDB entry"] = true
		}
	}
	return out
}

// spoilt drops and changes entries at random, the same ones for the same r.
func spoilt(s dataplane.State, r *rand.Rand) dataplane.State {
	for _, op := range dataplane.Diff(s, dataplane.Observed{}).Ops {
		var scope dataplane.Scope
		scope.AddOp(op)
		if s.Within(scope).Len() == 0 {
			continue // it went with its link
		}
		op.Old = op.New
		switch r.IntN(4) {
		case 0:
			op.Verb = dataplane.Delete
			perform(&s, op)
		case 1:
			// Without what the kernel would flush: a link that was wrong from
			// the start has its entries all the same.
			op.Verb, op.New = dataplane.Change, other(op.New)
			write(&s, op)
		}
	}
	return s
}

// other is a wrong value of the same type.
func other(v any) any {
	switch v := v.(type) {
	case string:
		return v + "0"
	case dataplane.Link:
		v.MAC[5] ^= 0xff
		v.MTU--
		return v
	case netip.Addr:
		return v.Next()
	case mac.Addr:
		v[5] ^= 0xff
		return v
	case dataplane.Route:
		v.Unmarked = true
		return v
	case ruleset.Chain:
		v.Rules = nil
		return v
	}
	return v // an address has no value to be wrong
}
