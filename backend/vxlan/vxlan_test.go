package vxlan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/backendtest"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

const (
	net4  = "10.42.0.0/16"
	net6  = "fd00:42::/48"
	mac4  = "12:c6:65:89:b4:e3"
	mac6  = "12:c6:65:89:b4:e4"
	mtu   = 1500
	index = 7 // of an interface; nothing depends on it
)

// host is a node of a cluster with these networks; its lease has number 1.
func host(options string, networks ...string) backend.Host {
	h := backend.Host{
		Config: subnet.Config{Backend: "vxlan", BackendOptions: json.RawMessage(options)},
		Uplink: backend.Uplink{Iface: "eth0", MTU: mtu},
		Random: [16]byte{0x01, 2, 3, 4, 5, 6, 0x11, 12, 13, 14, 15, 16},
	}
	for _, n := range networks {
		h.Config.Networks = append(h.Config.Networks, subnet.Network{Prefix: netip.MustParsePrefix(n)})
	}
	h.Lease = lease(1, networks...)
	for _, s := range h.Lease.Shares {
		h.Uplink.Local = append(h.Uplink.Local, s.Public)
		h.Uplink.Public = append(h.Uplink.Public, s.Public)
	}
	h.Lease.Shares[0].Data = data(1, mac4)
	if len(networks) > 1 {
		h.Lease.Shares[1].Data = data(1, mac6)
	}
	return h
}

// reaching adds paths: by the gateway, or with none on the link of the uplink.
func reaching(h backend.Host, paths map[string]string) backend.Host {
	h.Facts.Paths = map[netip.Addr]dataplane.Route{}
	for to, via := range paths {
		path := dataplane.Route{Link: "eth0"}
		if via != "" {
			path.Via = netip.MustParseAddr(via)
		}
		h.Facts.Paths[netip.MustParseAddr(to)] = path
	}
	return h
}

// lease is that of node n.
func lease(n int, networks ...string) subnet.Lease {
	l := subnet.Lease{ID: fmt.Sprintf("lease-%d", n), Backend: "vxlan", Created: int64(n), Revision: int64(n)}
	for _, network := range networks {
		share := subnet.Share{Data: data(1, fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255))}
		if strings.Contains(network, ":") {
			share.Subnet = netip.MustParsePrefix(fmt.Sprintf("fd00:42:0:%x::/64", n))
			share.Public = netip.MustParseAddr(fmt.Sprintf("fd77::%x", n))
		} else {
			share.Subnet = netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 42+n>>8, n&255))
			share.Public = netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", 77+n>>8, n&255))
		}
		l.Shares = append(l.Shares, share)
	}
	return l
}

func data(vni int, vtep string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"VNI":%d,"VtepMAC":"%s"}`, vni, vtep))
}

// withShare changes the first share of a lease.
func withShare(l subnet.Lease, change func(*subnet.Share)) subnet.Lease {
	change(&l.Shares[0])
	return l
}

func withData(raw string) subnet.Lease {
	return withShare(lease(9, net4), func(s *subnet.Share) { s.Data = json.RawMessage(raw) })
}

func TestLaws(t *testing.T) {
	peers := func(networks ...string) (out []subnet.Lease) {
		for _, n := range []int{3, 2, 300} {
			out = append(out, lease(n, networks...))
		}
		return out
	}
	bad := []backendtest.Bad{
		{Name: "no share", Lease: subnet.Lease{ID: "empty"}, Field: "subnet"},
		{Name: "no data", Lease: withData(``), Field: "backend data"},
		{Name: "data is null", Lease: withData(`null`), Field: "VtepMAC"},
		{Name: "data is not JSON", Lease: withData(`{"VNI":1,`), Field: "backend data"},
		{Name: "data is a list", Lease: withData(`[]`), Field: "backend data"},
		{Name: "data of another backend", Lease: withData(`{"PublicKey":"x","Port":51820}`), Field: "VtepMAC"},
		{Name: "VNI is text", Lease: withData(`{"VNI":"1","VtepMAC":"02:00:00:00:00:09"}`), Field: "VNI"},
		{Name: "VNI is 0", Lease: withData(`{"VNI":0,"VtepMAC":"02:00:00:00:00:09"}`), Field: "VNI"},
		{Name: "VNI does not fit", Lease: withData(`{"VNI":16777216,"VtepMAC":"02:00:00:00:00:09"}`), Field: "VNI"},
		{Name: "another VNI", Lease: withData(`{"VNI":2,"VtepMAC":"02:00:00:00:00:09"}`), Field: "VNI"},
		{Name: "no MAC", Lease: withData(`{"VNI":1}`), Field: "VtepMAC"},
		{Name: "empty MAC", Lease: withData(`{"VNI":1,"VtepMAC":""}`), Field: "VtepMAC"},
		{Name: "MAC of 8 bytes", Lease: withData(`{"VNI":1,"VtepMAC":"02:00:00:00:00:00:00:09"}`), Field: "VtepMAC"},
		{Name: "zero MAC", Lease: withData(`{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`), Field: "VtepMAC"},
		{Name: "multicast MAC", Lease: withData(`{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`), Field: "VtepMAC"},
		{Name: "MAC is a number", Lease: withData(`{"VNI":1,"VtepMAC":5}`), Field: "VtepMAC"},
		{Name: "our own MAC", Lease: withData(`{"VNI":1,"VtepMAC":"` + mac4 + `"}`), Field: "VtepMAC"},
		{
			Name: "no public address", Field: "public address",
			Lease: withShare(lease(9, net4), func(s *subnet.Share) { s.Public = netip.Addr{} }),
		},
		{
			Name: "public address of the other family", Field: "public address",
			Lease: withShare(lease(9, net4), func(s *subnet.Share) { s.Public = netip.MustParseAddr("fd77::9") }),
		},
		{
			Name: "no subnet", Field: "subnet",
			Lease: withShare(lease(9, net4), func(s *subnet.Share) { s.Subnet = netip.Prefix{} }),
		},
		{Name: "a family that we don't have", Lease: lease(9, net4, net6), Field: "subnet"},
	}
	secondBad := lease(9, net4, net6)
	secondBad.Shares[1].Data = nil
	backendtest.Run(t, vxlan.New(),
		backendtest.Case{Name: "IPv4", Host: host("", net4), Peers: peers(net4), Bad: bad},
		backendtest.Case{Name: "IPv6", Host: host(`{"Type":"vxlan"}`, net6), Peers: peers(net6)},
		backendtest.Case{
			Name: "direct routing", Peers: peers(net4),
			Host: reaching(host(`{"DirectRouting":true}`, net4), map[string]string{
				"192.168.77.2": "", "192.168.77.3": "192.168.77.254", "192.168.78.44": "",
			}),
		},
		backendtest.Case{
			Name: "direct routing in dual stack", Peers: peers(net4, net6),
			Host: reaching(host(`{"DirectRouting":true}`, net4, net6), map[string]string{
				"192.168.77.2": "", "192.168.77.3": "", "fd77::3": "fe80::1", "fd77::12c": "",
			}),
		},
		backendtest.Case{
			Name: "dual stack", Host: host(`{"Type":"vxlan","Port":4789,"Learning":true}`, net4, net6),
			Peers: append(peers(net4, net6), lease(4, net4), lease(5, net6)),
			Bad:   []backendtest.Bad{{Name: "second share", Lease: secondBad, Field: "backend data"}},
		},
	)
}

// The kernel entries of a node and one peer, to be read beside the contract.
func TestEntries(t *testing.T) {
	cases := map[string]backend.Host{
		"IPv4":       host("", net4),
		"IPv6":       host("", net6),
		"dual stack": host("", net4, net6),
		"all options": host(`{"Type":"vxlan","VNI":1,"Port":4789,"MTU":1400,"Learning":true,"GBP":true}`,
			net4, net6),
		"MTU above that of the uplink": host(`{"MTU":9000}`, net4),
		"direct routing": reaching(host(`{"DirectRouting":true}`, net4, net6),
			map[string]string{"192.168.77.2": "", "fd77::2": ""}),
		"direct routing with IPv6 behind a router": reaching(host(`{"DirectRouting":true}`, net4, net6),
			map[string]string{"192.168.77.2": "", "fd77::2": "fe80::1"}),
	}
	for name, h := range cases {
		t.Run(name, func(t *testing.T) {
			var networks []string
			for _, n := range h.Config.Networks {
				networks = append(networks, n.Prefix.String())
			}
			s, err := vxlan.New().Base(h)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := backend.Entries(vxlan.New(), h, lease(2, networks...))
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("options %s\nMTU of pods %d\nbase\n%speer\n%s", h.Config.BackendOptions,
				vxlan.New().MTU(h), entries(s), entries(peer))
			golden.Check(t, name, text)
		})
	}
}

func entries(s dataplane.State) string { return dataplane.Diff(s, dataplane.Observed{}).String() }

func TestAnnounce(t *testing.T) {
	device := func(local, hw string, port int) dataplane.Iface {
		addr, err := mac.Parse(hw)
		if err != nil {
			t.Fatal(err)
		}
		link := &dataplane.Link{VNI: 1, Port: port}
		if local != "" {
			link.Local = netip.MustParseAddr(local)
		}
		return dataplane.Iface{Index: index, MTU: 1450, MAC: addr, VXLAN: link}
	}
	prev := []subnet.Share{
		{Public: netip.MustParseAddr("fd77::1"), Data: data(1, "0a:00:00:00:00:06")},
		{Public: netip.MustParseAddr("192.168.77.1"), Data: data(2, "0a:00:00:00:00:04")},
	}
	const random4, random6 = "02:02:03:04:05:06", "12:0c:0d:0e:0f:11"
	cases := map[string]struct {
		ifaces map[string]dataplane.Iface
		prev   []subnet.Share
		want   [2]string // MACs
	}{
		"nothing known: random, and another for each family": {nil, nil, [2]string{random4, random6}},
		"announced before, though with another VNI": {
			nil, prev, [2]string{"0a:00:00:00:00:04", "0a:00:00:00:00:06"},
		},
		"announced before, damaged": {
			nil, []subnet.Share{{Public: prev[1].Public, Data: json.RawMessage(`{`)}}, [2]string{random4, random6},
		},
		"the devices are there, one under another name": {
			map[string]dataplane.Iface{
				"vx0":          device("192.168.77.1", "0e:00:00:00:00:04", 8472),
				"flannel-v6.1": device("fd77::1", "0e:00:00:00:00:06", 8472),
			},
			prev, [2]string{"0e:00:00:00:00:04", "0e:00:00:00:00:06"},
		},
		"a device without a local address is an IPv4 one": {
			map[string]dataplane.Iface{"flannel.1": device("", "0e:00:00:00:00:04", 8472)},
			nil, [2]string{"0e:00:00:00:00:04", random6},
		},
		"a device on another port is not ours": {
			map[string]dataplane.Iface{"flannel.1": device("192.168.77.1", "0e:00:00:00:00:04", 4789)},
			nil, [2]string{random4, random6},
		},
		"another interface with our name is not ours": {
			map[string]dataplane.Iface{"flannel.1": {MTU: 1500, MAC: mac.Addr{2, 2, 2, 2, 2, 2}}},
			nil, [2]string{random4, random6},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := host("", net4, net6)
			h.Facts.Ifaces = c.ifaces
			h.Uplink.Public[0] = netip.MustParseAddr("203.0.113.5")
			have, err := vxlan.New().Announce(h, c.prev)
			if err != nil {
				t.Fatal(err)
			}
			want := []subnet.Share{
				{Public: netip.MustParseAddr("203.0.113.5"), Data: data(1, c.want[0])},
				{Public: netip.MustParseAddr("fd77::1"), Data: data(1, c.want[1])},
			}
			if d := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFamiliesNeverShareARandomMAC(t *testing.T) {
	h := host("", net4, net6)
	h.Random = [16]byte{}
	shares, err := vxlan.New().Announce(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(shares[0].Data) == string(shares[1].Data) {
		t.Errorf("both families announce %s", shares[0].Data)
	}
}

// What one node announces, another can use.
func TestAnnouncedIsAccepted(t *testing.T) {
	there := host("", net4, net6)
	shares, err := vxlan.New().Announce(there, nil)
	if err != nil {
		t.Fatal(err)
	}
	peer := lease(2, net4, net6)
	for i := range shares {
		peer.Shares[i].Public, peer.Shares[i].Data = shares[i].Public, shares[i].Data
	}
	if _, err := backend.Entries(vxlan.New(), host("", net4, net6), peer); err != nil {
		t.Error(err)
	}
}

func TestHostErrors(t *testing.T) {
	change := func(h backend.Host, f func(*backend.Host)) backend.Host { f(&h); return h }
	cases := map[string]struct {
		host backend.Host
		want string
	}{
		"option": {host(`{"VNI":0}`, net4), `the configuration's Backend.VNI is 0: write a whole number from 1 to 16777215`},
		"uplink too small for IPv6": {
			change(host("", net4, net6), func(h *backend.Host) { h.Uplink.MTU = 1349 }),
			"device flannel-v6.1 would have MTU 1279, IPv6 needs 1280: raise the MTU of eth0, 1349 now, to 1350 or more",
		},
		"option too small for IPv6": {
			host(`{"MTU":1300}`, net4, net6),
			"device flannel-v6.1 would have MTU 1230, IPv6 needs 1280: raise Backend.MTU, 1300 now, to 1350 or more",
		},
		"option too small for IPv4": {
			host(`{"MTU":117}`, net4),
			"device flannel.1 would have MTU 67, IPv4 needs 68: raise Backend.MTU, 117 now, to 118 or more",
		},
		"no uplink": {
			change(host("", net4), func(h *backend.Host) { h.Uplink = backend.Uplink{} }),
			`no uplink to build on: interface "" with MTU 0`,
		},
		"uplink without an address of a family": {
			change(host("", net4, net6), func(h *backend.Host) { h.Uplink.Local = h.Uplink.Local[:1] }),
			"the uplink has no local IPv6 address for the network's IPv6 part",
		},
		"public address of another family": {
			change(host("", net4), func(h *backend.Host) { h.Uplink.Public[0] = netip.MustParseAddr("fd77::1") }),
			"the uplink has no public IPv4 address for the network's IPv4 part",
		},
		"name too long": {
			host(`{"VNI":10000}`, net6),
			"device name flannel-v6.10000 is longer than the kernel's 15 bytes: choose a Backend.VNI of at most 9999",
		},
		"lease without a family": {
			change(host("", net4, net6), func(h *backend.Host) { h.Lease.Shares = h.Lease.Shares[:1] }),
			"our lease lease-1 has no IPv6 subnet",
		},
		"lease with another VNI": {
			change(host("", net4), func(h *backend.Host) { h.Lease.Shares[0].Data = data(2, mac4) }),
			"our lease lease-1 announces VNI 2, the configuration says 1: the lease has to be announced again",
		},
		"lease with damaged data": {
			change(host("", net4), func(h *backend.Host) { h.Lease.Shares[0].Data = nil }),
			"our lease lease-1 for 10.42.1.0/24: backend data is missing; it has to be announced again",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := vxlan.New().Base(c.host)
			if err == nil {
				t.Fatalf("no error, but\n%s", entries(s))
			}
			if d := cmp.Diff(c.want, err.Error()); d != "" {
				t.Error(d)
			}
		})
	}
}

// Which way a peer is reached, by what is known of its path.
func TestDirectRouting(t *testing.T) {
	eth1 := func(h backend.Host) backend.Host { h.Uplink.Iface = "eth1"; return h }
	on, off := `{"Type":"vxlan","DirectRouting":true}`, `{"Type":"vxlan"}`
	cases := map[string]struct {
		host   backend.Host
		direct bool
	}{
		"on the link":               {reaching(host(on, net4), map[string]string{"192.168.77.2": ""}), true},
		"behind a router":           {reaching(host(on, net4), map[string]string{"192.168.77.2": "192.168.77.9"}), false},
		"behind an IPv6 router":     {reaching(host(on, net4), map[string]string{"192.168.77.2": "fe80::1"}), false},
		"on the link of another":    {eth1(reaching(host(on, net4), map[string]string{"192.168.77.2": ""})), false},
		"not reachable":             {reaching(host(on, net4), nil), false},
		"the path is known by luck": {reaching(host(off, net4), map[string]string{"192.168.77.2": ""}), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := backend.Entries(vxlan.New(), c.host, lease(2, net4))
			if err != nil {
				t.Fatal(err)
			}
			if direct := s.Len() == 1; direct != c.direct {
				t.Errorf("direct: %v, want %v:\n%s", direct, c.direct, entries(s))
			}
		})
	}
}

// A fault of our own lease is not blamed on the peer at work.
// Old flannels don't tell their VNI, nor do load balancers that pose as a node:
// flannel takes it to be the same.
func TestAPeerThatDoesNotTellItsVNI(t *testing.T) {
	h := host(`{"Type":"vxlan","VNI":42}`, net4)
	shares, err := vxlan.New().Announce(h, h.Lease.Shares)
	if err != nil {
		t.Fatal(err)
	}
	h.Lease.Shares[0].Data = shares[0].Data
	want, err := backend.Entries(vxlan.New(), h, withData(string(data(42, "02:00:00:00:00:09"))))
	if err != nil {
		t.Fatal(err)
	}
	have, err := backend.Entries(vxlan.New(), h, withData(`{"VtepMAC":"02:00:00:00:00:09"}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(entries(want), entries(have)); d != "" || have.Len() == 0 {
		t.Errorf("entries (-with its VNI +without):\n%s", d)
	}
}

func TestOwnFaultIsNotThePeers(t *testing.T) {
	h := host("", net4)
	h.Lease.Shares[0].Data = nil
	_, err := backend.Entries(vxlan.New(), h, lease(2, net4))
	var field *backend.FieldError
	if err == nil || errors.As(err, &field) {
		t.Errorf("want an error that blames no field of the peer, have %v", err)
	}
}

func TestMTU(t *testing.T) {
	cases := map[string]struct {
		host backend.Host
		want int
	}{
		"IPv4":                     {host("", net4), 1450},
		"IPv6":                     {host("", net6), 1430},
		"the smallest":             {host("", net4, net6), 1430},
		"option":                   {host(`{"mtu":1400}`, net4), 1350},
		"never above the uplink's": {host(`{"MTU":9000}`, net4), 1450},
		"no networks":              {backend.Host{Uplink: backend.Uplink{Iface: "eth0", MTU: 1500}}, 0},
		"impossible":               {host(`{"MTU":100}`, net4), 0},
	}
	for name, c := range cases {
		if have := vxlan.New().MTU(c.host); have != c.want {
			t.Errorf("%s: %d, want %d", name, have, c.want)
		}
	}
}

// The hot path of a first snapshot.
func BenchmarkPeers(b *testing.B) {
	h := host("", net4)
	leases := make([]subnet.Lease, 10_000)
	for i := range leases {
		leases[i] = lease(i+2, net4)
	}
	b.ReportAllocs()
	for b.Loop() {
		var s dataplane.State
		for _, l := range leases {
			s.Clear()
			if err := vxlan.New().Peer(h, l, &s); err != nil {
				b.Fatal(err)
			}
		}
	}
}
