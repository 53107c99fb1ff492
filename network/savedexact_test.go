package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

// TestSavedSnapshotIsJSON compares what is written by hand with encoding/json, and what
// is read by hand as well, where it takes it.
func TestSavedSnapshotIsJSON(t *testing.T) {
	with := func(change func(*subnet.Lease)) []subnet.Lease {
		l := someLease
		l.Shares = slices.Clone(l.Shares)
		change(&l)
		return []subnet.Lease{someLease, l}
	}
	share := func(change func(*subnet.Share)) []subnet.Lease {
		return with(func(l *subnet.Lease) { change(&l.Shares[0]) })
	}
	tests := map[string]struct {
		leases []subnet.Lease
		exact  bool // read by hand
	}{
		"none":       {nil, false},
		"of no node": {[]subnet.Lease{}, false},
		"usual":      {with(func(*subnet.Lease) {}), true},
		"of a node":  {with(func(l *subnet.Lease) { l.Node = "node-1.example" }), true},
		"two families": {with(func(l *subnet.Lease) {
			l.Shares = append(l.Shares, subnet.Share{
				Subnet: netip.MustParsePrefix("fd00:1::/64"), Public: netip.MustParseAddr("fd01::1"), Data: []byte(`{"a":{"b":1}}`),
			})
		}), true},
		"negative":            {with(func(l *subnet.Lease) { l.Created = -5 }), true},
		"very large":          {with(func(l *subnet.Lease) { l.Revision = 1<<63 - 1 }), false},
		"an end":              {with(func(l *subnet.Lease) { l.Expires = time.Unix(1e9, 5) }), false},
		"no shares":           {with(func(l *subnet.Lease) { l.Shares = nil }), false},
		"shares, but none":    {with(func(l *subnet.Lease) { l.Shares = []subnet.Share{} }), false},
		"a quote":             {with(func(l *subnet.Lease) { l.Node = `a"b` }), false},
		"a backslash":         {with(func(l *subnet.Lease) { l.Node = `a\b` }), false},
		"an umlaut":           {with(func(l *subnet.Lease) { l.Node = "ä" }), false},
		"no UTF-8":            {with(func(l *subnet.Lease) { l.Node = "\xff" }), false},
		"HTML":                {with(func(l *subnet.Lease) { l.Backend = "<a>&" }), false},
		"a line":              {with(func(l *subnet.Lease) { l.ID = "a\nb" }), false},
		"no data":             {share(func(s *subnet.Share) { s.Data = nil }), false},
		"data null":           {share(func(s *subnet.Share) { s.Data = []byte("null") }), false},
		"data with blanks":    {share(func(s *subnet.Share) { s.Data = []byte(`{"a": "b c"}`) }), true},
		"data with HTML":      {share(func(s *subnet.Share) { s.Data = []byte(`{"a":"<"}`) }), false},
		"no subnet":           {share(func(s *subnet.Share) { s.Subnet = netip.Prefix{} }), true},
		"no public address":   {share(func(s *subnet.Share) { s.Public = netip.Addr{} }), true},
		"an address's zone":   {share(func(s *subnet.Share) { s.Public = netip.MustParseAddr("fe80::1%eth0") }), true},
		"an IPv4 address in6": {share(func(s *subnet.Share) { s.Public = netip.MustParseAddr("::ffff:10.0.0.1") }), true},
	}
	for name, test := range tests {
		for _, doubted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, doubted %t", name, doubted), func(t *testing.T) {
				s := savedSnapshot{"e", 9, []byte(`{"Network":"10.42.0.0/16","Note":"null {"}`), test.leases, doubted}
				want, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				have, err := encodeSnapshot(s)
				if err != nil || string(have) != string(want) {
					t.Fatalf("%v\nwant %s\nhave %s", err, want, have)
				}
				back, exact := decodeSnapshot(have)
				if exact != test.exact {
					t.Fatalf("read by hand: %t", exact)
				}
				var read savedSnapshot
				if err := json.Unmarshal(have, &read); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(read, back, comparePrefixes); exact && d != "" {
					t.Errorf("(-want +have)\n%s", d)
				}
			})
		}
	}
	if _, err := encodeSnapshot(savedSnapshot{Leases: share(func(s *subnet.Share) { s.Data = []byte("{") })}); err == nil {
		t.Error("data that is no JSON is written")
	}
}

// What is taken by hand means the same to encoding/json.
func FuzzDecodeSnapshot(f *testing.F) {
	for _, doubted := range []bool{false, true} {
		seed, err := encodeSnapshot(savedSnapshot{"e", 9, []byte("{}"), []subnet.Lease{someLease, someLease}, doubted})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		have, ok := decodeSnapshot(body)
		if !ok {
			return
		}
		var want savedSnapshot
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("%s\nis taken, but %v", body, err)
		}
		if d := cmp.Diff(want, have, comparePrefixes); d != "" {
			t.Errorf("(-want +have)\n%s", d)
		}
	})
}

// Both directions with 10,000 leases.
func BenchmarkSavedSnapshot(b *testing.B) {
	s := savedSnapshot{Epoch: "e", Revision: 9, Config: []byte("{}")}
	for i := range 10_000 {
		l := someLease
		l.ID = fmt.Sprintf("10.%d.%d.0-24", i/256, i%256)
		s.Leases = append(s.Leases, l)
	}
	raw, err := encodeSnapshot(s)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			_, _ = encodeSnapshot(s)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, ok := decodeSnapshot(raw); !ok {
				b.Fatal("not read by hand")
			}
		}
	})
}
