package subnet_test

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/subnet"
)

const (
	ourMAC   = `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`
	otherMAC = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
)

func share(prefix, public, data string) subnet.Share {
	s := subnet.Share{Subnet: netip.MustParsePrefix(prefix), Public: netip.MustParseAddr(public)}
	if data != "" {
		s.Data = []byte(data)
	}
	return s
}

// announcing is a claim with a public address and data in each family.
func announcing(data string, publics ...string) subnet.Claim {
	var c subnet.Claim
	for _, public := range publics {
		s := subnet.Share{Public: netip.MustParseAddr(public)}
		if data != "" {
			s.Data = []byte(data)
		}
		c.Shares = append(c.Shares, s)
	}
	return c
}

func lease(id string, created int64, shares ...subnet.Share) subnet.Lease {
	return subnet.Lease{ID: id, Backend: "vxlan", Created: created, Revision: created, Shares: shares}
}

func TestMine(t *testing.T) {
	const us, elsewhere, us6, elsewhere6 = "192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::9"
	withState := func(c subnet.Claim, id string, created int64) subnet.Claim {
		c.ID, c.Created = id, created
		return c
	}
	withPrevious := func(c subnet.Claim, previous ...string) subnet.Claim {
		c.Previous = prefixes(previous...)
		return c
	}
	ours := lease("a", 7, share("10.5.1.0/24", us, ourMAC))
	both := lease("d", 7, share("10.5.1.0/24", us, ourMAC), share("fd00:5:0:1::/64", us6, ourMAC))
	tests := map[string]struct {
		claim  subnet.Claim
		leases []subnet.Lease
		want   string // ID
	}{
		"an empty store": {announcing(ourMAC, us), nil, ""},
		"by the state file, though the address changed": {
			withState(announcing(otherMAC, elsewhere), "a", 7), []subnet.Lease{ours}, "a",
		},
		"the state file names one that was created anew": {
			withState(announcing(otherMAC, elsewhere), "a", 6), []subnet.Lease{ours}, "",
		},
		"the state file names another": {
			withState(announcing(otherMAC, elsewhere), "b", 7), []subnet.Lease{ours}, "",
		},
		"an empty ID and no Created are no state file": {
			announcing(otherMAC, elsewhere), []subnet.Lease{lease("", 0, share("10.5.1.0/24", us, ""))}, "",
		},
		"the address alone proves nothing": {announcing(otherMAC, us), []subnet.Lease{ours}, ""},
		"the address and subnet.env":       {withPrevious(announcing(otherMAC, us), "10.5.1.0/24"), []subnet.Lease{ours}, "a"},
		"subnet.env alone proves nothing": {
			withPrevious(announcing(otherMAC, elsewhere), "10.5.1.0/24"), []subnet.Lease{ours}, "",
		},
		"the address and another subnet.env": {
			withPrevious(announcing(otherMAC, us), "10.5.2.0/24"), []subnet.Lease{ours}, "",
		},
		"the address and the data": {announcing(ourMAC, us), []subnet.Lease{ours}, "a"},
		"the address and the data in other words": {
			announcing(`{ "VtepMAC": "02:00:00:00:00:01", "VNI": 1 }`, us), []subnet.Lease{ours}, "a",
		},
		"the data alone proves nothing": {announcing(ourMAC, elsewhere), []subnet.Lease{ours}, ""},
		"data that every node has proves nothing": {
			announcing("null", us), []subnet.Lease{lease("a", 7, share("10.5.1.0/24", us, "null"))}, "",
		},
		"empty data proves nothing": {
			announcing("{}", us), []subnet.Lease{lease("a", 7, share("10.5.1.0/24", us, "{ }"))}, "",
		},
		"no data proves nothing": {announcing("", us), []subnet.Lease{lease("a", 7, share("10.5.1.0/24", us, ""))}, ""},
		"numbers beyond float64 differ": {
			announcing(`{"n":9007199254740993}`, us),
			[]subnet.Lease{lease("a", 7, share("10.5.1.0/24", us, `{"n":9007199254740992}`))}, "",
		},
		"dual stack, both addresses": {announcing(ourMAC, us, us6), []subnet.Lease{both}, "d"},
		"dual stack, one of two addresses is another's": {
			withPrevious(announcing(ourMAC, us, elsewhere6), "10.5.1.0/24"), []subnet.Lease{both}, "",
		},
		"a single-stack lease of a node that is dual now": {announcing(ourMAC, us, us6), []subnet.Lease{ours}, "a"},
		"families that have nothing in common":            {announcing(ourMAC, us6), []subnet.Lease{ours}, ""},
		"the state file goes before the address": {
			withState(announcing(ourMAC, us), "z", 9),
			[]subnet.Lease{ours, lease("z", 9, share("10.5.3.0/24", elsewhere, otherMAC))}, "z",
		},
		"subnet.env goes before the data": {
			withPrevious(announcing(ourMAC, us), "10.5.4.0/24"),
			[]subnet.Lease{ours, lease("y", 9, share("10.5.4.0/24", us, otherMAC))}, "y",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have, found := subnet.Mine(tt.claim, tt.leases)
			if have.ID != tt.want || found != (tt.want != "") {
				t.Errorf("want %q, have %q, %v", tt.want, have.ID, found)
			}
		})
	}
}

func TestCompatible(t *testing.T) {
	const narrow = `{"Network":"10.5.0.0/16","SubnetMin":"10.5.2.0","SubnetMax":"10.5.4.0"}`
	tests := map[string]struct {
		cfg   string
		lease subnet.Lease
		want  bool
	}{
		"the first":                   {narrow, holding("10.5.2.0/24"), true},
		"the last":                    {narrow, holding("10.5.4.0/24"), true},
		"below the first":             {narrow, holding("10.5.1.0/24"), false},
		"above the last":              {narrow, holding("10.5.5.0/24"), false},
		"longer":                      {narrow, holding("10.5.2.0/25"), false},
		"shorter":                     {narrow, holding("10.5.2.0/23"), false},
		"not masked":                  {narrow, holding("10.5.3.1/24"), false},
		"of the other family":         {narrow, holding("fd00:5:0:1::/64"), false},
		"nothing":                     {narrow, holding(), false},
		"both families":               {dual, holding("10.5.2.0/24", "fd00:5:0:1::/64"), true},
		"one of two families":         {dual, holding("10.5.2.0/24"), false},
		"one family twice":            {dual, holding("10.5.2.0/24", "10.5.3.0/24"), false},
		"a family more than there is": {narrow, holding("10.5.2.0/24", "fd00:5:0:1::/64"), false},
		"the second doesn't fit":      {dual, holding("10.5.2.0/24", "fd00:6:0:1::/64"), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if have := subnet.Compatible(parse(t, tt.cfg), tt.lease); have != tt.want {
				t.Errorf("want %v, have %v", tt.want, have)
			}
		})
	}
}
