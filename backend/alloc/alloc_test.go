package alloc_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/backendtest"
	"github.com/weftnet/weft/subnet"
)

func host() backend.Host {
	address := []netip.Addr{netip.MustParseAddr("192.168.77.1")}
	return backend.Host{
		Config: subnet.Config{
			Backend: "alloc", BackendOptions: json.RawMessage(`{"Type":"alloc"}`),
			Networks: []subnet.Network{{Prefix: netip.MustParsePrefix("10.42.0.0/16")}},
		},
		Uplink: backend.Uplink{Iface: "eth0", MTU: 9000, Local: address, Public: address},
		Lease: subnet.Lease{ID: "10.42.1.0-24", Shares: []subnet.Share{{
			Subnet: netip.MustParsePrefix("10.42.1.0/24"), Public: address[0],
		}}},
	}
}

func TestLaws(t *testing.T) {
	backendtest.Run(t, alloc.New(), backendtest.Case{Name: "IPv4", Host: host()})
}

// Nothing is in the kernel for anybody, and pods get all of the uplink's MTU.
func TestNothingIsMade(t *testing.T) {
	b, h := alloc.New(), host()
	base, err := b.Base(h)
	if err != nil || base.Len() != 0 {
		t.Errorf("base: %d entries, %v", base.Len(), err)
	}
	peer, err := backend.Entries(b, h, subnet.Lease{ID: "10.42.2.0-24"})
	if err != nil || peer.Len() != 0 {
		t.Errorf("peer: %d entries, %v", peer.Len(), err)
	}
	if mtu := b.MTU(h); mtu != 9000 {
		t.Errorf("MTU %d, want 9000", mtu)
	}
	shares, err := b.Announce(h, nil)
	if err != nil || len(shares) != 1 || shares[0].Data != nil || shares[0].Public != h.Uplink.Public[0] {
		t.Errorf("announced: %+v, %v", shares, err)
	}
	if w := b.Warnings(h.Config); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}
