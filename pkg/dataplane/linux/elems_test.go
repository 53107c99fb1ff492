package linux_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// crowd is two elements for each of so many peers, in both families: more than one
// message holds, and than an attribute of 64 KiB.
func crowd(peers int) dataplane.State {
	s := dataplane.State{Elems: map[ruleset.Elem]struct{}{}}
	for n := range peers {
		for _, v := range []struct{ vtep, inner string }{{"172.16.0.0", "10.0.0.0"}, {"fd77::", "fd00:42::"}} {
			vtep, inner := nth(v.vtep, n), nth(v.inner, n)
			all := ruleset.Set{IPv6: vtep.Is6(), Bits: vtep.BitLen(), Table: "weft"}
			s.Elems[ruleset.Elem{Set: all, VTEP: vtep, Inner: vtep}] = struct{}{}
			all.Bits -= 8
			s.Elems[ruleset.Elem{Set: all, VTEP: vtep, Inner: inner}] = struct{}{}
		}
	}
	return s
}

func nth(first string, n int) netip.Addr {
	b := netip.MustParseAddr(first).AsSlice()
	binary.BigEndian.PutUint32(b[len(b)-4:], binary.BigEndian.Uint32(b[len(b)-4:])+uint32(n)<<8)
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestCrowdOfElements(t *testing.T) {
	h := newHost(t)
	before := h.admin.Dump()
	h.settle(crowd(5000))
	h.settle(crowd(2500))
	some := crowd(2501)
	narrow := h.observe(scope(false, some))
	if len(narrow.Have.Elems) != 4*2500 {
		t.Errorf("a look at %d elements finds %d", len(some.Elems), len(narrow.Have.Elems))
	}
	// What is gone meanwhile, and what stays, of what is to be deleted at once.
	p := h.plan(crowd(1))
	h.admin.Delete(dataplane.State{Elems: map[ruleset.Elem]struct{}{p.Ops[7].Key.(ruleset.Elem): {}}})
	for _, err := range h.Apply(t.Context(), p) {
		t.Error(err)
	}
	h.settle(crowd(1))
	h.settle(dataplane.State{})
	h.same(before, h.admin.Dump())
	f := newFirewall(t, h.ns)
	if tables, err := f.ListTables(); err != nil || len(tables) > 0 {
		t.Errorf("left behind: %d tables, %v", len(tables), err)
	}
}

// A set of our name that is something else is nobody's to be written over.
func TestForeignSetInTheWay(t *testing.T) {
	h := newHost(t)
	f := newFirewall(t, h.ns)
	f.addOtherSet("weft", "vteps")
	want := crowd(1)
	failed := h.Apply(t.Context(), h.plan(want))
	if len(failed) != 1 || !strings.Contains(failed[0].Error(), "nft delete set ip weft vteps") {
		t.Errorf("want one refusal, of an element of that set: %v", failed)
	}
}

// Rules of a node look into sets that nothing was ever in, or that somebody has
// emptied: they go with the rules.
func TestEmptySetsGoWithTheRules(t *testing.T) {
	key := ruleset.Key{Table: "weft", Chain: "tunnel-prerouting"}
	for name, elems := range map[string]dataplane.State{"no peer": {}, "emptied": crowd(1)} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			want := elems
			want.Chains = map[ruleset.Key]ruleset.Chain{key: {
				Type: "filter", Hook: ruleset.Prerouting, Priority: -310, Rules: []ruleset.Rule{
					{Tunnel: ruleset.Tunnel{Port: 8472, Pair: ruleset.FromInside, Bits: 24}, Verdict: ruleset.Return},
				},
			}}
			h.settle(want)
			if len(elems.Elems) > 0 {
				h.ns.Exec("nft", "flush set ip weft vteps; flush set ip weft inner24")
			}
			h.settle(dataplane.State{})
			f := newFirewall(t, h.ns)
			if tables, err := f.ListTables(); err != nil || len(tables) > 0 {
				t.Errorf("left behind: %d tables, %v", len(tables), err)
			}
		})
	}
}
