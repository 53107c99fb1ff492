package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/golden"
)

func TestClaim(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	device := func(index int, name string, v vxlan) link { return link{index: index, name: name, vxlan: &v} }
	both := map[string]dataplane.Link{
		"flannel.1": {VNI: 1, Port: 8472, Local: v4}, "flannel-v6.1": {VNI: 1, Port: 8472, Local: v6},
	}
	nameless := map[string]dataplane.Link{"flannel.1": {VNI: 1, Port: 8472}, "flannel-v6.1": {VNI: 1, Port: 8472}}
	tests := map[string]struct {
		wanted  map[string]dataplane.Link
		devices []link
		want    map[string]int
	}{
		"by name and identity": {both, []link{
			device(5, "flannel.1", vxlan{vni: 1, port: 8472, local: v4}),
			device(6, "flannel-v6.1", vxlan{vni: 1, port: 8472, local: v6}),
		}, map[string]int{"flannel.1": 5, "flannel-v6.1": 6}},
		"renamed, told apart by family": {both, []link{
			device(5, "a", vxlan{vni: 1, port: 8472, local: v6}),
			device(6, "b", vxlan{vni: 1, port: 8472, local: v4}),
		}, map[string]int{"flannel.1": 6, "flannel-v6.1": 5}},
		"one renamed, families not known": {nameless, []link{
			device(5, "elsewhere", vxlan{vni: 1, port: 8472, local: v6}),
			device(6, "flannel.1", vxlan{vni: 1, port: 8472, local: v4}),
		}, map[string]int{"flannel.1": 6, "flannel-v6.1": 5}},
		"another port under our name and VNI": {both, []link{
			device(5, "flannel.1", vxlan{vni: 1, port: 4789, local: v4}),
		}, map[string]int{"flannel.1": 5}},
		"identity goes before name": {both, []link{
			device(5, "flannel.1", vxlan{vni: 1, port: 4789, local: v4}),
			device(6, "elsewhere", vxlan{vni: 1, port: 8472, local: v4}),
		}, map[string]int{"flannel.1": 6}},
		"another VNI under our name": {both, []link{
			device(5, "flannel.1", vxlan{vni: 2, port: 8472, local: v4}),
		}, map[string]int{}},
		"an external device has no VNI of its own": {map[string]dataplane.Link{"x": {Port: 8472}}, []link{
			device(5, "x", vxlan{port: 8472, external: true}),
		}, map[string]int{}},
		"without a local address it is of either family": {both, []link{
			device(5, "elsewhere", vxlan{vni: 1, port: 8472}),
		}, map[string]int{"flannel-v6.1": 5}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			have := map[string]int{}
			for wanted, l := range claim(test.wanted, test.devices) {
				have[wanted] = l.index
			}
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	key := func(prefix string, metric, table int) dataplane.RouteKey {
		return dataplane.RouteKey{Prefix: netip.MustParsePrefix(prefix), Metric: metric, Table: table}
	}
	asked := key("10.42.1.0/24", 100, 0)
	tests := map[string]struct {
		answer route
		want   verdict
	}{
		"the very key":                        {route{key: asked}, found},
		"a shorter prefix: there is no other": {route{key: key("0.0.0.0/0", 0, 0)}, absent},
		"only a higher metric":                {route{key: key("10.42.1.0/24", 200, 0)}, absent},
		"a lower metric hides it":             {route{key: key("10.42.1.0/24", 0, 0)}, unsure},
		"a longer prefix hides it":            {route{key: key("10.42.1.0/32", 0, 0)}, unsure},
		"another table came first":            {route{key: key("10.42.1.0/24", 100, 255)}, unsure},
		"a route for one type of service":     {route{key: asked, other: true}, unsure},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if have := judge(asked, test.answer); have != test.want {
				t.Errorf("want %d, have %d", test.want, have)
			}
		})
	}
}

func TestRanked(t *testing.T) {
	const permanent = unix.IFA_F_PERMANENT
	at := func(index int, prefix string, flags uint32) address {
		return address{index: index, prefix: netip.MustParsePrefix(prefix), flags: flags}
	}
	have := ranked(2, []address{
		at(2, "fe80::1/64", permanent),
		at(2, "2001:db8::5/64", unix.IFA_F_TEMPORARY),
		at(2, "2001:db8::4/64", 0),
		at(2, "2001:db8::d/64", permanent|unix.IFA_F_DEPRECATED),
		at(2, "2001:db8::f/64", permanent|unix.IFA_F_DADFAILED),
		at(3, "2001:db8:3::1/64", permanent),
		at(2, "2001:db8::1/64", permanent),
		at(2, "192.0.2.2/24", permanent|unix.IFA_F_SECONDARY),
		at(2, "192.0.2.9/24", 0),
	})
	var text []string
	for _, p := range have {
		text = append(text, p.String())
	}
	want := []string{
		"2001:db8::1/64", "192.0.2.2/24", "2001:db8::4/64", "192.0.2.9/24", "2001:db8::5/64", "fe80::1/64",
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// sampleRules have every match and verdict.
func sampleRules() map[nftables.TableFamily][]ruleset.Rule {
	out := map[nftables.TableFamily][]ruleset.Rule{}
	for f, nets := range map[nftables.TableFamily][3]string{
		nftables.TableFamilyIPv4: {"10.42.0.0/16", "10.42.7.0/25", "224.0.0.0/4"},
		nftables.TableFamilyIPv6: {"fd00:42::/48", "fd00:42:0:7::/65", "ff00::/8"},
	} {
		p := func(i int) netip.Prefix { return netip.MustParsePrefix(nets[i]) }
		out[f] = []ruleset.Rule{
			{Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: "marked by kube-proxy"},
			{Src: ruleset.Match{Prefix: p(1)}, Dst: ruleset.Match{Prefix: p(0)}, Verdict: ruleset.Accept},
			{Src: ruleset.Match{Prefix: p(0)}, Dst: ruleset.Match{Prefix: p(2), Not: true},
				Verdict: ruleset.MasqueradeFullyRandom, Comment: "to the world"},
			{Src: ruleset.Match{Prefix: p(0), Not: true}, Mark: 1, Mask: 0xff, Verdict: ruleset.Masquerade},
			{Verdict: ruleset.Drop},
		}
	}
	return out
}

// The golden file is what `nft --debug=netlink` would print for the rules.
func TestExpressionsGolden(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("marks are in the order of the machine, and the golden file is of a little-endian one")
	}
	var b strings.Builder
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		for _, r := range sampleRules()[f] {
			fmt.Fprintf(&b, "%s\n", r)
			exprs, err := expressions(f, r)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range exprs {
				fmt.Fprintf(&b, "  %s\n", exprLine(e))
			}
		}
	}
	golden.Check(t, "expressions", b.String())
}

func exprLine(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Meta:
		return fmt.Sprintf("[ meta load key %d => reg %d ]", e.Key, e.Register)
	case *expr.Payload:
		return fmt.Sprintf("[ payload load %db @ base %d + %d => reg %d ]", e.Len, e.Base, e.Offset, e.DestRegister)
	case *expr.Bitwise:
		return fmt.Sprintf("[ bitwise reg %d = ( reg %d & %x ) ^ %x ]", e.DestRegister, e.SourceRegister, e.Mask, e.Xor)
	case *expr.Cmp:
		return fmt.Sprintf("[ cmp op %d reg %d %x ]", e.Op, e.Register, e.Data)
	case *expr.Verdict:
		return fmt.Sprintf("[ verdict %d ]", e.Kind)
	case *expr.Masq:
		return fmt.Sprintf("[ masq fully-random %t ]", e.FullyRandom)
	}
	return fmt.Sprintf("%T", e)
}

func TestRulesThatCantBeWritten(t *testing.T) {
	v6 := ruleset.Match{Prefix: netip.MustParsePrefix("fd00::/8")}
	if _, err := expressions(nftables.TableFamilyIPv4, ruleset.Rule{Src: v6, Verdict: ruleset.Accept}); err == nil {
		t.Error("an IPv6 prefix went into a table of IPv4")
	}
	if _, err := expressions(nftables.TableFamilyIPv4, ruleset.Rule{Verdict: ruleset.Unknown}); err == nil {
		t.Error("an unknown verdict was written")
	}
	if _, err := encodeRule(ruleset.Rule{Comment: strings.Repeat("x", 128)}); err == nil {
		t.Error("nft would cut the comment off")
	}
}

func TestUserDataRoundTrip(t *testing.T) {
	for _, rules := range sampleRules() {
		for _, r := range rules {
			b, err := encodeRule(r)
			if err != nil {
				t.Fatal(err)
			}
			have, err := decodeRule(b)
			if err != nil || have != r {
				t.Errorf("want %s, have %s (%v)", r, have, err)
			}
		}
	}
}

// What is decoded must survive another round: one rule has one meaning.
func FuzzDecodeRule(f *testing.F) {
	for _, rules := range sampleRules() {
		for _, r := range rules {
			b, err := encodeRule(r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte{0, 3, 'a', 'b', 0})
	f.Add([]byte{0, 200, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRule(b)
		if err != nil {
			if !errors.Is(err, errUserData) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeRule(r)
		if err != nil {
			return // a comment longer than we write
		}
		if have, err := decodeRule(again); err != nil || have != r {
			t.Errorf("want %s, have %s (%v)", r, have, err)
		}
	})
}

// The parsers of what the kernel sends must stand anything.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add(append(make([]byte, 12), 8, 0, 4, 0, 1, 0, 0, 0, 20, 0, 9, 0, 16, 0, 0, 0, 5, 0, 0, 0, 8, 0, 5, 0, 1, 2, 3, 4))
	f.Add(append([]byte{2, 24, 0, 0, 254, 83, 0, 1, 0, 0, 0, 0},
		8, 0, 1, 0, 10, 42, 1, 0, 12, 0, 9, 0, 255, 255, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		for m := range messages(b) {
			_ = m.failure()
		}
		if r, ok := parseRoute(b); ok && !r.key.Prefix.IsValid() {
			t.Errorf("an invalid prefix: %+v", r)
		}
		if a, ok := parseAddress(b); ok && !a.prefix.IsValid() {
			t.Errorf("an invalid prefix: %+v", a)
		}
		if n, ok := parseNeighbour(b); ok && n.family != unix.AF_BRIDGE && n.permanent() && !n.ip.IsValid() {
			t.Errorf("a neighbour without address: %+v", n)
		}
		if r, ok := parseSpaceRoute(b); ok && !r.Prefix.IsValid() {
			t.Errorf("an invalid prefix: %+v", r)
		}
		_, _ = parsePolicy(b)
		_, _ = ruleNames(b)
		_ = elemVerdict(b)
		m := newMemory(RouteProtocol)
		for _, s := range []dataplane.Scope{
			m.addrChange(b, true), m.neighChange(b, true), m.tableChange(b), m.confChange(b), m.nexthopChange(b),
		} {
			if s.All || s.Keys.Len() > 1 {
				t.Errorf("one notification gave %+v", s)
			}
		}
	})
}
