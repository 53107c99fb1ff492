package docs

import (
	"context"
	"io"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/health"
	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/memory"
)

// withNode runs f beside a whole node on a fake kernel that has one interface,
// eth0 with 192.168.77.1. Its lease is named as in etcd; subnet.env tells that
// it is ours. Each look at the status comes a minute after the last.
func withNode(
	t *testing.T, config string, wish uplink.Wish,
	f func(s *memory.Server, kernel *fake.Kernel, status func() network.Status),
) {
	t.Helper()
	env := filepath.Join(t.TempDir(), "subnet.env")
	err := subnetenv.Write(env, subnetenv.Env{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, MTU: 1450,
	})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		server, kernel := memory.New(), fake.New()
		if err := kernel.Put(dataplane.State{
			Links: map[string]dataplane.Link{"eth0": {MTU: 1500, Up: true}},
			Addrs: map[dataplane.AddrKey]struct{}{{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.77.1/24")}: {}},
		}); err != nil {
			t.Fatal(err)
		}
		if err := kernel.Put(dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0")}: {Via: netip.MustParseAddr("192.168.77.254"), Link: "eth0"},
		}}); err != nil {
			t.Fatal(err)
		}
		server.SetConfig([]byte(config))
		server.Put(subnet.Lease{ID: "10.42.1.0-24", Backend: "vxlan", Shares: []subnet.Share{{
			Subnet: netip.MustParsePrefix("10.42.1.0/24"), Public: netip.MustParseAddr("192.168.77.1"),
		}}})
		log := logrus.New()
		log.SetOutput(io.Discard)
		node := network.New(network.Options{
			Store: server.Client(), Kernel: kernel, Health: health.New(), Log: log, Wish: wish,
			Backends: map[string]backend.Backend{
				"vxlan": vxlan.New(), "host-gw": hostgw.New(), "alloc": alloc.New(),
			},
			Forward: true, SubnetFile: env,
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- node.Run(ctx) }()
		f(server, kernel, func() network.Status {
			time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock: no time passes outside
			synctest.Wait()
			return node.Status()
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// refusedByNode are right in themselves, but not for this node or this weft: it
// is not ready, and says why.
func refusedByNode(t *testing.T) []mistake {
	t.Helper()
	of := func(options string) string { return `{"Network": "10.42.0.0/16", "Backend": {` + options + `}}` }
	type try struct {
		mistake
		config string
		wish   uplink.Wish
	}
	var tries []try
	for _, b := range wrongBackends() {
		tries = append(tries, try{mistake{what: b.what, given: `"Backend": {` + b.given + `}`}, of(b.given), uplink.Wish{}})
	}
	for _, w := range []struct {
		what, given string
		wish        uplink.Wish
	}{
		{"an interface that there isn't", "--iface=eth9", uplink.Wish{Ifaces: []string{"eth9"}}},
		{
			"an expression that nothing matches", "--iface-regex=^wlan",
			uplink.Wish{Regex: []*regexp.Regexp{regexp.MustCompile("^wlan")}},
		},
		{
			"a public address of no interface", "--public-ip=203.0.113.7",
			uplink.Wish{Public: []netip.Addr{netip.MustParseAddr("203.0.113.7")}},
		},
		{
			"a public address of a pod", "--public-ip=10.42.1.1",
			uplink.Wish{Public: []netip.Addr{netip.MustParseAddr("10.42.1.1")}},
		},
	} {
		tries = append(tries, try{mistake{what: w.what, given: w.given}, of(`"Type": "vxlan"`), w.wish})
	}
	const six = `{"Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48", "Backend": {"Type": "vxlan"}}`
	tries = append(tries, try{mistake{what: "IPv6, and `eth0` has no address of it", given: six}, six, uplink.Wish{}})
	var all []mistake
	for _, c := range tries {
		withNode(t, c.config, c.wish, func(_ *memory.Server, _ *fake.Kernel, status func() network.Status) {
			for _, reason := range status().Reasons {
				if text, ok := strings.CutPrefix(reason, "uplink: "); ok {
					c.answer = text
				}
			}
		})
		if c.answer == "" {
			t.Fatalf("%s: no mistake: %s", c.what, c.given)
		}
		all = append(all, c.mistake)
	}
	return all
}

// wrongBackends are members of the Backend object.
func wrongBackends() []mistake {
	return []mistake{
		{what: "a VNI of 0", given: `"Type": "vxlan", "VNI": 0`},
		{what: "a VNI of 25 bits", given: `"Type": "vxlan", "VNI": 16777216`},
		{what: "a VNI in quotes", given: `"Type": "vxlan", "VNI": "1"`},
		{what: "a VNI too long for a device's name", given: `"Type": "vxlan", "VNI": 10000000`},
		{what: "a port of 17 bits", given: `"Type": "vxlan", "Port": 65536`},
		{what: "a port in quotes", given: `"Type": "vxlan", "Port": "8472"`},
		{what: "a negative MTU", given: `"Type": "vxlan", "MTU": -1`},
		{what: "an MTU that leaves nothing for pods", given: `"Type": "vxlan", "MTU": 100`},
		{what: "a number as a boolean", given: `"Type": "vxlan", "Learning": 1`},
		{what: "a text as a boolean", given: `"Type": "vxlan", "GBP": "yes"`},
		{what: "a boolean in quotes", given: `"Type": "vxlan", "DirectRouting": "true"`},
		{what: "`udp`", given: `"Type": "udp"`},
		{what: "`ipip`", given: `"Type": "ipip"`},
		{what: "`ipsec`", given: `"Type": "ipsec", "PSK": "…"`},
		{what: "`wireguard`", given: `"Type": "wireguard"`},
		{what: "`tencent-vpc`", given: `"Type": "tencent-vpc"`},
		{what: "`extension`", given: `"Type": "extension"`},
		{what: "a backend that nobody knows", given: `"Type": "vlxan"`},
	}
}

// refusedWhileRunning are edits that a running node can't follow.
func refusedWhileRunning(t *testing.T) []mistake {
	t.Helper()
	const vxlan = `"Backend": {"Type": "vxlan"}}`
	all := []mistake{
		{what: "another network", given: `{"Network": "10.99.0.0/16", ` + vxlan},
		{what: "another length", given: `{"Network": "10.42.0.0/16", "SubnetLen": 25, ` + vxlan},
		{what: "a family more", given: `{"Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48", ` + vxlan},
		{what: "a backend that weft does not have", given: `{"Network": "10.42.0.0/16", "Backend": {"Type": "udp"}}`},
	}
	for i, m := range all {
		withNode(t, `{"Network": "10.42.0.0/16", `+vxlan, uplink.Wish{},
			func(s *memory.Server, _ *fake.Kernel, status func() network.Status) {
				if st := status(); !st.Ready {
					t.Fatalf("not ready: %v", st.Reasons)
				}
				s.SetConfig([]byte(m.given))
				all[i].answer = status().Store.Refused
			})
		if all[i].answer == "" {
			t.Fatalf("%s: no mistake: %s", m.what, m.given)
		}
	}
	return all
}

// followedInPart are right, and pods are served under them, but the host lacks
// something that they ask for.
func followedInPart(t *testing.T) []mistake {
	t.Helper()
	drops := []ruleset.Key{{Engine: ruleset.IPTablesNFT, Table: "filter", Chain: "FORWARD"}}
	programs := []ruleset.Engine{ruleset.IPTablesNFT}
	var all []mistake
	for _, c := range []struct {
		what, given string
		host        ruleset.Facts
	}{
		{"rules in iptables, and it is not installed", `"EnableNFTables": false, `, ruleset.Facts{}},
		{"the same, and the host drops forwarded packets", `"EnableNFTables": false, `, ruleset.Facts{Drops: drops}},
		{"the host drops forwarded packets, and iptables is not installed", "", ruleset.Facts{Drops: drops}},
		{
			"rules in nftables, and the host drops forwarded packets in iptables", `"EnableNFTables": true, `,
			ruleset.Facts{Drops: drops, Programs: programs},
		},
	} {
		m := mistake{what: c.what, given: `{` + c.given + `"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}`}
		withNode(t, m.given, uplink.Wish{}, func(_ *memory.Server, kernel *fake.Kernel, status func() network.Status) {
			kernel.SetFirewall(c.host)
			for range 3 {
				status() // until the host was looked at again
			}
			st := status()
			if !st.Ready || st.Rules.Warning == "" {
				t.Fatalf("%s: not ready, or no mistake: %v %+v", m.what, st.Reasons, st.Rules)
			}
			m.answer = st.Rules.Warning
		})
		all = append(all, m)
	}
	return all
}
