package subnet_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

const (
	fourSlots = `{"Network":"10.5.0.0/24","SubnetMin":"10.5.0.0"}`                               // of /26
	dual      = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}`        // 255 and 65,535
	wide      = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/8","Backend":null}` // 2^56-1 of /64
)

// holding is a lease with these subnets and nothing else.
func holding(subnets ...string) subnet.Lease {
	var l subnet.Lease
	for _, s := range subnets {
		l.Shares = append(l.Shares, subnet.Share{Subnet: netip.MustParsePrefix(s)})
	}
	return l
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestAllocate(t *testing.T) {
	first := func(int) int { return 0 }
	last := func(n int) int { return n - 1 }
	tests := map[string]struct {
		cfg    string
		taken  []subnet.Lease
		prefer []netip.Prefix
		pick   func(int) int
		want   []netip.Prefix
	}{
		"the first":             {fourSlots, nil, nil, first, prefixes("10.5.0.0/26")},
		"the last":              {fourSlots, nil, nil, last, prefixes("10.5.0.192/26")},
		"the first after a gap": {fourSlots, []subnet.Lease{holding("10.5.0.0/26")}, nil, first, prefixes("10.5.0.64/26")},
		"the last before the end": {
			fourSlots, []subnet.Lease{holding("10.5.0.192/26")}, nil, last, prefixes("10.5.0.128/26"),
		},
		"one per family": {dual, nil, nil, first, prefixes("10.5.1.0/24", "fd00:5:0:1::/64")},
		"families are independent": {
			dual, []subnet.Lease{holding("10.5.1.0/24")}, nil, first,
			prefixes("10.5.2.0/24", "fd00:5:0:1::/64"),
		},
		"the only one that is free": {
			fourSlots,
			[]subnet.Lease{holding("10.5.0.192/26"), holding("10.5.0.0/26"), holding("10.5.0.64/26")}, nil, first,
			prefixes("10.5.0.128/26"),
		},
		"a longer lease takes its slot, a shorter one all of its slots": {
			fourSlots, []subnet.Lease{holding("10.5.0.77/32"), holding("10.5.0.128/25")}, nil, last,
			prefixes("10.5.0.0/26"),
		},
		"a larger lease that begins where a smaller one does": {
			fourSlots, []subnet.Lease{holding("10.5.0.0/26"), holding("10.5.0.0/25")}, nil, first,
			prefixes("10.5.0.128/26"),
		},
		"a lease around the range, one nested in it, one outside": {
			fourSlots, []subnet.Lease{holding("10.4.0.0/16"), holding("10.5.0.0/25"), holding("10.5.0.0/27")}, nil, first,
			prefixes("10.5.0.128/26"),
		},
		"the preferred": {fourSlots, nil, prefixes("10.5.0.128/26"), first, prefixes("10.5.0.128/26")},
		"the first preferred in two": {
			dual, nil, prefixes("fd00:5:0:7::/64", "10.5.9.0/24", "10.5.8.0/24"), last,
			prefixes("10.5.9.0/24", "fd00:5:0:7::/64"),
		},
		"the second preferred, as the first is taken by a part of it": {
			fourSlots, []subnet.Lease{holding("10.5.0.65/32")}, prefixes("10.5.0.64/26", "10.5.0.192/26"), first,
			prefixes("10.5.0.192/26"),
		},
		"the preferred are of another length, outside, not masked": {
			fourSlots, nil, prefixes("10.5.0.128/27", "10.6.0.0/26", "10.5.0.129/26"), first, prefixes("10.5.0.0/26"),
		},
		"the preferred is below SubnetMin": {
			dual, nil, prefixes("10.5.0.0/24"), first, prefixes("10.5.1.0/24", "fd00:5:0:1::/64"),
		},
		"the first of 2^56": {wide, nil, nil, first, prefixes("fd00:0:0:1::/64")},
		// It is refused as often as asked, as the range is no power of two;
		// what is left then must still be in range.
		"a pick that always gives the most": {wide, nil, nil, last, prefixes("fd00:0:0:1::/64")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have, err := subnet.Allocate(parse(t, tt.cfg), tt.taken, tt.prefer, tt.pick)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, have, plain); diff != "" {
				t.Errorf("subnets (-want +have):\n%s", diff)
			}
		})
	}
}

func TestAllocateExhausted(t *testing.T) {
	tests := map[string]struct {
		cfg   string
		taken []subnet.Lease
		want  string
	}{
		"each subnet has a lease": {
			fourSlots,
			[]subnet.Lease{
				holding("10.5.0.0/26"), holding("10.5.0.64/26"), holding("10.5.0.128/26"), holding("10.5.0.192/26"),
			},
			"no free subnet is left in the cluster network: in 10.5.0.0/24 all 4 subnets of length 26 " +
				"from 10.5.0.0 to 10.5.0.192 are taken, by 4 leases; " +
				"delete leases of nodes that are gone, or configure a larger network",
		},
		"one lease takes all of one family": {
			dual, []subnet.Lease{holding("fd00::/15")},
			"no free subnet is left in the cluster network: in fd00:5::/48 all 65535 subnets of length 64 " +
				"from fd00:5:0:1:: to fd00:5:0:ffff:: are taken, by 1 leases; " +
				"delete leases of nodes that are gone, or configure a larger network",
		},
		"one lease takes the world": {
			wide, []subnet.Lease{holding("::/0")},
			"no free subnet is left in the cluster network: in fd00::/8 all 72057594037927935 subnets of length 64 " +
				"from fd00:0:0:1:: to fdff:ffff:ffff:ffff:: are taken, by 1 leases; " +
				"delete leases of nodes that are gone, or configure a larger network",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have, err := subnet.Allocate(parse(t, tt.cfg), tt.taken, nil, rand.IntN)
			if have != nil || !errors.Is(err, subnet.ErrExhausted) {
				t.Fatalf("want ErrExhausted, have %v, %v", have, err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +have):\n%s", diff)
			}
		})
	}
}

// Fill a range to the last subnet: every slot is given out exactly once.
func TestAllocateUntilFull(t *testing.T) {
	for name, raw := range map[string]string{
		"255 of /24":  `{"Network":"10.5.0.0/16"}`,
		"1023 of /64": `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/54"}`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, raw)
			random := rand.New(rand.NewPCG(1, 2))
			given := map[netip.Prefix]bool{}
			var taken []subnet.Lease
			for {
				have, err := subnet.Allocate(cfg, taken, nil, random.IntN)
				if errors.Is(err, subnet.ErrExhausted) {
					break
				}
				if err != nil || given[have[0]] {
					t.Fatalf("%v, %v: given before: %v", have, err, given[have[0]])
				}
				given[have[0]] = true
				taken = append(taken, subnet.Lease{Shares: []subnet.Share{{Subnet: have[0]}}})
			}
			if want := strings.Fields(name)[0]; want != strconv.Itoa(len(given)) {
				t.Errorf("want %s subnets, have %d", want, len(given))
			}
		})
	}
}

// Each free subnet is as likely as the others, in a small range and in one
// that needs more than one pick.
func TestAllocateIsUniform(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	t.Run("four, one of them taken", func(t *testing.T) {
		cfg, taken := parse(t, fourSlots), []subnet.Lease{holding("10.5.0.64/26")}
		count := map[netip.Prefix]int{}
		for range 3000 {
			have, err := subnet.Allocate(cfg, taken, nil, random.IntN)
			if err != nil {
				t.Fatal(err)
			}
			count[have[0]]++
		}
		for p, n := range count {
			if n < 900 || n > 1100 { // 4 standard deviations
				t.Errorf("%s was given %d times of 3000, want about 1000", p, n)
			}
		}
		if len(count) != 3 {
			t.Errorf("want 3 different subnets, have %v", count)
		}
	})
	t.Run("2^56", func(t *testing.T) {
		cfg := parse(t, wide)
		var upper [8]int // by the three highest bits of the slot
		for range 8000 {
			have, err := subnet.Allocate(cfg, nil, nil, random.IntN)
			if err != nil {
				t.Fatal(err)
			}
			upper[have[0].Addr().As16()[1]>>5]++
		}
		for i, n := range upper {
			if n < 880 || n > 1120 {
				t.Errorf("eighth %d was given %d times of 8000, want about 1000", i, n)
			}
		}
	})
}

// However leases lie, what is given overlaps none and is in range; and nothing
// is given only if there is nothing.
func FuzzAllocate(f *testing.F) {
	f.Add(uint64(1), uint8(20), uint8(3), true)
	f.Add(uint64(2), uint8(120), uint8(0), false)
	f.Add(uint64(3), uint8(255), uint8(9), true)
	f.Fuzz(func(t *testing.T, seed uint64, leases, longer uint8, six bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		cfg := parse(t, `{"Network":"10.5.0.0/24","SubnetLen":29}`)
		if six {
			cfg = parse(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/112","IPv6SubnetLen":117}`)
		}
		n := cfg.Networks[0]
		var taken []subnet.Lease
		for range leases {
			p := randomPrefix(random, n, int(longer))
			taken = append(taken, subnet.Lease{Shares: []subnet.Share{{Subnet: p}}})
		}
		overlaps := func(p netip.Prefix) bool {
			for _, l := range taken {
				if p.Overlaps(l.Shares[0].Subnet) {
					return true
				}
			}
			return false
		}
		prefer := []netip.Prefix{randomPrefix(random, n, 0)}
		have, err := subnet.Allocate(cfg, taken, prefer, random.IntN)
		if err != nil {
			for a := n.Min; !n.Max.Less(a); a = after(netip.PrefixFrom(a, n.SubnetLen)) {
				if p := netip.PrefixFrom(a, n.SubnetLen); !overlaps(p) {
					t.Fatalf("%s is free, but: %v", p, err)
				}
			}
			return
		}
		p := have[0]
		if p != p.Masked() || p.Bits() != n.SubnetLen || p.Addr().Less(n.Min) || n.Max.Less(p.Addr()) || overlaps(p) {
			t.Errorf("%s is not a free subnet of %+v", p, n)
		}
	})
}

// randomPrefix lies in the network, or a little below or above; its length is
// up to spread from a slot's.
func randomPrefix(random *rand.Rand, n subnet.Network, spread int) netip.Prefix {
	bits := n.SubnetLen + random.IntN(2*spread+1) - spread
	a := n.Prefix.Addr().AsSlice()
	for i := n.Prefix.Bits() / 8; i < len(a); i++ {
		a[i] = byte(random.Uint32())
	}
	if random.IntN(8) == 0 {
		a[len(a)-3] ^= 1
	}
	ip, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(ip, min(max(bits, 1), ip.BitLen())).Masked()
}

// after is the address behind a prefix.
func after(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for bit := p.Bits() - 1; bit >= 0; bit-- {
		mask := byte(0x80) >> (bit % 8)
		a[bit/8] ^= mask
		if a[bit/8]&mask != 0 {
			break
		}
	}
	ip, _ := netip.AddrFromSlice(a)
	return ip
}

// 10,000 leases in a /48 of /64.
func BenchmarkAllocate(b *testing.B) {
	cfg := parse(b, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}`)
	random := rand.New(rand.NewPCG(5, 6))
	var taken []subnet.Lease
	for range 10_000 {
		have, err := subnet.Allocate(cfg, nil, nil, random.IntN)
		if err != nil {
			b.Fatal(err)
		}
		taken = append(taken, subnet.Lease{Shares: []subnet.Share{{Subnet: have[0]}}})
	}
	for b.Loop() {
		if _, err := subnet.Allocate(cfg, taken, nil, random.IntN); err != nil {
			b.Fatal(err)
		}
	}
}
