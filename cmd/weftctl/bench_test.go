package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/golden"
)

func TestBenchText(t *testing.T) {
	overlay := way{
		Family: "IPv4", Through: "overlay", Address: "10.42.2.0", RTT: 0.2, Sent: 20, MTU: 1450, Bits: 4e9,
	}
	underlay := way{
		Family: "IPv4", Through: "underlay", Address: "192.168.77.2", RTT: 0.1, Sent: 20, Lost: 1, MTU: 1500, Bits: 8e9,
	}
	silent := way{Family: "IPv6", Through: "overlay", Address: "fd42::", Sent: 20, Lost: 20, Reason: "it does not answer"}
	var out bytes.Buffer
	if err := printBench(&out, measured{
		Peer: "node2", Ways: []way{overlay, underlay, silent},
		Ratios: []ratio{beside(overlay, underlay), beside(silent, way{Family: "IPv6"})},
	}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "bench", out.String())
}

func TestFindPeer(t *testing.T) {
	for name, want := range map[string]string{
		"192.168.77.2": "", "10.42.2.0": "", "10.42.2.0/24": "", "10.42.2.0-24": "", "node2": "",
		"192.0.2.9": `no peer "192.0.2.9", but node2`, "node3": "no peer",
	} {
		peer, err := findPeer(benchPeers(), name)
		found := err == nil && peer.Lease == "10.42.2.0-24"
		if want == "" && !found || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, %v, want %q", name, peer.Lease, err, want)
		}
	}
	if _, err := findPeer(nil, "x"); err == nil || !strings.Contains(err.Error(), "and no other one") {
		t.Errorf("without peers: %v", err)
	}
}

func benchPeers() []network.Peer {
	return []network.Peer{
		{Lease: "10.42.9.0-24", Node: "192.0.2.9", Reason: "VtepMAC is multicast", Paths: []network.PeerPath{{Public: "192.0.2.9"}}},
		{Lease: "10.42.2.0-24", Node: "node2", Paths: []network.PeerPath{
			{Subnet: "10.42.2.0/24", Public: "192.168.77.2", VTEP: "10.42.2.0"},
			{Subnet: "fd42:0:0:2::/64", Public: "fd77::2", VTEP: "fd42:0:0:2::"},
		}},
	}
}

func TestIsPeer(t *testing.T) {
	for from, want := range map[string]bool{
		"192.168.77.2": true, "10.42.2.0": true, "fd77::2": true, "fd42:0:0:2::": true,
		"10.42.2.7": false, "192.0.2.9": false, "127.0.0.1": false, "::": false,
	} {
		if have := isPeer(benchPeers(), netip.MustParseAddr(from)); have != want {
			t.Errorf("%s: %v", from, have)
		}
	}
}

func TestOwnAddresses(t *testing.T) {
	have := ownAddresses(network.NodeStatus{
		Local: []string{"192.168.77.1", "fd77::1"}, Subnets: []string{"10.42.1.0/24", "fd42:0:0:1::/64"},
	})
	var want []netip.Addr
	for _, a := range []string{"192.168.77.1", "fd77::1", "10.42.1.0", "fd42:0:0:1::"} {
		want = append(want, netip.MustParseAddr(a))
	}
	if d := cmp.Diff(want, have, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}
