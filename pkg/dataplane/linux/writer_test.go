package linux_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// TestWatchNamesWriters: what the kernel tells is told, and nothing else.
func TestWatchNamesWriters(t *testing.T) {
	h := newHost(t)
	want := chains()
	want.Merge(links())
	key := dataplane.RouteKey{Prefix: netip.MustParsePrefix("10.42.5.0/24")}
	gateway := key.Prefix.Addr()
	want.Routes = map[dataplane.RouteKey]dataplane.Route{key: {Via: gateway, Link: dev, OnLink: true}}
	want.Neighs = map[dataplane.NeighKey]mac.Addr{{Link: dev, IP: gateway}: {2, 0, 0, 0, 0, 5}}
	want.FDB = map[dataplane.FDBKey]netip.Addr{
		{Link: dev, MAC: mac.Addr{2, 0, 0, 0, 0, 5}}: netip.MustParseAddr("192.0.2.5"),
	}
	h.settle(want)
	w := h.watch()
	for _, c := range []struct{ what, command, who string }{
		{"a route", "ip route del 10.42.5.0/24", "probably "},
		{"a neighbour", "ip neigh del 10.42.5.0 dev " + dev, "probably "},
		{"a rule", "nft flush chain ip weft " + chainKey().Chain, "nft (pid "},
		{"an FDB entry, of which it doesn't tell", "bridge fdb del 02:00:00:00:00:05 dev " + dev, ""},
		{"a link, of which it doesn't tell", "ip link set " + dev + " mtu 1300", ""},
	} {
		words := strings.Fields(c.command)
		h.ns.Exec(words[0], words[1:]...)
		s := w.next(c.what)
		if s.Keys.Len() == 0 || (len(s.Writers) > 0) != (c.who != "") {
			t.Errorf("%s: %d keys, by %v", c.what, s.Keys.Len(), s.Writers)
		}
		for entry, who := range s.Writers {
			if !strings.HasPrefix(who, c.who) || !strings.Contains(who, "pid ") {
				t.Errorf("%s: %s by %q, want %q", c.what, entry, who, c.who)
			}
		}
	}
}
