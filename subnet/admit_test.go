package subnet_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

const clusterOfTwo = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}`

// us holds the first subnet of each family.
func us() subnet.Lease {
	return lease("us", 5,
		share("10.5.1.0/24", "192.0.2.1", ""), share("fd00:5:0:1::/64", "2001:db8::1", ""))
}

func ids(leases []subnet.Lease) []string {
	var out []string
	for _, l := range leases {
		out = append(out, l.ID)
	}
	return out
}

func TestAdmitCounts(t *testing.T) {
	four, six := share("10.5.2.0/24", "192.0.2.2", ""), share("fd00:5:0:2::/64", "2001:db8::2", "")
	tests := map[string]struct {
		cfg  string
		all  []subnet.Lease
		want []subnet.Lease
	}{
		"nobody":             {clusterOfTwo, nil, nil},
		"ours is left out":   {clusterOfTwo, []subnet.Lease{us()}, nil},
		"a dual-stack peer":  {clusterOfTwo, []subnet.Lease{lease("a", 6, four, six)}, []subnet.Lease{lease("a", 6, four, six)}},
		"IPv4 comes first":   {clusterOfTwo, []subnet.Lease{lease("a", 6, six, four)}, []subnet.Lease{lease("a", 6, four, six)}},
		"a peer of one only": {clusterOfTwo, []subnet.Lease{lease("a", 6, six)}, []subnet.Lease{lease("a", 6, six)}},
		"a family that the cluster doesn't have is left out": {
			`{"Network":"10.5.0.0/16"}`, []subnet.Lease{lease("a", 6, four, six)}, []subnet.Lease{lease("a", 6, four)},
		},
		"by age, then ID": {
			clusterOfTwo,
			[]subnet.Lease{
				lease("c", 7, share("10.5.4.0/24", "192.0.2.4", "")),
				lease("b", 8, share("10.5.3.0/24", "192.0.2.3", "")),
				lease("a", 8, four),
			},
			[]subnet.Lease{
				lease("c", 7, share("10.5.4.0/24", "192.0.2.4", "")),
				lease("a", 8, four),
				lease("b", 8, share("10.5.3.0/24", "192.0.2.3", "")),
			},
		},
		"of another length, outside of Min and Max": {
			`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0"}`,
			[]subnet.Lease{lease("a", 6, share("10.5.0.0/26", "192.0.2.2", ""))},
			[]subnet.Lease{lease("a", 6, share("10.5.0.0/26", "192.0.2.2", ""))},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.all)
			ok, no := subnet.Admit(parse(t, tt.cfg), us(), tt.all)
			if diff := cmp.Diff(tt.want, ok, plain); diff != "" {
				t.Errorf("admitted (-want +have):\n%s", diff)
			}
			if len(no) > 0 {
				t.Errorf("refused: %v", no)
			}
			if diff := cmp.Diff(before, tt.all, plain); diff != "" {
				t.Errorf("the argument was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// Each case is a bad lease "b" beside a good one "a", which must count anyway.
func TestAdmitRefuses(t *testing.T) {
	tests := map[string]struct {
		shares []subnet.Share
		want   string
	}{
		"no subnet":                      {nil, "lease b: subnet is missing: the lease has none of a family that the cluster has"},
		"a zero subnet":                  {[]subnet.Share{{Public: netip.MustParseAddr("192.0.2.3")}}, "lease b of 192.0.2.3: subnet is not valid"},
		"host bits":                      {[]subnet.Share{share("10.5.3.1/24", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.3.1/24 has bits set behind the prefix length; it would be 10.5.3.0/24"},
		"the whole network":              {[]subnet.Share{share("10.5.0.0/16", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.0.0/16 is the whole cluster network"},
		"around the network":             {[]subnet.Share{share("10.4.0.0/15", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.4.0.0/15 lies outside of the cluster network 10.5.0.0/16"},
		"the default route":              {[]subnet.Share{share("0.0.0.0/0", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 0.0.0.0/0 lies outside of the cluster network 10.5.0.0/16"},
		"outside":                        {[]subnet.Share{share("10.6.3.0/24", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.6.3.0/24 lies outside of the cluster network 10.5.0.0/16"},
		"outside in IPv6":                {[]subnet.Share{share("fd00:6:0:3::/64", "2001:db8::3", "")}, "lease b of 2001:db8::3: subnet fd00:6:0:3::/64 lies outside of the cluster network fd00:5::/48"},
		"two of one family":              {[]subnet.Share{share("10.5.3.0/24", "192.0.2.3", ""), share("10.5.4.0/24", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.4.0/24 is a second one of its family beside 10.5.3.0/24"},
		"our own subnet":                 {[]subnet.Share{share("10.5.1.0/24", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.1.0/24 overlaps our own 10.5.1.0/24"},
		"a part of our own":              {[]subnet.Share{share("10.5.1.128/25", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.1.128/25 overlaps our own 10.5.1.0/24"},
		"around our own in IPv6":         {[]subnet.Share{share("fd00:5::/60", "2001:db8::3", "")}, "lease b of 2001:db8::3: subnet fd00:5::/60 overlaps our own fd00:5:0:1::/64"},
		"another peer's subnet":          {[]subnet.Share{share("10.5.2.0/24", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.2.0/24 overlaps 10.5.2.0/24 of lease a, which came first"},
		"around another peer's":          {[]subnet.Share{share("10.5.2.0/23", "192.0.2.3", "")}, "lease b of 192.0.2.3: subnet 10.5.2.0/23 overlaps 10.5.2.0/24 of lease a, which came first"},
		"only the second family clashes": {[]subnet.Share{share("10.5.3.0/24", "192.0.2.3", ""), share("fd00:5:0:2::/64", "2001:db8::3", "")}, "lease b of 192.0.2.3: subnet fd00:5:0:2::/64 overlaps fd00:5:0:2::/64 of lease a, which came first"},

		"no public address":     {[]subnet.Share{{Subnet: netip.MustParsePrefix("10.5.3.0/24")}}, "lease b: public address is missing for 10.5.3.0/24"},
		"of the other family":   {[]subnet.Share{share("10.5.3.0/24", "2001:db8::3", "")}, "lease b of 2001:db8::3: public address 2001:db8::3 is of another family than the subnet 10.5.3.0/24"},
		"IPv4 mapped into IPv6": {[]subnet.Share{share("fd00:5:0:3::/64", "::ffff:192.0.2.3", "")}, "lease b of ::ffff:192.0.2.3: public address ::ffff:192.0.2.3 is of another family than the subnet fd00:5:0:3::/64"},
		"with a zone":           {[]subnet.Share{share("fd00:5:0:3::/64", "fe80::3%eth0", "")}, "lease b of fe80::3%eth0: public address fe80::3%eth0 has a zone, which means nothing to another node"},
		"unspecified":           {[]subnet.Share{share("10.5.3.0/24", "0.0.0.0", "")}, "lease b of 0.0.0.0: public address 0.0.0.0 is the unspecified address"},
		"loopback":              {[]subnet.Share{share("fd00:5:0:3::/64", "::1", "")}, "lease b of ::1: public address ::1 is a loopback address"},
		"link-local":            {[]subnet.Share{share("fd00:5:0:3::/64", "fe80::3", "")}, "lease b of fe80::3: public address fe80::3 is a link-local address"},
		"multicast":             {[]subnet.Share{share("10.5.3.0/24", "239.1.2.3", "")}, "lease b of 239.1.2.3: public address 239.1.2.3 is a multicast address"},
		"broadcast":             {[]subnet.Share{share("10.5.3.0/24", "255.255.255.255", "")}, "lease b of 255.255.255.255: public address 255.255.255.255 is the broadcast address"},
		"inside of the cluster": {[]subnet.Share{share("10.5.3.0/24", "10.5.77.7", "")}, "lease b of 10.5.77.7: public address 10.5.77.7 lies inside of the cluster network 10.5.0.0/16"},
		"our address":           {[]subnet.Share{share("10.5.3.0/24", "192.0.2.1", "")}, "lease b of 192.0.2.1: public address 192.0.2.1 is our own"},
	}
	good := lease("a", 6, share("10.5.2.0/24", "192.0.2.2", ""), share("fd00:5:0:2::/64", "2001:db8::2", ""))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ok, no := subnet.Admit(parse(t, clusterOfTwo), us(), []subnet.Lease{lease("b", 7, tt.shares...), us(), good})
			if diff := cmp.Diff([]string{"a"}, ids(ok)); diff != "" {
				t.Errorf("admitted (-want +have):\n%s", diff)
			}
			var have []string
			for _, s := range no {
				have = append(have, s.String())
			}
			if diff := cmp.Diff([]string{tt.want}, have); diff != "" {
				t.Errorf("refused (-want +have):\n%s", diff)
			}
		})
	}
}

// A node that was installed anew has two leases until the old one expires.
func TestAdmitTakesTwoLeasesOfOneAddress(t *testing.T) {
	all := []subnet.Lease{
		lease("old", 6, share("10.5.2.0/24", "192.0.2.2", "")), lease("new", 7, share("10.5.3.0/24", "192.0.2.2", "")),
	}
	ok, no := subnet.Admit(parse(t, clusterOfTwo), us(), all)
	if diff := cmp.Diff([]string{"old", "new"}, ids(ok)); diff != "" || len(no) > 0 {
		t.Errorf("admitted (-want +have):\n%s\nrefused: %v", diff, no)
	}
}

func TestAdmitRefusesOtherBackends(t *testing.T) {
	b := lease("b", 7, share("10.5.3.0/24", "192.0.2.3", ""))
	b.Backend, b.Node = "wireguard", "node-b"
	c := lease("c", 8, share("10.5.3.0/24", "192.0.2.3", ""))
	ok, no := subnet.Admit(parse(t, clusterOfTwo), us(), []subnet.Lease{b, c})
	want := []subnet.Skipped{{ID: "b", Node: "node-b", Field: "backend type", Reason: `is "wireguard", ours is "vxlan"`}}
	if diff := cmp.Diff(want, no); diff != "" {
		t.Errorf("refused (-want +have):\n%s", diff)
	}
	// What doesn't count takes no subnet and no address from others.
	if diff := cmp.Diff([]string{"c"}, ids(ok)); diff != "" {
		t.Errorf("admitted (-want +have):\n%s", diff)
	}
}

// An own lease outside of the network, as one has after a change of the
// configuration, or from Kubernetes, still keeps others off.
func TestAdmitKeepsOffOurOwnWhereverItIs(t *testing.T) {
	own := lease("us", 5, share("172.16.1.0/24", "192.0.2.1", ""))
	b := lease("b", 6, share("10.5.3.0/24", "172.16.1.9", ""))
	_, no := subnet.Admit(parse(t, clusterOfTwo), own, []subnet.Lease{b})
	want := []subnet.Skipped{{
		ID: "b", Node: "172.16.1.9", Field: "public address",
		Reason: "172.16.1.9 lies inside of our own subnet 172.16.1.0/24",
	}}
	if diff := cmp.Diff(want, no); diff != "" {
		t.Errorf("refused (-want +have):\n%s", diff)
	}
}

// However leases lie: what is admitted clashes with nothing, every other lease
// is refused with a reason, and the order of the argument doesn't matter.
func FuzzAdmit(f *testing.F) {
	f.Add(uint64(1), uint8(30), uint8(0))
	f.Add(uint64(2), uint8(200), uint8(6))
	f.Fuzz(func(t *testing.T, seed uint64, count, spread uint8) {
		random := rand.New(rand.NewPCG(seed, 0))
		cfg := parse(t, `{"Network":"10.5.0.0/24","EnableIPv6":true,"IPv6Network":"fd00:5::/56"}`)
		own := lease("us", 3, share("10.5.0.64/26", "192.0.2.1", ""), share("fd00:5:0:1::/64", "2001:db8::1", ""))
		all := []subnet.Lease{own}
		for i := range int(count) {
			l := lease(fmt.Sprint("n", i), int64(random.IntN(8)))
			for _, n := range cfg.Networks {
				public := netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(64))})
				if n.Prefix.Addr().Is6() {
					public = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", random.IntN(64)))
				}
				if random.IntN(8) > 0 {
					p := randomPrefix(random, n, int(spread%64))
					l.Shares = append(l.Shares, subnet.Share{Subnet: p, Public: public})
				}
			}
			all = append(all, l)
		}
		ok, no := subnet.Admit(cfg, own, all)
		if len(ok)+len(no)+1 != len(all) {
			t.Errorf("%d leases, but %d admitted and %d refused", len(all), len(ok), len(no))
		}
		for i, l := range ok {
			for _, other := range append([]subnet.Lease{own}, ok[:i]...) {
				if clash(l, other) || other.ID == own.ID && samePublic(l, other) {
					t.Errorf("both count, though they clash: %+v, %+v", l, other)
				}
			}
			for _, s := range l.Shares {
				if !slices.ContainsFunc(cfg.Networks, func(n subnet.Network) bool { return n.Prefix.Contains(s.Subnet.Addr()) }) {
					t.Errorf("%s is not in the cluster network", s.Subnet)
				}
			}
		}
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		again, noAgain := subnet.Admit(cfg, own, all)
		if diff := cmp.Diff([]any{ok, no}, []any{again, noAgain}, plain); diff != "" {
			t.Errorf("in another order (-before +after):\n%s", diff)
		}
	})
}

func clash(a, b subnet.Lease) bool {
	for _, s := range a.Shares {
		for _, other := range b.Shares {
			if s.Subnet.Overlaps(other.Subnet) {
				return true
			}
		}
	}
	return false
}

func samePublic(a, b subnet.Lease) bool {
	return slices.ContainsFunc(a.Shares, func(s subnet.Share) bool {
		return slices.ContainsFunc(b.Shares, func(other subnet.Share) bool { return s.Public == other.Public })
	})
}

func BenchmarkAdmit(b *testing.B) {
	cfg, all := large(b)
	own := all[77]
	for b.Loop() {
		if ok, no := subnet.Admit(cfg, own, all); len(ok) != len(all)-1 {
			b.Fatalf("%d admitted, refused: %v", len(ok), no)
		}
	}
}
