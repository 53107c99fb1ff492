package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/subnet"
)

var plain = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// fixture is a Node as flannel v0.28.9 leaves it.
func fixture(t testing.TB, name string) *node {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var n corev1.Node
	if err := json.Unmarshal(raw, &n); err != nil {
		t.Fatal(err)
	}
	out, err := trimmer{keys: flannelKeys(t).all()}.trim(&n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func flannelKeys(t testing.TB) keys {
	t.Helper()
	k, err := newKeys(defaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What flannel writes is read, and what we would write in its place is the
// same, byte for byte. ours is where it isn't: nil is what is taken away.
func TestFlannelsNodes(t *testing.T) {
	four := subnet.Share{
		Subnet: prefix("10.244.1.0/24"), Public: addr("192.168.77.1"),
		Data: json.RawMessage(`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`),
	}
	six := subnet.Share{
		Subnet: prefix("fd00:10:244:1::/64"), Public: addr("fd77::1"),
		Data: json.RawMessage(`{"VNI":1,"VtepMAC":"9e:04:53:d1:2a:77"}`),
	}
	with := func(s subnet.Share, data string) subnet.Share {
		s.Data = nil
		if data != "" {
			s.Data = json.RawMessage(data)
		}
		return s
	}
	at := func(s subnet.Share, public string) subnet.Share {
		s.Public = addr(public)
		return s
	}
	plainFour, plainSix := with(four, ""), with(six, "")
	for name, tt := range map[string]struct {
		backend string
		shares  []subnet.Share
		ours    map[string]*string
	}{
		"vxlan":             {"vxlan", []subnet.Share{four}, nil},
		"dual":              {"vxlan", []subnet.Share{four, six}, nil},
		"six":               {"vxlan", []subnet.Share{six}, nil},
		"one-family-of-two": {"vxlan", []subnet.Share{four}, nil},
		"dual-with-overwrites": {
			"vxlan", []subnet.Share{at(four, "203.0.113.7"), at(six, "2001:db8::7")}, nil,
		},
		"host-gw":      {"host-gw", []subnet.Share{plainFour}, nil},
		"host-gw-dual": {"host-gw", []subnet.Share{plainFour, plainSix}, nil},
		"host-gw-six": { // flannel gives an address of the family that it doesn't have, which nobody reads
			"host-gw", []subnet.Share{plainSix},
			map[string]*string{defaultPrefix + "/public-ip": nil, defaultPrefix + "/backend-data": nil},
		},
		"alloc": {"alloc", []subnet.Share{plainFour}, nil},
		"wireguard": {
			"wireguard", []subnet.Share{with(four, `{"PublicKey":"8I1k1tU7sxnUFtXwwxf1XyUQcC8sD9G2uXrx4n2Nmx0=","Port":51820}`)}, nil,
		},
		"appliance": {"vxlan", []subnet.Share{with(four, `{"VtepMAC":"12:c6:65:89:b4:e3"}`)}, nil}, // poses as a node
	} {
		t.Run(name, func(t *testing.T) {
			n, k := fixture(t, name), flannelKeys(t)
			want := subnet.Lease{Node: "node-1", Backend: tt.backend, Shares: tt.shares, Created: n.created(), Revision: 4711}
			var subnets []netip.Prefix
			for _, s := range tt.shares {
				subnets = append(subnets, s.Subnet)
			}
			want.ID = idOf("node-1", subnets)
			have, managed, err := k.lease(n)
			if err != nil || !managed {
				t.Fatalf("managed: %v, error: %v", managed, err)
			}
			if d := gocmp.Diff(want, have, plain); d != "" {
				t.Errorf("lease (-want +have):\n%s", d)
			}
			announced, err := k.announcement(have.Backend, have.Shares)
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(tt.ours, k.difference(n, announced), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("what we would write (-want +have):\n%s", d)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	for flag, want := range map[string]string{ // backend-data's key, or a part of the error
		"flannel.alpha.coreos.com": "flannel.alpha.coreos.com/backend-data",
		"example.com/":             "example.com/backend-data",
		"example.com/weft":         "example.com/weft-backend-data",
		"example.com/weft-":        "example.com/weft-backend-data",
		"a/b/c":                    "more than one slash",
		"a b":                      "is not a DNS name",
		"/weft":                    "is not a DNS name",
	} {
		k, err := newKeys(flag)
		have := fmt.Sprint(err)
		if err == nil {
			have = k.families[0].data
		}
		if !strings.Contains(have, want) {
			t.Errorf("%q: want %q, have %q", flag, want, have)
		}
	}
}

// Each case is flannel's Node of vxlan with one thing wrong.
func TestBadNodes(t *testing.T) {
	const p = defaultPrefix + "/"
	for name, c := range map[string]struct {
		spoil func(*node)
		want  string
	}{
		"no pod subnet":      {func(n *node) { n.podCIDRs = nil }, "podCIDR is missing"},
		"three":              {func(n *node) { n.podCIDRs = []string{"10.0.0.0/24", "10.0.1.0/24", "fd00::/64"} }, "podCIDRs has 3 entries: one, or one of each family, is possible"},
		"two of one family":  {func(n *node) { n.podCIDRs = []string{"10.0.0.0/24", "10.0.1.0/24"} }, "podCIDRs has two subnets of one family, 10.0.0.0/24 and 10.0.1.0/24"},
		"the default route":  {func(n *node) { n.podCIDRs = []string{"0.0.0.0/0"} }, `podCIDRs has "0.0.0.0/0", which is not a pod subnet`},
		"no subnet at all":   {func(n *node) { n.podCIDRs = []string{"pods"} }, `podCIDRs has "pods", which is not a pod subnet`},
		"no backend":         {func(n *node) { delete(n.annotations, p+"backend-type") }, p + "backend-type is missing"},
		"no address":         {func(n *node) { delete(n.annotations, p+"public-ip") }, p + "public-ip is missing"},
		"an empty address":   {func(n *node) { n.annotations[p+"public-ip"] = "" }, p + `public-ip "" is not an address`},
		"a name":             {func(n *node) { n.annotations[p+"public-ip"] = "node-1" }, p + `public-ip "node-1" is not an address`},
		"another family":     {func(n *node) { n.annotations[p+"public-ip"] = "fd77::1" }, p + "public-ip fd77::1 is of the wrong family"},
		"mapped":             {func(n *node) { n.annotations[p+"public-ip"] = "::ffff:192.0.2.1" }, p + "public-ip ::ffff:192.0.2.1 is of the wrong family"},
		"data that is not":   {func(n *node) { n.annotations[p+"backend-data"] = `{"VNI":` }, p + `backend-data is not JSON: {"VNI":`},
		"a megabyte of data": {func(n *node) { n.annotations[p+"backend-data"] = strings.Repeat("[", maxValue+1) }, p + "backend-data is longer than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			n := fixture(t, "vxlan")
			c.spoil(n)
			v := newView(flannelKeys(t))
			v.replace(map[string]*node{n.name: n}, 5000)
			s := v.snapshot()
			if len(s.Leases) != 0 || len(s.Malformed) != 1 {
				t.Fatalf("want no lease and one malformed Node, have %+v", s)
			}
			m := s.Malformed[0]
			if have := m.Field + " " + m.Reason; m.ID != "node-1" || have != c.want {
				t.Errorf("want %q, have %q of %s", c.want, have, m.ID)
			}
		})
	}
}

func TestUnmanagedNodesSayNothing(t *testing.T) {
	n := fixture(t, "vxlan")
	delete(n.annotations, defaultPrefix+"/kube-subnet-manager")
	v := newView(flannelKeys(t))
	v.replace(map[string]*node{n.name: n}, 5000)
	if s := v.snapshot(); len(s.Leases)+len(s.Malformed) != 0 {
		t.Errorf("want nothing, have %+v", s)
	}
}

// Of a podCIDR of a family that the overlay doesn't have nothing is said.
func TestOneFamilyOfTwo(t *testing.T) {
	n := fixture(t, "dual")
	delete(n.annotations, defaultPrefix+"/public-ipv6")
	l, _, err := flannelKeys(t).lease(n)
	if err != nil || len(l.Shares) != 1 || l.ID != "node-1:10.244.1.0/24" {
		t.Errorf("want the IPv4 share alone, have %+v, %v", l, err)
	}
}

func TestAHeartbeatChangesNothing(t *testing.T) {
	n := fixture(t, "dual")
	v := newView(flannelKeys(t))
	v.replace(map[string]*node{n.name: n}, 5000)
	before, generation := v.snapshot(), v.generation
	beat := fixture(t, "dual")
	beat.revision = 6000
	if v.put(beat) || v.generation != generation {
		t.Error("a heartbeat is taken for news")
	}
	after := v.snapshot()
	if d := gocmp.Diff(before.Leases, after.Leases, plain); d != "" {
		t.Errorf("leases (-before +after):\n%s", d)
	}
	moved := fixture(t, "dual")
	moved.revision = 6001
	moved.annotations[defaultPrefix+"/public-ipv6"] = "fd77::2"
	if !v.put(moved) || v.snapshot().Leases[0].Revision != 6001 {
		t.Errorf("a changed address of one family is no news: %+v", v.snapshot().Leases)
	}
}

func TestDifference(t *testing.T) {
	n, k := fixture(t, "dual"), flannelKeys(t)
	n.annotations[defaultPrefix+"/public-ip-overwrite"] = "203.0.113.7"
	want, err := k.announcement("host-gw", []subnet.Share{{Subnet: prefix("10.244.1.0/24"), Public: addr("192.168.77.1")}})
	if err != nil {
		t.Fatal(err)
	}
	null, gateway := "null", "host-gw"
	expected := map[string]*string{
		defaultPrefix + "/backend-type":    &gateway,
		defaultPrefix + "/backend-data":    &null,
		defaultPrefix + "/backend-v6-data": nil,
		defaultPrefix + "/public-ipv6":     nil,
	}
	if d := gocmp.Diff(expected, k.difference(n, want)); d != "" {
		t.Errorf("patch (-want +have):\n%s", d)
	}
}

// A Node is older than one that came a second later, and never the same as
// one that had its name before.
func TestCreated(t *testing.T) {
	a, b := &node{uid: "a", born: 1_800_000_000}, &node{uid: "b", born: 1_800_000_000}
	late := &node{uid: "a", born: 1_800_000_001}
	if a.created() == b.created() || a.created() >= late.created() || b.created() >= late.created() || a.created() <= 0 {
		t.Errorf("have %d, %d, %d", a.created(), b.created(), late.created())
	}
}

func FuzzLease(f *testing.F) {
	for _, name := range []string{"vxlan", "dual", "six", "host-gw", "host-gw-six", "alloc", "appliance"} {
		n := fixture(f, name)
		const p = defaultPrefix + "/"
		f.Add(strings.Join(n.podCIDRs, ","), n.annotations[p+"backend-type"], n.annotations[p+"public-ip"],
			n.annotations[p+"backend-data"], n.annotations[p+"public-ipv6"], n.annotations[p+"backend-v6-data"])
	}
	f.Add("0.0.0.0/0", "vxlan", "192.0.2.1", `{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3:00:00"}`, "", "")
	f.Add("10.0.0.0/24,10.0.1.0/24,fd00::/64", "", "::ffff:1.2.3.4", "[[[[", "fe80::1%eth0", "null")
	f.Fuzz(func(t *testing.T, podCIDRs, backend, ip, data, ip6, data6 string) {
		k := flannelKeys(t)
		n := &node{name: "n", uid: "u", born: 1, revision: 7, podCIDRs: strings.Split(podCIDRs, ",")}
		n.annotations = map[string]string{
			k.managed: "true", k.backend: backend, k.families[0].public: ip, k.families[0].data: data,
			k.families[1].public: ip6, k.families[1].data: data6,
		}
		l, _, err := k.lease(n)
		if err != nil {
			return
		}
		if len(l.Shares) == 0 || len(l.Shares) > 2 || l.ID == "" {
			t.Fatalf("lease %+v", l)
		}
		out, err := k.announcement(l.Backend, l.Shares)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		n.annotations = out
		again, _, err := k.lease(n)
		if err != nil || again.ID != l.ID || len(again.Shares) != len(l.Shares) {
			t.Fatalf("%+v became %+v, %v", l, again, err)
		}
		if changes := k.difference(n, out); len(changes) != 0 {
			t.Fatalf("not stable: %v", changes)
		}
	})
}
