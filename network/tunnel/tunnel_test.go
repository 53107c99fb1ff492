package tunnel_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/golden"
)

func devices() []tunnel.Device {
	return []tunnel.Device{
		{
			Port: 8472, VNI: 1, Local: netip.MustParseAddr("192.168.77.1"), Network: netip.MustParsePrefix("10.42.0.0/16"),
			Lengths: []int{24},
		},
		{
			Port: 8472, VNI: 1, Local: netip.MustParseAddr("fd77::1"), Network: netip.MustParsePrefix("fd00:42::/48"),
			Lengths: []int{64},
		},
	}
}

func TestChains(t *testing.T) {
	one := devices()[:1]
	lengths := devices()[:1]
	lengths[0].Lengths = []int{24, 26}
	for name, o := range map[string]tunnel.Options{
		"strict":           {Table: "weft", Devices: devices(), Filter: tunnel.Strict, Untrack: true},
		"strict tracked":   {Table: "weft", Devices: one, Filter: tunnel.Strict},
		"strict lengths":   {Table: "weft-7", Devices: lengths, Filter: tunnel.Strict, Untrack: true},
		"vtep-only":        {Table: "weft", Devices: one, Filter: tunnel.VTEPOnly, Untrack: true},
		"off":              {Table: "weft", Devices: one, Filter: tunnel.Off, Untrack: true},
		"off, and tracked": {Table: "weft", Devices: one, Filter: tunnel.Off},
		"no devices":       {Table: "weft", Filter: tunnel.Strict, Untrack: true},
	} {
		t.Run(name, func(t *testing.T) { golden.Check(t, name, render(tunnel.Chains(o))) })
	}
}

func render(chains map[ruleset.Key]ruleset.Chain) string {
	blocks := []string{}
	for key, c := range chains {
		s := fmt.Sprintf("chain %s: type %s hook %s priority %d\n", key, c.Type, c.Hook, c.Priority)
		for _, r := range c.Rules {
			s += "    " + r.String() + "\n"
		}
		blocks = append(blocks, s)
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

func TestElems(t *testing.T) {
	d := devices()[1]
	public, subnet := netip.MustParseAddr("fd77::2"), netip.MustParsePrefix("fd00:42:0:2::/64")
	for f, want := range map[tunnel.Filter][]string{
		tunnel.Strict: {
			"ip6 weft vteps { fd77::2 . fd77::2 }", "ip6 weft inner64 { fd77::2 . fd00:42:0:2:: }",
		},
		tunnel.VTEPOnly: {"ip6 weft vteps { fd77::2 . fd77::2 }"},
		tunnel.Off:      {"ip6 weft vteps { fd77::2 . fd77::2 }"},
	} {
		var have []string
		for el := range d.Elems("weft", f, public, subnet) {
			have = append(have, el.String())
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", f, diff)
		}
	}
	if other := slices.Collect(devices()[0].Elems("weft", tunnel.Strict, public, subnet)); len(other) > 0 {
		t.Errorf("of the other family: %v", other)
	}
}

func TestDevicesAreThoseOfNetworks(t *testing.T) {
	links := map[string]dataplane.Link{}
	var networks []netip.Prefix
	for i, d := range devices() {
		links[fmt.Sprint("dev", i)] = dataplane.Link{VNI: d.VNI, Port: d.Port, Local: d.Local}
		networks = append(networks, d.Network)
	}
	want := devices()
	for i := range want {
		want[i].Lengths = nil
	}
	equal := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	if d := cmp.Diff(want, tunnel.DevicesOf(links, networks), equal); d != "" {
		t.Error(d)
	}
	if none := tunnel.DevicesOf(nil, networks); len(none) > 0 {
		t.Errorf("without a tunnel: %v", none)
	}
}

func TestLearnKeepsOrderAndEqualSeesIt(t *testing.T) {
	a := tunnel.Options{Devices: devices()}
	b := tunnel.Options{Devices: devices()}
	b.Devices[0].Learn(24)
	if !a.Equal(b) {
		t.Error("what was known already makes a difference")
	}
	b.Devices[0].Learn(20)
	b.Devices[0].Learn(28)
	if a.Equal(b) || !slices.Equal(b.Devices[0].Lengths, []int{20, 24, 28}) {
		t.Errorf("have %v", b.Devices[0].Lengths)
	}
}

func TestUntrack(t *testing.T) {
	for name, test := range map[string]struct {
		wanted bool
		facts  ruleset.Facts
		want   bool
		reason string
	}{
		"nobody minds":   {true, ruleset.Facts{}, true, "no firewall"},
		"not wanted":     {false, ruleset.Facts{}, false, "--vxlan-notrack"},
		"no nf_tables":   {true, ruleset.Facts{NoNFTables: true}, false, "nf_tables"},
		"a firewall":     {true, ruleset.Facts{Stateful: []string{"ip filter INPUT drops by its policy"}}, false, "INPUT drops"},
		"FORWARD drops ": {true, ruleset.Facts{Drops: []ruleset.Key{{Chain: "FORWARD"}}}, true, "no firewall"},
	} {
		if have, why := tunnel.Untrack(test.wanted, test.facts); have != test.want || !strings.Contains(why, test.reason) {
			t.Errorf("%s: %v, %s", name, have, why)
		}
	}
}

func TestCounting(t *testing.T) {
	for f, want := range map[tunnel.Filter]int{tunnel.Strict: 4, tunnel.VTEPOnly: 4, tunnel.Off: 0} {
		o := tunnel.Options{Table: "weft", Devices: devices(), Filter: f, Untrack: true}
		if have := tunnel.Counting(o); len(have) != want {
			t.Errorf("%s: %v", f, have)
		}
	}
}
