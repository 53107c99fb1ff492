package etcd

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// plain makes netip's values comparable for cmp.
func plain() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

// The keys and values are those that flannel v0.28.9 writes.
func TestWireForm(t *testing.T) {
	vtep := json.RawMessage(`{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:03"}`)
	vtep6 := json.RawMessage(`{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:04"}`)
	v4 := subnet.Share{Subnet: prefix("10.5.31.0/24"), Public: addr("192.168.77.1"), Data: vtep}
	v6 := subnet.Share{Subnet: prefix("fd00:5:0:37::/64"), Public: addr("fd77::1"), Data: vtep6}
	tests := map[string]struct {
		backend string
		shares  []subnet.Share
		key     string
		value   string
	}{
		"IPv4 vxlan": {
			"vxlan", []subnet.Share{v4}, "10.5.31.0-24",
			`{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan",` +
				`"BackendData":{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:03"}}`,
		},
		"dual stack vxlan": {
			"vxlan", []subnet.Share{v4, v6}, "10.5.31.0-24&fd00:5:0:37::-64",
			`{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan",` +
				`"BackendData":{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:03"},` +
				`"BackendV6Data":{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:04"}}`,
		},
		"IPv6 vxlan": {
			"vxlan", []subnet.Share{v6}, "0.0.0.0-0&fd00:5:0:37::-64",
			`{"PublicIP":"0.0.0.0","PublicIPv6":"fd77::1","BackendType":"vxlan",` +
				`"BackendV6Data":{"VNI":1,"VtepMAC":"2e:13:b9:65:3e:04"}}`,
		},
		"host-gw has no data": {
			"host-gw", []subnet.Share{{Subnet: v4.Subnet, Public: v4.Public}}, "10.5.31.0-24",
			`{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"host-gw"}`,
		},
		"alloc has no type either": {
			"alloc", []subnet.Share{{Subnet: v4.Subnet, Public: v4.Public}}, "10.5.31.0-24",
			`{"PublicIP":"192.168.77.1","PublicIPv6":null}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var subnets []netip.Prefix
			for _, s := range test.shares {
				subnets = append(subnets, s.Subnet)
			}
			key, err := encodeKey(subnets)
			if err != nil || key != test.key {
				t.Errorf("key: want %s, have %s (%v)", test.key, key, err)
			}
			value, err := encodeValue(test.backend, test.shares)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.value, string(value)); diff != "" {
				t.Errorf("value:\n%s", diff)
			}
			have, err := decodeLease(test.key, []byte(test.value))
			want := subnet.Lease{
				ID: test.key, Node: test.shares[0].Public.String(), Backend: test.backend, Shares: test.shares,
			}
			if diff := cmp.Diff(want, have, plain()); diff != "" || err != nil {
				t.Errorf("read back (%v):\n%s", err, diff)
			}
		})
	}
}

func TestDecodeTolerates(t *testing.T) {
	want := subnet.Lease{
		ID: "10.5.31.0-24", Node: "192.168.77.1", Backend: "vxlan",
		Shares: []subnet.Share{{
			Subnet: prefix("10.5.31.0/24"), Public: addr("192.168.77.1"), Data: json.RawMessage(`{"VNI":1}`),
		}},
	}
	tests := map[string]string{
		"fields that we don't know": `{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VNI":1},"Later":[1]}`,
		"another order, blanks":     ` { "BackendData" : { "VNI" : 1 } , "BackendType":"vxlan", "PublicIP":"192.168.77.1"} `,
		"keys in another case":      `{"publicip":"192.168.77.1","backendtype":"VXLAN","backenddata":{"VNI":1}}`,
		"a null and a stray family": `{"PublicIP":"192.168.77.1","PublicIPv6":"rubbish","BackendType":"vxlan",` +
			`"BackendData":{"VNI":1},"BackendV6Data":null}`,
	}
	for name, value := range tests {
		t.Run(name, func(t *testing.T) {
			have, err := decodeLease(want.ID, []byte(value))
			if diff := cmp.Diff(want, have, plain()); diff != "" || err != nil {
				t.Errorf("%v:\n%s", err, diff)
			}
		})
	}
}

func TestDecodeNamesTheField(t *testing.T) {
	good := `{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1"}`
	tests := map[string]struct {
		id, value, field, reason string
	}{
		"no length":             {"10.5.31.0", good, "subnet", "ADDRESS-LENGTH"},
		"not an address":        {"10.5.310.0-24", good, "subnet", `"10.5.310.0-24"`},
		"a length too much":     {"10.5.31.0-33", good, "subnet", "prefix length"},
		"a length with a zero":  {"10.5.31.0-024", good, "subnet", "prefix length"},
		"a host":                {"10.5.31.1-32", good, "subnet", "1 to 31"},
		"an IPv6 host":          {"0.0.0.0-0&fd00::1-128", good, "subnet", "1 to 127"},
		"everything":            {"0.0.0.0-0", good, "subnet", "1 to 31"},
		"host bits":             {"10.5.31.7-24", good, "subnet", "behind its length"},
		"IPv6 first":            {"fd00::-64", good, "subnet", "where IPv4 belongs"},
		"IPv4 twice":            {"10.5.31.0-24&10.5.32.0-24", good, "subnet", "where IPv6 belongs"},
		"IPv4 in IPv6":          {"10.5.31.0-24&::ffff:10.5.0.0-112", good, "subnet", "written as IPv6"},
		"a third":               {"10.5.31.0-24&fd00::-64&fd01::-64", good, "subnet", "prefix length"},
		"a folder":              {"10.5.31.0-24/x", good, "subnet", "prefix length"},
		"an empty value":        {"10.5.31.0-24", "", "value", "JSON"},
		"not an object":         {"10.5.31.0-24", "[]", "value", "JSON"},
		"half a value":          {"10.5.31.0-24", good[:20], "value", "JSON"},
		"no address":            {"10.5.31.0-24", `{"PublicIP":""}`, "PublicIP", "missing"},
		"not an address at all": {"10.5.31.0-24", `{"PublicIP":"here"}`, "PublicIP", `"here"`},
		"the wrong family":      {"10.5.31.0-24", `{"PublicIP":"fd77::1"}`, "PublicIP", "family"},
		"a number":              {"10.5.31.0-24", `{"PublicIP":7}`, "PublicIP", "number"},
		"a type that isn't":     {"10.5.31.0-24", `{"PublicIP":"1.2.3.4","BackendType":{}}`, "BackendType", "object"},
		"no IPv6 address":       {"10.5.31.0-24&fd00::-64", `{"PublicIP":"1.2.3.4"}`, "PublicIPv6", "missing"},
		"a scoped address":      {"0.0.0.0-0&fd00::-64", `{"PublicIPv6":"fe80::1%eth0"}`, "PublicIPv6", "not an address"},
		"IPv4 as IPv6":          {"0.0.0.0-0&fd00::-64", `{"PublicIPv6":"::ffff:1.2.3.4"}`, "PublicIPv6", "family"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decodeLease(test.id, []byte(test.value))
			if err == nil {
				t.Fatal("it was read")
			}
			have := skipped(test.id, err)
			if have.ID != test.id || have.Field != test.field || !strings.Contains(have.Reason, test.reason) {
				t.Errorf("want field %q and a reason with %q, have %+v", test.field, test.reason, have)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	keys := map[string][]netip.Prefix{
		"nothing":          nil,
		"an invalid one":   {{}},
		"a host":           {prefix("10.5.31.1/32")},
		"host bits":        {prefix("10.5.31.1/24")},
		"two of a family":  {prefix("10.5.31.0/24"), prefix("10.5.32.0/24")},
		"IPv6 first":       {prefix("fd00::/64"), prefix("10.5.31.0/24")},
		"two IPv6 subnets": {prefix("fd00::/64"), prefix("fd01::/64")},
	}
	for name, subnets := range keys {
		t.Run(name, func(t *testing.T) {
			if key, err := encodeKey(subnets); err == nil {
				t.Errorf("have %s", key)
			}
		})
	}
	values := map[string]subnet.Share{
		"no address":       {Subnet: prefix("10.5.31.0/24")},
		"the wrong family": {Subnet: prefix("10.5.31.0/24"), Public: addr("fd77::1")},
		"no JSON":          {Subnet: prefix("10.5.31.0/24"), Public: addr("1.2.3.4"), Data: json.RawMessage("{")},
	}
	for name, share := range values {
		t.Run(name, func(t *testing.T) {
			if value, err := encodeValue("vxlan", []subnet.Share{share}); err == nil {
				t.Errorf("have %s", value)
			}
		})
	}
}

// FuzzKey: what is read is valid, and its canonical form reads the same.
func FuzzKey(f *testing.F) {
	for _, seed := range []string{
		"10.5.31.0-24", "10.5.41.0-24&fd00:5:0:37::-64", "0.0.0.0-0&fd00:5:0:37::-64", "10.5.31.1-32", "10.5.31.0-024",
		"0.0.0.0-0", "fd00::-64", "10.5.31.0-24&&", "10.5.31.0-24&fd00:0:0:0::-64", "::ffff:1.2.3.0-120", "", "-", "&",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		subnets, err := decodeKey(id)
		if err != nil {
			return
		}
		canonical, err := encodeKey(subnets)
		if err != nil {
			t.Fatalf("%q reads as %v, which can't be written: %v", id, subnets, err)
		}
		again, err := decodeKey(canonical)
		if diff := cmp.Diff(subnets, again, plain()); diff != "" || err != nil {
			t.Fatalf("%q as %q (%v):\n%s", id, canonical, err, diff)
		}
	})
}

// FuzzValue: what is read can be written, and then reads the same.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{
		`{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}`,
		`{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendV6Data":[ "<&>" ]}`,
		`{"PublicIP":"0.0.0.0","PublicIPv6":"fd77::1"}`, `{"PublicIP":7}`, `{}`, `null`, `[]`, ``, `{"PublicIP":"1.2.3.4"`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Add([]byte(`{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"VXLAN","BackendData":{"a":"}"}}`), false)
	f.Add([]byte(`{"PublicIP":"1.2.3.4","PublicIPv6":"fd77::1","BackendData":{"a":1},"BackendV6Data":{}}`), true)
	f.Fuzz(func(t *testing.T, value []byte, dual bool) {
		sameAsJSON(t, value)
		id := "10.5.31.0-24"
		if dual {
			id = "10.5.41.0-24&fd00:5:0:37::-64"
		}
		l, err := decodeLease(id, value)
		if err != nil {
			if s := skipped(id, err); s.Field == "" || s.Reason == "" {
				t.Fatalf("an error that names nothing: %v", err)
			}
			return
		}
		first, err := encodeValue(l.Backend, l.Shares)
		if err != nil {
			t.Fatalf("%q can't be written: %v", value, err)
		}
		again, err := decodeLease(id, first)
		if err != nil {
			t.Fatalf("%q was written as %q: %v", value, first, err)
		}
		second, err := encodeValue(again.Backend, again.Shares)
		if string(first) != string(second) || err != nil {
			t.Fatalf("%q became %q (%v)", first, second, err)
		}
	})
}

// sameAsJSON: what the short way reads encoding/json reads, and reads the same.
func sameAsJSON(t *testing.T, value []byte) {
	t.Helper()
	have, ok := parseExact(value)
	if !ok {
		return
	}
	want := wireValue{exact: true}
	if err := json.Unmarshal(value, &want); err != nil {
		t.Fatalf("%q is taken as %+v, but %v", value, have, err)
	}
	if d := cmp.Diff(want, have, cmp.AllowUnexported(wireValue{})); d != "" {
		t.Fatalf("%q (-encoding/json +ours):\n%s", value, d)
	}
}

// The common form must not fall out of the short way unnoticed.
func TestCommonValuesAreReadTheShortWay(t *testing.T) {
	for _, value := range []string{
		`{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`,
		`{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan","BackendData":{"VNI":1},"BackendV6Data":{"VNI":1}}`,
		`{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"host-gw"}`,
	} {
		if _, ok := parseExact([]byte(value)); !ok {
			t.Errorf("%s is not", value)
		}
		sameAsJSON(t, []byte(value))
	}
}
