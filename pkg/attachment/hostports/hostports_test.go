package hostports

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
)

// What an attachment's ports are in the kernel, byte for byte as nft writes it.
func TestEntries(t *testing.T) {
	ptp := attachment.Attachment{
		Mode: attachment.ModePTP, HostLink: "veth1",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.42.1.5/32"), netip.MustParsePrefix("fd00::5/128")},
	}
	bridge := ptp
	bridge.Mode, bridge.Bridge = attachment.ModeBridge, &attachment.Bridge{Name: "cni0"}
	const veth1, cni0 = "7665746831" + "0000000000000000000000", "636e6930" + "000000000000000000000000"
	const six = "fd000000000000000000000000000005"
	for name, c := range map[string]struct {
		a    attachment.Attachment
		port attachment.Port
		want []string
	}{
		"no port": {a: ptp, port: attachment.Port{}},
		"every address": {ptp, attachment.Port{Protocol: "tcp", Host: 8080, Container: 80}, []string{
			"any4 06000000" + "1f900000 0a2a0105" + "00500000", "any6 06000000" + "1f900000 " + six + "00500000",
			"self4 0a2a01050a2a0105 ", "self6 " + six + six + " ", "local " + veth1 + " ",
		}},
		"every address of one family": {
			ptp, attachment.Port{Protocol: "sctp", Host: 1, Container: 2, HostIP: netip.IPv4Unspecified()}, []string{
				"any4 84000000" + "00010000 0a2a0105" + "00020000",
				"self4 0a2a01050a2a0105 ", "self6 " + six + six + " ", "local " + veth1 + " ",
			},
		},
		"one address, on a bridge": {
			bridge, attachment.Port{Protocol: "udp", Host: 53, Container: 53, HostIP: netip.MustParseAddr("fd00::1")}, []string{
				"addr6 fd000000000000000000000000000001" + "11000000" + "00350000 " + six + "00350000",
				"self4 0a2a01050a2a0105 ", "self6 " + six + six + " ", "back " + cni0 + cni0 + " ", "local " + cni0 + " ",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.port.Host > 0 {
				c.a.Ports = []attachment.Port{c.port}
			}
			var have []string
			for _, e := range entries(c.a) {
				have = append(have, fmt.Sprintf("%s %x %x", e.set, e.key, e.value))
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		set  string
		key  []byte
		want string
	}{
		{setAny4, []byte{6, 0, 0, 0, 0x1f, 0x90, 0, 0}, "8080/tcp"},
		{setAddr4, []byte{192, 0, 2, 1, 17, 0, 0, 0, 0, 53, 0, 0}, "192.0.2.1 53/udp"},
		{setAny6, []byte{1, 0, 0, 0, 0, 53, 0, 0}, "53"},
		{setAny4, nil, "port"},
	} {
		if have := describe(c.set, c.key); have != c.want {
			t.Errorf("want %q, have %q", c.want, have)
		}
	}
}
