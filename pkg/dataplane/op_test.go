package dataplane

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func TestOpText(t *testing.T) {
	link := device(addr("192.168.77.1"), 1450, 1)
	link.Learning, link.GBP, link.Actual = true, true, "vx0"
	key := RouteKey{Prefix: prefix("10.42.2.0/24"), Metric: 5, Table: 100}
	cases := map[string]struct {
		op          Op
		text, entry string
	}{
		"create a link with all that it can have": {
			Op{Verb: Create, Kind: KindLink, Key: dev4, New: link},
			"+ link flannel.1 mtu 1450 address 02:00:00:00:00:01 up vxlan id 1 local 192.168.77.1 dev eth0" +
				" dstport 8472 learning gbp (now named vx0)",
			"link flannel.1",
		},
		"change a route": {
			Op{
				Verb: Change, Kind: KindRoute, Key: key,
				Old: Route{Link: "eth0", Unmarked: true},
				New: Route{Via: addr("10.42.2.0"), Link: dev4, OnLink: true, Src: addr("10.42.1.1")},
			},
			"~ route 10.42.2.0/24 via 10.42.2.0 dev flannel.1 src 10.42.1.1 metric 5 table 100 onlink" +
				"  (was: 10.42.2.0/24 dev eth0 metric 5 table 100 (not marked))",
			"route 10.42.2.0/24 metric 5 table 100",
		},
		"delete a neighbour": {
			Op{Verb: Delete, Kind: KindNeigh, Key: NeighKey{dev4, addr("10.42.2.0")}, Old: vtep(2)},
			"- neigh 10.42.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
			"neigh 10.42.2.0 dev flannel.1",
		},
		"create an fdb entry": {
			Op{Verb: Create, Kind: KindFDB, Key: FDBKey{dev4, vtep(2)}, New: addr("192.168.77.2")},
			"+ fdb 02:00:00:00:00:02 dev flannel.1 dst 192.168.77.2 self permanent",
			"fdb 02:00:00:00:00:02 dev flannel.1",
		},
		"create an address": {
			Op{Verb: Create, Kind: KindAddr, Key: AddrKey{dev4, prefix("10.42.1.0/32")}, New: struct{}{}},
			"+ address 10.42.1.0/32 dev flannel.1",
			"address 10.42.1.0/32 dev flannel.1",
		},
		"change a sysctl": {
			Op{Verb: Change, Kind: KindSysctl, Key: "net/ipv4/ip_forward", Old: "0", New: "1"},
			"~ sysctl net/ipv4/ip_forward = 1  (was: net/ipv4/ip_forward = 0)",
			"sysctl net/ipv4/ip_forward",
		},
		"create a chain": {
			Op{
				Verb: Create, Kind: KindChain, Key: ruleset.Key{IPv6: true, Table: "weft", Chain: "postrouting"},
				New: ruleset.Chain{Type: "nat", Hook: ruleset.Postrouting, Priority: 100},
			},
			"+ chain ip6 weft postrouting (nat postrouting 100, 0 rules)",
			"chain ip6 weft postrouting",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.text, c.op.String()) + cmp.Diff(c.entry, c.op.Entry()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestOpErrorNamesEntryAndCause(t *testing.T) {
	err := error(&OpError{
		Op:  Op{Verb: Create, Kind: KindSysctl, Key: "net/ipv4/ip_forward", New: "1"},
		Err: ErrOccupied,
	})
	if !errors.Is(err, ErrOccupied) {
		t.Error("the cause is lost")
	}
	want := "+ sysctl net/ipv4/ip_forward = 1: something that is not weft's stands there"
	if d := cmp.Diff(want, err.Error()); d != "" {
		t.Error(d)
	}
}
