package dataplane

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithin(t *testing.T) {
	s := world(2, 3)
	cases := map[string]struct {
		scope Scope
		want  State
	}{
		"all":     {Scope{All: true, Keys: fragment(2, 2)}, s},
		"nothing": {Scope{}, State{}},
		"keys of one peer, values don't matter": {
			Scope{Keys: fragment(2, 2)},
			fragment(2, 2),
		},
		"keys that are not there": {Scope{Keys: fragment(9, 9)}, State{}},
		"a link with all that stands on it": {
			Scope{Keys: State{Links: map[string]Link{dev4: {}}}},
			one(2, 3),
		},
		"a link and a key elsewhere": {
			Scope{Keys: State{Links: map[string]Link{dev4: {}}, Sysctls: map[string]string{"net/ipv4/ip_forward": ""}}},
			union(one(2, 3), State{Sysctls: s.Sysctls}),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, s.Within(c.scope), stateOptions); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMergeAndRemove(t *testing.T) {
	var s State
	s.Merge(fragment(2, 2))
	s.Merge(fragment(3, 3))
	if have := s.Len(); have != 12 {
		t.Errorf("two peers in two families: %d entries, want 12", have)
	}
	if !s.Overlaps(fragment(3, 9)) || s.Overlaps(fragment(4, 4)) {
		t.Error("Overlaps: peer 3 has its keys here, peer 4 has not")
	}
	part := fragment(3, 3)
	s.Merge(fragment(3, 4)) // the later one's values win
	if d := cmp.Diff(union(fragment(2, 2), part, fragment(3, 4)), s, stateOptions); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(fragment(3, 3), part, stateOptions); d != "" {
		t.Errorf("merging changed its argument:\n%s", d)
	}
	s.Remove(fragment(3, 3))
	s.Remove(fragment(3, 4))
	if d := cmp.Diff(fragment(2, 2), s, stateOptions); d != "" {
		t.Error(d)
	}
}

func TestMergeDoesNotShareMaps(t *testing.T) {
	from := fragment(2, 2)
	var s State
	s.Merge(from)
	s.Remove(from)
	if from.Len() != 6 {
		t.Error("removing from the merged state emptied the one that was merged")
	}
}

func TestScopeGrows(t *testing.T) {
	route := Op{
		Verb: Create, Kind: KindRoute, Key: RouteKey{Prefix: prefix("10.42.2.0/24")},
		New: Route{Via: addr("10.42.2.0"), Link: dev4},
	}
	var s Scope
	if !s.Empty() {
		t.Fatal("the zero scope asks for nothing")
	}
	s.AddOp(route)
	s.Add(Scope{Keys: State{Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}}})
	if s.Empty() || s.Keys.Len() != 2 {
		t.Fatalf("a route and a sysctl: %d keys", s.Keys.Len())
	}
	s.AddLinkOf(route)
	if _, ok := s.Keys.Links[dev4]; !ok {
		t.Error("the route's link is not in the scope")
	}
	s.AddLinkOf(Op{Verb: Create, Kind: KindSysctl, Key: "net/ipv4/ip_forward", New: "1"})
	if len(s.Keys.Links) != 1 {
		t.Error("a sysctl stands on no link")
	}
	s.Add(Scope{All: true})
	if !s.All || s.Keys.Len() != 0 {
		t.Error("all: keys don't matter any more")
	}
	s.AddOp(route)
	s.AddLinkOf(route)
	if s.Keys.Len() != 0 {
		t.Error("a scope of all gathers no keys")
	}
}

func TestRouteThatMovesHasBothLinksInScope(t *testing.T) {
	var s Scope
	s.AddLinkOf(Op{
		Verb: Change, Kind: KindRoute, Key: RouteKey{Prefix: prefix("10.42.2.0/24")},
		Old: Route{Link: "eth0"}, New: Route{Link: dev4},
	})
	if d := cmp.Diff(map[string]Link{"eth0": {}, dev4: {}}, s.Keys.Links, stateOptions); d != "" {
		t.Error(d)
	}
}

func TestScopeNamesSomeWriters(t *testing.T) {
	key := func(n int) State {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(n), 0}), 24)
		return State{Routes: map[RouteKey]Route{{Prefix: p}: {}}}
	}
	var all Scope
	for n := range 200 {
		one := Scope{Keys: key(n)}
		one.Name("him")
		all.Add(one)
	}
	first := Scope{Keys: key(0), All: true}
	first.Name("her")
	all.Add(first)
	w := all.Writers
	if n := len(w); n != 64 || w["route 10.42.0.0/24"] != "her" || w["route 10.42.1.0/24"] != "him" {
		t.Errorf("%d writers: %v", n, all.Writers)
	}
	var whole Scope
	for n := range 200 {
		whole.Keys.Merge(key(n))
	}
	if whole.Name("him"); whole.Writers != nil {
		t.Errorf("of a flushed table: %v", whole.Writers)
	}
}

// Len names each kind by itself: a new one must not be forgotten there.
func TestLenCountsEveryKind(t *testing.T) {
	var s State
	kinds := reflect.ValueOf(&s).Elem()
	for i := range kinds.NumField() {
		m := reflect.MakeMap(kinds.Type().Field(i).Type)
		m.SetMapIndex(reflect.Zero(m.Type().Key()), reflect.Zero(m.Type().Elem()))
		kinds.Field(i).Set(m)
	}
	if n := s.Len(); n != kinds.NumField() || n != len(rows()) {
		t.Errorf("%d entries, one of each of %d kinds, in %d tables", n, kinds.NumField(), len(rows()))
	}
	s.Clear()
	if n := s.Len(); n != 0 {
		t.Errorf("%d entries after Clear", n)
	}
}
