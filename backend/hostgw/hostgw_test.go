package hostgw_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/backendtest"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/subnet"
)

const (
	net4 = "10.42.0.0/16"
	net6 = "fd00:42::/48"
)

// host is node 1 of a cluster with these networks, on one link with nodes 2 to 9.
func host(networks ...string) backend.Host {
	h := backend.Host{
		Config: subnet.Config{Backend: "host-gw", BackendOptions: json.RawMessage(`{"Type":"host-gw"}`)},
		Uplink: backend.Uplink{Iface: "eth0", MTU: 1500},
		Facts:  dataplane.Facts{Paths: map[netip.Addr]dataplane.Route{}},
		Lease:  lease(1, networks...),
	}
	for _, n := range networks {
		h.Config.Networks = append(h.Config.Networks, subnet.Network{Prefix: netip.MustParsePrefix(n)})
	}
	for _, s := range h.Lease.Shares {
		h.Uplink.Local = append(h.Uplink.Local, s.Public)
		h.Uplink.Public = append(h.Uplink.Public, s.Public)
	}
	for n := 2; n < 10; n++ {
		for _, s := range lease(n, networks...).Shares {
			h.Facts.Paths[s.Public] = dataplane.Route{Link: "eth0"}
		}
	}
	return h
}

func lease(n int, networks ...string) subnet.Lease {
	l := subnet.Lease{ID: fmt.Sprintf("lease-%d", n), Backend: "host-gw", Created: int64(n)}
	for _, network := range networks {
		pattern := [2]string{"10.42.%d.0/24", "192.168.77.%d"}
		if strings.Contains(network, ":") {
			pattern = [2]string{"fd00:42:0:%d::/64", "fd77::%d"}
		}
		l.Shares = append(l.Shares, subnet.Share{
			Subnet: netip.MustParsePrefix(fmt.Sprintf(pattern[0], n)),
			Public: netip.MustParseAddr(fmt.Sprintf(pattern[1], n)),
		})
	}
	return l
}

func changed(l subnet.Lease, f func(*subnet.Share)) subnet.Lease {
	f(&l.Shares[len(l.Shares)-1])
	return l
}

func TestLaws(t *testing.T) {
	peers := func(networks ...string) (out []subnet.Lease) {
		for _, n := range []int{4, 2, 3} {
			out = append(out, lease(n, networks...))
		}
		return out
	}
	bad := []backendtest.Bad{
		{Name: "no share", Lease: subnet.Lease{ID: "empty"}, Field: "subnet"},
		{
			Name: "no subnet", Field: "subnet",
			Lease: changed(lease(9, net4), func(s *subnet.Share) { s.Subnet = netip.Prefix{} }),
		},
		{
			Name: "no public address", Field: "public address",
			Lease: changed(lease(9, net4), func(s *subnet.Share) { s.Public = netip.Addr{} }),
		},
		{
			Name: "address of the other family", Field: "public address",
			Lease: changed(lease(9, net4), func(s *subnet.Share) { s.Public = netip.MustParseAddr("fd77::9") }),
		},
		{Name: "out of reach", Field: "public address", Lease: lease(99, net4)},
	}
	backendtest.Run(t, hostgw.New(),
		backendtest.Case{Name: "IPv4", Host: host(net4), Peers: peers(net4), Bad: bad},
		backendtest.Case{Name: "IPv6", Host: host(net6), Peers: peers(net6)},
		backendtest.Case{
			Name: "dual stack", Host: host(net4, net6), Peers: append(peers(net4, net6), lease(5, net4), lease(6, net6)),
			Bad: []backendtest.Bad{{
				Name: "one of two out of reach", Field: "public address",
				Lease: changed(lease(9, net4, net6), func(s *subnet.Share) { s.Public = netip.MustParseAddr("fd77::99") }),
			}},
		},
	)
}

func TestEntries(t *testing.T) {
	h := host(net4, net6)
	base, err := hostgw.New().Base(h)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := backend.Entries(hostgw.New(), h, lease(2, net4, net6))
	if err != nil {
		t.Fatal(err)
	}
	text := func(s dataplane.State) string { return dataplane.Diff(s, dataplane.Observed{}).String() }
	have := fmt.Sprintf("MTU of pods %d\nbase\n%speer\n%s", hostgw.New().MTU(h), text(base), text(peer))
	golden.Check(t, "dual stack", have)
}

// A peer that can't be reached is told why, and what to do.
func TestWhoIsNotOnTheLink(t *testing.T) {
	cases := map[string]struct {
		path *dataplane.Route
		want string
	}{
		"no way": {nil, "public address 192.168.77.2 can't be reached"},
		"behind a router": {
			&dataplane.Route{Via: netip.MustParseAddr("192.168.77.254"), Link: "eth0"},
			"public address 192.168.77.2 is not on the link of eth0 but behind the router 192.168.77.254: " +
				"host-gw needs all nodes on one link; use vxlan",
		},
		"on another link": {
			&dataplane.Route{Link: "eth1"},
			"public address 192.168.77.2 is on the link of eth1, the uplink is eth0: choose that one with --iface",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := host(net4)
			delete(h.Facts.Paths, netip.MustParseAddr("192.168.77.2"))
			if c.path != nil {
				h.Facts.Paths[netip.MustParseAddr("192.168.77.2")] = *c.path
			}
			_, err := backend.Entries(hostgw.New(), h, lease(2, net4))
			if err == nil || err.Error() != c.want {
				t.Errorf("have %v, want %s", err, c.want)
			}
		})
	}
}

func TestHostErrors(t *testing.T) {
	cases := map[string]struct {
		change func(*backend.Host)
		want   string
	}{
		"no uplink": {
			func(h *backend.Host) { h.Uplink = backend.Uplink{} }, `no uplink to build on: interface "" with MTU 0`,
		},
		"no address of a family": {
			func(h *backend.Host) { h.Uplink.Public = h.Uplink.Public[:1] },
			"the uplink has no public address for the network fd00:42::/48",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := host(net4, net6)
			c.change(&h)
			_, announce := hostgw.New().Announce(h, nil)
			_, base := hostgw.New().Base(h)
			for _, err := range []error{announce, base} {
				if err == nil || err.Error() != c.want {
					t.Errorf("have %v, want %s", err, c.want)
				}
			}
		})
	}
}

func TestOptionsMeanNothing(t *testing.T) {
	h := host(net4)
	h.Config.BackendOptions = json.RawMessage(`{"type":"host-gw","VNI":1,"DirectRouting":true}`)
	want := []string{"Backend.DirectRouting means nothing to host-gw", "Backend.VNI means nothing to host-gw"}
	if d := cmp.Diff(want, hostgw.New().Warnings(h.Config)); d != "" {
		t.Error(d)
	}
}
