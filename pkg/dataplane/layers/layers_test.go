package layers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

const link = "flannel.1"

// peer is a fragment with the pod subnet of number n behind the VTEP of number m.
func peer(id string, n, m int) Fragment {
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(42 + n>>8), byte(n), 0}), 24)
	vtep := mac.Addr{0x02, 0, 0, byte(m >> 16), byte(m >> 8), byte(m)}
	public := netip.AddrFrom4([4]byte{192, 168, byte(m >> 8), byte(m)})
	return New(id, dataplane.State{
		FDB:    map[dataplane.FDBKey]netip.Addr{{Link: link, MAC: vtep}: public},
		Neighs: map[dataplane.NeighKey]mac.Addr{{Link: link, IP: subnet.Addr()}: vtep},
		Routes: map[dataplane.RouteKey]dataplane.Route{
			{Prefix: subnet}: {Via: subnet.Addr(), Link: link, OnLink: true},
		},
	})
}

func sysctl(id, key string) Fragment {
	return New(id, dataplane.State{Sysctls: map[string]string{key: "1"}})
}

var stateOptions = cmp.Options{
	cmpopts.EquateEmpty(),
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, dataplane.FDBKey{}, dataplane.NeighKey{},
		dataplane.RouteKey{}, dataplane.Route{}),
}

// step is one Set and what it must do.
type step struct {
	layer     string
	fragments []Fragment
	wanted    []Fragment // what the merged state consists of afterwards
	changed   []Fragment // whose keys the scope holds
	refused   []Refused
}

func TestSet(t *testing.T) {
	a, b, c := peer("a", 1, 1), peer("b", 2, 2), peer("c", 3, 3)
	bMoved := peer("b", 2, 20)
	sameMAC, sameSubnet := peer("clone", 4, 1), peer("thief", 1, 5)
	elder := peer("elder", 1, 9)
	greedy := peer("greedy", 2, 3) // b's subnet and c's MAC
	fwd, fwd2 := sysctl("base", "ip_forward"), sysctl("other", "ip_forward")
	cases := map[string][]step{
		"nothing in a new layer": {{"peers", nil, nil, nil, nil}},
		"first fragments":        {{"peers", []Fragment{a, b}, []Fragment{a, b}, []Fragment{a, b}, nil}},
		"one more at the end": {
			{"peers", []Fragment{a, b}, []Fragment{a, b}, []Fragment{a, b}, nil},
			{"peers", []Fragment{a, b, c}, []Fragment{a, b, c}, []Fragment{c}, nil},
		},
		"one more in the middle": {
			{"peers", []Fragment{a, c}, []Fragment{a, c}, []Fragment{a, c}, nil},
			{"peers", []Fragment{a, b, c}, []Fragment{a, b, c}, []Fragment{b}, nil},
		},
		"the same again changes nothing": {
			{"peers", []Fragment{a, b}, []Fragment{a, b}, []Fragment{a, b}, nil},
			{"peers", []Fragment{a, b}, []Fragment{a, b}, nil, nil},
		},
		"another order changes nothing": {
			{"peers", []Fragment{a, b, c}, []Fragment{a, b, c}, []Fragment{a, b, c}, nil},
			{"peers", []Fragment{c, a, b}, []Fragment{a, b, c}, nil, nil},
		},
		"replaced: old and new keys changed": {
			{"peers", []Fragment{a, b, c}, []Fragment{a, b, c}, []Fragment{a, b, c}, nil},
			{"peers", []Fragment{a, bMoved, c}, []Fragment{a, bMoved, c}, []Fragment{b, bMoved}, nil},
		},
		"removed": {
			{"peers", []Fragment{a, b, c}, []Fragment{a, b, c}, []Fragment{a, b, c}, nil},
			{"peers", []Fragment{a, c}, []Fragment{a, c}, []Fragment{b}, nil},
			{"peers", nil, nil, []Fragment{a, c}, nil},
		},
		"clone with a duplicate MAC waits until it may": {
			{"peers", []Fragment{a, sameMAC}, []Fragment{a}, []Fragment{a}, []Refused{
				{"peers", "clone", "a", "fdb 02:00:00:00:00:01 dev flannel.1"},
			}},
			{"peers", []Fragment{a, sameMAC, b}, []Fragment{a, b}, []Fragment{b}, []Refused{
				{"peers", "clone", "a", "fdb 02:00:00:00:00:01 dev flannel.1"},
			}},
			{"peers", []Fragment{sameMAC, b}, []Fragment{sameMAC, b}, []Fragment{a, sameMAC}, nil},
		},
		"one that comes first puts out a junior": {
			{"peers", []Fragment{a, b}, []Fragment{a, b}, []Fragment{a, b}, nil},
			{"peers", []Fragment{elder, a, b}, []Fragment{elder, b}, []Fragment{a, elder}, []Refused{
				{"peers", "a", "elder", "neigh 10.42.1.0 dev flannel.1"},
			}},
			{"peers", []Fragment{a, b}, []Fragment{a, b}, []Fragment{a, elder}, nil},
		},
		"a junior far behind makes room": {
			{"peers", []Fragment{b, c, a}, []Fragment{b, c, a}, []Fragment{a, b, c}, nil},
			{"peers", []Fragment{elder, b, c, a}, []Fragment{elder, b, c}, []Fragment{a, elder}, []Refused{
				{"peers", "a", "elder", "neigh 10.42.1.0 dev flannel.1"},
			}},
		},
		"one that meets a senior puts out nobody": {
			{"peers", []Fragment{b, c}, []Fragment{b, c}, []Fragment{b, c}, nil},
			{"peers", []Fragment{b, greedy, c}, []Fragment{b, c}, nil, []Refused{
				{"peers", "greedy", "b", "neigh 10.42.2.0 dev flannel.1"},
			}},
		},
		"one puts out two": {
			{"peers", []Fragment{b, c}, []Fragment{b, c}, []Fragment{b, c}, nil},
			{"peers", []Fragment{greedy, b, c}, []Fragment{greedy}, []Fragment{b, c, greedy}, []Refused{
				{"peers", "b", "greedy", "neigh 10.42.2.0 dev flannel.1"},
				{"peers", "c", "greedy", "fdb 02:00:00:00:00:03 dev flannel.1"},
			}},
		},
		"swapped seniority": {
			{"peers", []Fragment{a, sameSubnet}, []Fragment{a}, []Fragment{a}, []Refused{
				{"peers", "thief", "a", "neigh 10.42.1.0 dev flannel.1"},
			}},
			{"peers", []Fragment{sameSubnet, a}, []Fragment{sameSubnet}, []Fragment{a, sameSubnet}, []Refused{
				{"peers", "a", "thief", "neigh 10.42.1.0 dev flannel.1"},
			}},
		},
		"another layer's key is not taken": {
			{"base", []Fragment{fwd}, []Fragment{fwd}, []Fragment{fwd}, nil},
			{"rules", []Fragment{fwd2}, []Fragment{fwd}, nil, []Refused{
				{"rules", "other", "base", "sysctl ip_forward"},
			}},
			{"base", nil, nil, []Fragment{fwd}, nil},
			{"rules", []Fragment{fwd2}, []Fragment{fwd2}, []Fragment{fwd2}, nil},
		},
	}
	for name, steps := range cases {
		t.Run(name, func(t *testing.T) {
			var l Layers
			for i, s := range steps {
				scope, refused := l.Set(s.layer, s.fragments)
				if d := cmp.Diff(s.refused, refused); d != "" {
					t.Errorf("step %d: refused (-want +have):\n%s", i, d)
				}
				if d := cmp.Diff(union(s.wanted), l.Want(), stateOptions); d != "" {
					t.Errorf("step %d: merged (-want +have):\n%s", i, d)
				}
				if d := cmp.Diff(keysOf(union(s.changed)), keysOf(scope.Keys)); d != "" {
					t.Errorf("step %d: changed (-want +have):\n%s", i, d)
				}
			}
		})
	}
}

func TestSetKeepsNothingOfTheCallersSlice(t *testing.T) {
	var l Layers
	fragments := []Fragment{peer("a", 1, 1), peer("b", 2, 2)}
	l.Set("peers", fragments)
	want := union(fragments)
	fragments[0], fragments[1] = peer("x", 3, 3), peer("y", 4, 4)
	l.Set("peers", []Fragment{})
	if n := l.Want().Len(); n != 0 {
		t.Errorf("%d entries of %d are left after the layer was emptied", n, want.Len())
	}
}

func union(fragments []Fragment) dataplane.State {
	var s dataplane.State
	for _, f := range fragments {
		s.Merge(f.State())
	}
	return s
}

func keysOf(s dataplane.State) []string {
	keys := []string{}
	s.Keys(func(kind dataplane.Kind, key any) { keys = append(keys, fmt.Sprint(kind, " ", key)) })
	slices.Sort(keys)
	return keys
}

// Where very much changes, no keys are listed: everything has to be looked at.
func TestMassesAreNotListed(t *testing.T) {
	var l Layers
	many := make([]Fragment, mass+3)
	for i := range many {
		many[i] = peer(fmt.Sprint(i), i, i)
	}
	for _, step := range []struct {
		what string
		next []Fragment
		all  bool
	}{
		{"all come", many, true}, {"one goes", many[1:], false},
		{"the first is back as the last, and the second goes", append(slices.Clone(many[2:]), many[0]), false},
		{"the rest goes but one", many[:1], true},
	} {
		changed, refused := l.Set("peers", step.next)
		if changed.All != step.all || len(refused) > 0 {
			t.Errorf("%s: %t, %v", step.what, changed.All, refused)
		}
		if d := cmp.Diff(union(step.next), l.Want(), stateOptions); d != "" {
			t.Errorf("%s (-want +have):\n%s", step.what, d)
		}
	}
}
