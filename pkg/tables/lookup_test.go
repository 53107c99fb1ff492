package tables_test

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/pkg/tables"
)

func TestLookup(t *testing.T) {
	prefix := netip.MustParsePrefix
	route := func(table int, p string, metric, link int) tables.Route {
		return tables.Route{Table: table, Prefix: prefix(p), Metric: metric, Link: link, Type: "unicast"}
	}
	black := route(254, "10.9.0.0/16", 0, 0)
	black.Type = "blackhole"
	throw := route(100, "203.0.113.0/25", 0, 0) // beside a default route in the same table
	throw.Type = "throw"
	s := tables.Space{
		Policies: []tables.Policy{
			{Priority: 0, Table: 255},
			{Priority: 10, In: "eth1", Table: 100},
			{Priority: 15, In: "lo", Dst: prefix("192.0.2.200/32"), Table: 100},
			{Priority: 20, Mark: 0x10, Mask: 0xf0, Table: 101},
			{Priority: 30, Src: prefix("192.0.2.0/24"), Not: true, Dst: prefix("203.0.113.0/24"), Table: 102},
			{Priority: 40, Dst: prefix("198.51.100.7/32"), Refuses: "prohibit"},
			{Priority: 50, Odd: "l3mdev", Table: 103},
			{Priority: 32766, Table: 254},
			{IPv6: true, Priority: 32766, Table: 254},
		},
		Routes: []tables.Route{
			route(254, "0.0.0.0/0", 100, 1), route(254, "0.0.0.0/0", 50, 2), route(254, "10.42.0.0/16", 0, 3),
			route(254, "10.42.2.0/24", 0, 4), route(100, "0.0.0.0/0", 0, 5), route(101, "10.0.0.0/8", 0, 6), black,
			route(254, "fd00:42::/48", 1024, 7), throw,
		},
	}
	for name, c := range map[string]struct {
		ask  tables.Ask
		link int // 0: nothing, or what refuses
		typ  string
	}{
		"longest prefix":                {tables.Ask{Dst: netip.MustParseAddr("10.42.2.5")}, 4, "unicast"},
		"a shorter one":                 {tables.Ask{Dst: netip.MustParseAddr("10.42.3.5")}, 3, "unicast"},
		"lowest metric":                 {tables.Ask{Dst: netip.MustParseAddr("1.1.1.1")}, 2, "unicast"},
		"by interface":                  {tables.Ask{Dst: netip.MustParseAddr("1.1.1.1"), In: "eth1"}, 5, "unicast"},
		"sent on to the next table":     {tables.Ask{Dst: netip.MustParseAddr("203.0.113.1"), In: "eth1"}, 2, "unicast"},
		"by mark":                       {tables.Ask{Dst: netip.MustParseAddr("10.42.2.5"), Mark: 0x11}, 6, "unicast"},
		"by mark, nothing in its table": {tables.Ask{Dst: netip.MustParseAddr("1.1.1.1"), Mark: 0x11}, 2, "unicast"},
		"a policy that refuses":         {tables.Ask{Dst: netip.MustParseAddr("198.51.100.7")}, 0, "prohibit"},
		"a route that refuses":          {tables.Ask{Dst: netip.MustParseAddr("10.9.1.1")}, 0, "blackhole"},
		"sent by the host":              {tables.Ask{Dst: netip.MustParseAddr("192.0.2.200")}, 5, "unicast"},
		"not sent by the host":          {tables.Ask{Dst: netip.MustParseAddr("192.0.2.200"), In: "eth0"}, 2, "unicast"},
		"IPv6":                          {tables.Ask{Dst: netip.MustParseAddr("fd00:42::1")}, 7, "unicast"},
		"IPv6 to nowhere":               {tables.Ask{Dst: netip.MustParseAddr("2001:db8::1")}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, ok := s.Lookup(c.ask)
			if ok != (c.typ != "") || f.Route.Link != c.link || f.Route.Type != c.typ {
				t.Errorf("want %s over link %d, have %s (%v)", c.typ, c.link, s.Text(f.Route), ok)
			}
			reachesMain := c.ask.Dst.Is4() && c.link < 5 && c.typ != "prohibit"
			if odd := len(f.Odd) > 0; odd != reachesMain {
				t.Errorf("policies that can't be judged: %q", f.Odd)
			}
		})
	}
}
