package uplink_test

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

func config(networks ...string) (cfg subnet.Config) {
	for _, n := range networks {
		cfg.Networks = append(cfg.Networks, subnet.Network{Prefix: netip.MustParsePrefix(n)})
	}
	return cfg
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func iface(mtu int, prefixes ...string) dataplane.Iface {
	i := dataplane.Iface{Index: 2, MTU: mtu, Up: true}
	for _, p := range prefixes {
		i.Addrs = append(i.Addrs, netip.MustParsePrefix(p))
	}
	return i
}

func tunnel(prefixes ...string) dataplane.Iface {
	i := iface(1450, prefixes...)
	i.VXLAN = &dataplane.Link{VNI: 1, Port: 8472}
	return i
}

// via is a default route.
func via(link string, metric int, family string) dataplane.Facts {
	key := dataplane.RouteKey{Prefix: netip.MustParsePrefix(family), Metric: metric}
	return dataplane.Facts{Defaults: map[dataplane.RouteKey]dataplane.Route{key: {Link: link}}}
}

const all4, all6 = "0.0.0.0/0", "::/0"

// facts is a host with these default routes: two NICs, a pod bridge, our own
// tunnel, a foreign one, one with nothing, one without an MTU.
func facts(routes ...dataplane.Facts) dataplane.Facts {
	f := dataplane.Facts{
		Ifaces: map[string]dataplane.Iface{
			"lo":        iface(65536, "127.0.0.1/8", "::1/128", "203.0.113.99/32"),
			"eth0":      iface(1500, "192.168.77.1/24", "192.168.77.101/24", "fd77::1/64", "fd77::101/64", "fe80::1/64"),
			"eth1":      iface(9000, "172.16.0.1/16", "fd88::1/64"),
			"cni0":      iface(1450, "10.42.1.1/24"),
			"flannel.1": tunnel("10.42.1.0/32"),
			"vx9":       tunnel("172.30.0.1/24"),
			"bare":      iface(1500, "fe80::2/64"),
			"odd":       iface(0, "172.20.0.1/16"),
		},
		Defaults: map[dataplane.RouteKey]dataplane.Route{},
	}
	for _, r := range routes {
		maps.Copy(f.Defaults, r.Defaults)
	}
	return f
}

const there = "bare (fe80::2), cni0 (10.42.1.1), eth0 (192.168.77.1 192.168.77.101 fd77::1 fd77::101 fe80::1), " +
	"eth1 (172.16.0.1 fd88::1), odd (172.20.0.1), vx9 (172.30.0.1)"

// linkLocal is a host whose eth0 has a link-local address after others.
func linkLocal(before ...string) dataplane.Facts {
	return dataplane.Facts{Ifaces: map[string]dataplane.Iface{"eth0": iface(1500, append(before, "169.254.9.1/16")...)}}
}

type pickCase struct {
	facts dataplane.Facts
	cfg   subnet.Config
	wish  uplink.Wish
	want  backend.Uplink
	err   string
}

func up(name string, mtu int, local, public []netip.Addr) backend.Uplink {
	return backend.Uplink{Iface: name, MTU: mtu, Local: local, Public: public}
}

// withPaths adds paths to peers, with the MTUs that the routes by these interfaces say.
func withPaths(f dataplane.Facts, mtus map[string]int) dataplane.Facts {
	f.Paths, f.PathMTU = map[netip.Addr]dataplane.Route{}, map[netip.Addr]int{}
	peer := netip.MustParseAddr("198.51.100.1")
	for link, mtu := range mtus {
		f.Paths[peer], f.PathMTU[peer] = dataplane.Route{Link: link}, mtu
		peer = peer.Next()
	}
	return f
}

func plain(name string, mtu int, local ...string) backend.Uplink {
	return up(name, mtu, addrs(local...), addrs(local...))
}

func byDefaultRoute() map[string]pickCase {
	four, six, dual := config("10.42.0.0/16"), config("fd00:42::/48"), config("10.42.0.0/16", "fd00:42::/48")
	return map[string]pickCase{
		"the best metric": {
			facts: facts(via("eth1", 100, all4), via("eth0", 50, all4)), cfg: four, want: plain("eth0", 1500, "192.168.77.1"),
		},
		"IPv6": {
			facts: facts(via("eth0", 0, all4), via("eth1", 1024, all6)), cfg: six, want: plain("eth1", 9000, "fd88::1"),
		},
		"dual stack": {
			facts: facts(via("eth0", 0, all4), via("eth0", 1024, all6)), cfg: dual,
			want: plain("eth0", 1500, "192.168.77.1", "fd77::1"),
		},
		"dual stack, default route for one family only": {
			facts: facts(via("eth1", 1024, all6)), cfg: dual, want: plain("eth1", 9000, "172.16.0.1", "fd88::1"),
		},
		"never our own tunnel, nor loopback": {
			facts: facts(via("flannel.1", 0, all4), via("lo", 1, all4), via("eth1", 7, all4)), cfg: four,
			want: plain("eth1", 9000, "172.16.0.1"),
		},
		"routes to peers say less, by this interface and by another": {
			facts: withPaths(facts(via("eth0", 0, all4)), map[string]int{"eth0": 1400, "eth1": 1280}), cfg: four,
			want: plain("eth0", 1400, "192.168.77.1"),
		},
		"a route to a peer says more": {
			facts: withPaths(facts(via("eth0", 0, all4)), map[string]int{"eth0": 9000}), cfg: four,
			want: plain("eth0", 1500, "192.168.77.1"),
		},
		"a foreign tunnel is an interface like others": {
			facts: facts(via("vx9", 0, all4)), cfg: four, want: plain("vx9", 1450, "172.30.0.1"),
		},
		"a route by an interface that is gone": {
			facts: facts(via("ppp0", 0, all4), via("eth0", 9, all4)), cfg: four, want: plain("eth0", 1500, "192.168.77.1"),
		},
		"families by two interfaces": {
			facts: facts(via("eth0", 0, all4), via("eth1", 1024, all6)), cfg: dual,
			err: "the default route of IPv4 is by eth0, that of IPv6 by eth1, and the tunnel needs one for both: " +
				"choose one with --iface",
		},
		"no default route": {
			facts: facts(), cfg: four,
			err: "no default route to tell the interface by: choose one with --iface; there is " + there,
		},
		"no address of a family": {
			facts: facts(via("vx9", 0, all4)), cfg: dual,
			err: "interface vx9 has no IPv6 address: mend that, or choose another one with --iface",
		},
		"only a link-local address": {
			facts: facts(via("bare", 1024, all6)), cfg: six,
			err: "interface bare has no IPv6 address that peers could use (fe80::2 is link-local or inside of the " +
				"cluster network): mend that, or choose another one with --iface",
		},
		"no MTU": {
			facts: facts(via("odd", 0, all4)), cfg: four,
			err: "interface odd has no MTU: mend that, or choose another one with --iface",
		},
		"no network": {
			facts: facts(), err: "no uplink can be chosen: the network configuration has no network",
		},
		"no interface at all": {
			cfg: four, err: "no default route to tell the interface by: choose one with --iface; there is none",
		},
	}
}

func byWish() map[string]pickCase {
	four, dual := config("10.42.0.0/16"), config("10.42.0.0/16", "fd00:42::/48")
	route := facts(via("eth0", 0, all4))
	ifaces := func(names ...string) uplink.Wish { return uplink.Wish{Ifaces: names} }
	return map[string]pickCase{
		"by name, against the default route": {
			facts: route, cfg: four, wish: ifaces("eth1"), want: plain("eth1", 9000, "172.16.0.1"),
		},
		"the first that exists": {
			facts: route, cfg: four, wish: ifaces("eth7", "192.0.2.1", "eth1", "eth0"), want: plain("eth1", 9000, "172.16.0.1"),
		},
		"by address, which is then the tunnel's": {
			facts: route, cfg: four, wish: ifaces("192.168.77.101"), want: plain("eth0", 1500, "192.168.77.101"),
		},
		"by the address of one family, in dual stack": {
			facts: route, cfg: dual, wish: ifaces("fd77::101"), want: plain("eth0", 1500, "192.168.77.1", "fd77::101"),
		},
		"our own tunnel and loopback don't count": {
			facts: route, cfg: four, wish: ifaces("flannel.1", "lo", "127.0.0.1", "nic"),
			err: "no interface to use: flannel.1 is the tunnel itself, lo is the loopback interface, " +
				"127.0.0.1 is the loopback interface, nic is not on this host; there is " + there,
		},
		"an address inside of the cluster does not count": {
			facts: route, cfg: four, wish: ifaces("cni0"),
			err: "no interface to use: cni0 has no IPv4 address that peers could use (10.42.1.1 is link-local or inside " +
				"of the cluster network); there is " + there,
		},
		"one that lacks an address or an MTU is passed over": {
			facts: route, cfg: four, wish: ifaces("bare", "odd", "cni0", "eth1"), want: plain("eth1", 9000, "172.16.0.1"),
		},
		"one that lacks a family is passed over": {
			facts: route, cfg: dual, wish: ifaces("vx9", "eth1"), want: plain("eth1", 9000, "172.16.0.1", "fd88::1"),
		},
		"two addresses of one interface, one of each family": {
			facts: route, cfg: dual, wish: ifaces("192.168.77.101", "fd77::101"),
			want: plain("eth0", 1500, "192.168.77.101", "fd77::101"),
		},
		"all that was named, and why not": {
			facts: route, cfg: dual, wish: ifaces("vx9", "odd", "bare"),
			err: "no interface to use: vx9 has no IPv6 address, odd has no MTU, bare has no IPv4 address; there is " + there,
		},
	}
}

func byRegex() map[string]pickCase {
	four, six, dual := config("10.42.0.0/16"), config("fd00:42::/48"), config("10.42.0.0/16", "fd00:42::/48")
	route := facts(via("eth0", 0, all4))
	regex := func(list ...string) (w uplink.Wish) {
		for _, r := range list {
			w.Regex = append(w.Regex, regexp.MustCompile(r))
		}
		return w
	}
	older := facts()
	for name, index := range map[string]int{"eth0": 7, "eth1": 5} {
		i := older.Ifaces[name]
		i.Index = index
		older.Ifaces[name] = i
	}
	return map[string]pickCase{
		"a name": {facts: route, cfg: four, wish: regex("th1$"), want: plain("eth1", 9000, "172.16.0.1")},
		"an address, which is then the tunnel's": {
			facts: route, cfg: four, wish: regex(`\.101$`), want: plain("eth0", 1500, "192.168.77.101"),
		},
		"an IPv6 address, in dual stack": {
			facts: route, cfg: dual, wish: regex("^fd77::101$"), want: plain("eth0", 1500, "192.168.77.1", "fd77::101"),
		},
		"addresses go before names": { // "1" is in eth1's name, and in eth0's address
			facts: route, cfg: four, wish: regex("1"), want: plain("eth0", 1500, "192.168.77.1"),
		},
		"an address of a family that the cluster lacks does not match": {
			facts: route, cfg: four, wish: regex("^fd88::"),
			err: "no interface to use: --iface-regex ^fd88:: matches nothing; there is " + there,
		},
		"the oldest of several": {facts: older, cfg: four, wish: regex("^eth"), want: plain("eth1", 9000, "172.16.0.1")},
		"the first pattern that matches": {
			facts: route, cfg: four, wish: regex("^wlan", "^eth1$", "^eth0$"), want: plain("eth1", 9000, "172.16.0.1"),
		},
		"what can't carry the tunnel is passed over": { // cni0 has a matching address; lo, flannel.1 and vx9 match, too
			facts: route, cfg: six, wish: regex(".*"), want: plain("eth0", 1500, "fd77::1"),
		},
		"what matches, and why not": {
			facts: route, cfg: four, wish: regex("^(cni0|lo|flannel)", "wlan"),
			err: "no interface to use: --iface-regex ^(cni0|lo|flannel) matches cni0, which has no IPv4 address that peers " +
				"could use (10.42.1.1 is link-local or inside of the cluster network) and flannel.1, which is the tunnel " +
				"itself and lo, which is the loopback interface, --iface-regex wlan matches nothing; there is " + there,
		},
		"names and addresses go first": {
			facts: route, cfg: four, want: plain("eth1", 9000, "172.16.0.1"),
			wish: uplink.Wish{Ifaces: []string{"eth9", "eth1"}, Regex: regex("eth0").Regex},
		},
		"after names and addresses that are not there": {
			facts: route, cfg: four, want: plain("eth0", 1500, "192.168.77.1"),
			wish: uplink.Wish{Ifaces: []string{"eth9"}, Regex: regex("eth0").Regex},
		},
	}
}

func byCanReach() map[string]pickCase {
	four, dual := config("10.42.0.0/16"), config("10.42.0.0/16", "fd00:42::/48")
	host := facts(via("eth0", 0, all4))
	host.Paths = map[netip.Addr]dataplane.Route{}
	for to, p := range map[string]struct{ link, src string }{
		"198.51.100.7": {"eth1", "172.16.0.1"},
		"192.168.77.9": {"eth0", "192.168.77.101"},
		"fd77::9":      {"eth0", "fd77::101"},
		"10.42.9.9":    {"flannel.1", "10.42.1.0"},
		"172.16.0.1":   {"lo", "172.16.0.1"},
		"192.0.2.1":    {"ppp0", "192.0.2.2"},
	} {
		host.Paths[netip.MustParseAddr(to)] = dataplane.Route{Link: p.link, Src: netip.MustParseAddr(p.src)}
	}
	reach := func(to string) uplink.Wish { return uplink.Wish{CanReach: netip.MustParseAddr(to)} }
	return map[string]pickCase{
		"against the default route": {facts: host, cfg: four, wish: reach("198.51.100.7"), want: plain("eth1", 9000, "172.16.0.1")},
		"the path's source is the tunnel's": {
			facts: host, cfg: four, wish: reach("192.168.77.9"), want: plain("eth0", 1500, "192.168.77.101"),
		},
		"by IPv6, in dual stack": {
			facts: host, cfg: dual, wish: reach("fd77::9"), want: plain("eth0", 1500, "192.168.77.1", "fd77::101"),
		},
		"by IPv6, for IPv4": {facts: host, cfg: four, wish: reach("fd77::9"), want: plain("eth0", 1500, "192.168.77.1")},
		"no path": {
			facts: host, cfg: four, wish: reach("203.0.113.1"),
			err: "no interface to use: there is no path to 203.0.113.1; there is " + there,
		},
		"an interface that is gone": {
			facts: host, cfg: four, wish: reach("192.0.2.1"),
			err: "no interface to use: there is no path to 192.0.2.1; there is " + there,
		},
		"through our own tunnel": {
			facts: host, cfg: four, wish: reach("10.42.9.9"),
			err: "no interface to use: the path to 10.42.9.9 is by flannel.1, which is the tunnel itself; there is " + there,
		},
		"an address of this host": {
			facts: host, cfg: four, wish: reach("172.16.0.1"),
			err: "no interface to use: the path to 172.16.0.1 is by lo, which is the loopback interface; there is " + there,
		},
		"comes last": {
			facts: host, cfg: four, want: plain("eth0", 1500, "192.168.77.1"),
			wish: uplink.Wish{
				Regex: []*regexp.Regexp{regexp.MustCompile("^eth0$")}, CanReach: netip.MustParseAddr("198.51.100.7"),
			},
		},
		"after what is not there": {
			facts: host, cfg: four, want: plain("eth1", 9000, "172.16.0.1"),
			wish: uplink.Wish{
				Ifaces: []string{"eth9"}, Regex: []*regexp.Regexp{regexp.MustCompile("^wlan")},
				CanReach: netip.MustParseAddr("198.51.100.7"),
			},
		},
		"nothing of it all": {
			facts: host, cfg: four,
			wish: uplink.Wish{
				Ifaces: []string{"eth9"}, Regex: []*regexp.Regexp{regexp.MustCompile("^wlan")},
				CanReach: netip.MustParseAddr("203.0.113.1"),
			},
			err: "no interface to use: eth9 is not on this host, --iface-regex ^wlan matches nothing, " +
				"there is no path to 203.0.113.1; there is " + there,
		},
		"behind NAT": {
			facts: host, cfg: four,
			wish: uplink.Wish{CanReach: netip.MustParseAddr("198.51.100.7"), Public: addrs("203.0.113.5")},
			want: up("eth1", 9000, addrs("172.16.0.1"), addrs("203.0.113.5")),
		},
	}
}

func byPublic() map[string]pickCase {
	four, dual := config("10.42.0.0/16"), config("10.42.0.0/16", "fd00:42::/48")
	route := facts(via("eth0", 0, all4))
	public := func(list ...string) uplink.Wish { return uplink.Wish{Public: addrs(list...)} }
	return map[string]pickCase{
		"a local one picks its interface": {
			facts: route, cfg: four, wish: public("172.16.0.1"), want: plain("eth1", 9000, "172.16.0.1"),
		},
		"a local one is the tunnel's address": {
			facts: route, cfg: four, wish: public("192.168.77.101"), want: plain("eth0", 1500, "192.168.77.101"),
		},
		"a local one of the second family": {
			facts: route, cfg: dual, wish: public("fd88::1"), want: plain("eth1", 9000, "172.16.0.1", "fd88::1"),
		},
		"one local, one behind NAT": {
			facts: route, cfg: dual, wish: public("203.0.113.5", "fd88::1"),
			want: up("eth1", 9000, addrs("172.16.0.1", "fd88::1"), addrs("203.0.113.5", "fd88::1")),
		},
		"of a family that the cluster lacks": {
			facts: route, cfg: four, wish: public("fd88::1"), want: plain("eth0", 1500, "192.168.77.1"),
		},
		"behind NAT, with an interface": {
			facts: route, cfg: dual, wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("203.0.113.5")},
			want: up("eth0", 1500, addrs("192.168.77.1", "fd77::1"), addrs("203.0.113.5", "fd77::1")),
		},
		"on the interface that was named by another address": {
			facts: route, cfg: four,
			wish: uplink.Wish{Ifaces: []string{"192.168.77.1"}, Public: addrs("192.168.77.101")},
			want: plain("eth0", 1500, "192.168.77.101"),
		},
		"on another interface than the one that was named": {
			facts: route, cfg: four, wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("172.16.0.1")},
			want: up("eth0", 1500, addrs("192.168.77.1"), addrs("172.16.0.1")),
		},
		"behind NAT, with a link-local address only": {
			facts: linkLocal(), cfg: four, wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("203.0.113.5")},
			want: up("eth0", 1500, addrs("169.254.9.1"), addrs("203.0.113.5")),
		},
		"behind NAT, with a link-local address beside a better one": {
			facts: linkLocal("192.168.77.1/24"), cfg: four, want: up("eth0", 1500, addrs("192.168.77.1"), addrs("203.0.113.5")),
			wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("203.0.113.5")},
		},
		"behind NAT, with an IPv6 link-local address only, which reaches no NAT": {
			facts: linkLocal("192.168.77.1/24", "fe80::9/64"), cfg: dual,
			wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("2001:db8::5")},
			err: "no interface to use: eth0 has no IPv6 address that peers could use (fe80::9 is link-local or inside of " +
				"the cluster network); there is eth0 (192.168.77.1 fe80::9 169.254.9.1)",
		},
		"not local, and no interface": {
			facts: route, cfg: four, wish: public("203.0.113.5"),
			err: "public address 203.0.113.5 is on no interface that can carry the tunnel: choose one with --iface; " +
				"there is " + there,
		},
		"local on loopback only": {
			facts: route, cfg: four, wish: public("203.0.113.99"),
			err: "public address 203.0.113.99 is on no interface that can carry the tunnel: choose one with --iface; " +
				"there is " + there,
		},
		"on two interfaces": {
			facts: route, cfg: dual, wish: public("192.168.77.1", "fd88::1"),
			err: "the public addresses 192.168.77.1 fd88::1 are on two interfaces, eth0 and eth1: choose one with --iface",
		},
		"not to be announced": {
			facts: route, cfg: four, wish: uplink.Wish{Ifaces: []string{"eth0"}, Public: addrs("10.42.1.1")},
			err: "public address 10.42.1.1 can't be announced: no peer would accept it; " +
				"it must be unicast, and not link-local, loopback or inside of the cluster network",
		},
	}
}

func TestPathsAreWhatPickNeeds(t *testing.T) {
	if have := (uplink.Wish{Ifaces: []string{"192.0.2.1"}, Public: addrs("192.0.2.2")}).Paths(); have != nil {
		t.Errorf("have %v, want none", have)
	}
	want := addrs("192.0.2.3")
	if d := cmp.Diff(want, (uplink.Wish{CanReach: want[0]}).Paths(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestPick(t *testing.T) {
	for group, cases := range map[string]map[string]pickCase{
		"default route": byDefaultRoute(), "iface": byWish(), "iface-regex": byRegex(), "iface-can-reach": byCanReach(),
		"public": byPublic(),
	} {
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			c := cases[name]
			t.Run(group+"/"+name, func(t *testing.T) {
				have, err := uplink.Pick(c.facts, c.cfg, c.wish)
				text := ""
				if err != nil {
					text = err.Error()
				}
				if d := cmp.Diff(c.err, text); d != "" {
					t.Errorf("error (-want +have):\n%s", d)
				}
				if d := cmp.Diff(c.want, have, cmpopts.EquateComparable(netip.Addr{})); d != "" {
					t.Errorf("uplink (-want +have):\n%s", d)
				}
			})
		}
	}
}
