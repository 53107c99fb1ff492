package doctor_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

var bless = flag.Bool("bless", false, "rewrite the table of the page")

// Every row says all that a reader needs, under a name of its own.
func TestRowsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range doctor.Checks() {
		if c.Name == "" || c.Looks == "" || c.Means == "" || c.Mends == "" || seen[c.Name] {
			t.Errorf("row %+v is not whole, or its name is taken", c)
		}
		seen[c.Name] = true
	}
	if len(seen) < 20 {
		t.Errorf("%d checks", len(seen))
	}
}

// Who knows nothing says nothing.
func TestNoFactsNoFindings(t *testing.T) {
	for _, r := range doctor.Examine(doctor.Facts{}) {
		if r.Level != doctor.OK {
			t.Errorf("of no facts: %+v", r)
		}
	}
}

const page = "../../Documentation/doctor.md"

// The page's table is made of the rows.
func TestPage(t *testing.T) {
	var table strings.Builder
	table.WriteString("| check | looks at | means | what mends it |\n|---|---|---|---|\n")
	for _, c := range doctor.Checks() {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", c.Name, c.Looks, c.Means, c.Mends)
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- checks: go test ./pkg/doctor -bless -->\n", "<!-- end of checks -->"
	head, rest, ok := strings.Cut(string(raw), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	if *bless {
		if err := os.WriteFile(page, []byte(head+begin+table.String()+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(table.String(), have); d != "" {
		t.Errorf("%s (-rows +page), go test ./pkg/doctor -bless writes it:\n%s", page, d)
	}
}

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

const eth0, flannel, cni0 = 2, 3, 4

// healthy is a node with one peer that answers to everything.
func healthy() doctor.Facts {
	self := doctor.Member{Node: "a", Subnet: prefix("10.42.1.0/24"), Public: ip("192.168.77.1"), MAC: mac.Addr{2, 1}}
	peer := doctor.Member{Node: "b", Subnet: prefix("10.42.2.0/24"), Public: ip("192.168.77.2"), MAC: mac.Addr{2, 2}}
	return doctor.Facts{
		Overlay: doctor.Overlay{
			Networks: []netip.Prefix{prefix("10.42.0.0/16")}, Subnets: []netip.Prefix{self.Subnet}, MTU: 1450,
			Backend: "vxlan", VNI: 1, Port: 8472, Self: []doctor.Member{self},
		},
		Peers: []doctor.Member{peer},
		Tables: tables.Space{
			Links: []tables.Link{
				{Index: eth0, Name: "eth0", MTU: 1500, Up: true, Carrier: true},
				{Index: flannel, Name: "flannel.1", Kind: "vxlan", MTU: 1450, MAC: self.MAC, Up: true, VXLAN: &tables.VXLAN{
					VNI: 1, Port: 8472, Local: self.Public, Parent: eth0,
				}},
				{Index: cni0, Name: "cni0", Kind: "bridge", MTU: 1450, Up: true},
			},
			Addrs: []tables.Addr{
				{Link: eth0, Prefix: prefix("192.168.77.1/24")}, {Link: cni0, Prefix: prefix("10.42.1.1/24")},
			},
			Policies: []tables.Policy{{Priority: 32766, Table: tables.Main}},
			Routes: []tables.Route{
				{Table: tables.Main, Prefix: prefix("192.168.77.0/24"), Link: eth0, Type: "unicast", Protocol: 2},
				{Table: tables.Main, Prefix: peer.Subnet, Via: ip("10.42.2.0"), Link: flannel, Type: "unicast", Protocol: 83},
			},
			Neighs:  []tables.Neigh{{Link: flannel, IP: ip("10.42.2.0"), MAC: peer.MAC, State: "permanent"}},
			FDB:     []tables.Forward{{Link: flannel, MAC: peer.MAC, Dst: peer.Public}},
			Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
		},
		Daemon: doctor.Daemon{Asked: true, Ready: true},
		Store:  doctor.Store{Asked: true, Took: time.Millisecond, Clocked: true, Skew: time.Second},
		Host:   doctor.Host{Kernel: "6.1.0-13-amd64", Sockets: []uint16{8472}},
		Probes: []doctor.Probe{{Peer: peer, Underlay: true, Small: true, Large: true, Size: 1450, TCP: true, RawTCP: true}},
	}
}

func TestExamine(t *testing.T) {
	hide := func(f *doctor.Facts) *doctor.Probe { return &f.Probes[0] }
	for name, c := range map[string]struct {
		spoil func(*doctor.Facts)
		want  []string // "level check", in order
	}{
		"healthy":                       {func(*doctor.Facts) {}, nil},
		"a weftd that hangs":            {func(f *doctor.Facts) { f.Daemon = doctor.Daemon{Asked: true, Err: "no answer", Hangs: true} }, []string{"fail daemon"}},
		"a tunnel that is blocked":      {func(f *doctor.Facts) { *hide(f) = doctor.Probe{Peer: f.Peers[0], Underlay: true} }, []string{"fail tunnel-blocked"}},
		"a peer that drops echoes only": {func(f *doctor.Facts) { hide(f).Small, hide(f).Large, hide(f).Underlay = false, false, false }, nil},
		"a peer that drops TCP":         {func(f *doctor.Facts) { hide(f).TCP, hide(f).RawTCP = false, false }, nil},
		"one way":                       {func(f *doctor.Facts) { *hide(f) = doctor.Probe{Peer: f.Peers[0], Heard: 3} }, []string{"fail one-way"}},
		"a peer that is down":           {func(f *doctor.Facts) { *hide(f) = doctor.Probe{Peer: f.Peers[0]} }, []string{"fail underlay"}},
		"a card that can't count":       {func(f *doctor.Facts) { hide(f).TCP = false }, []string{"fail checksum-offload"}},
		"a black hole":                  {func(f *doctor.Facts) { hide(f).Large = false }, []string{"fail mtu"}},
		"an uplink that is smaller":     {func(f *doctor.Facts) { f.Tables.Links[0].MTU = 1400 }, []string{"fail mtu"}},
		"an uplink that is down":        {func(f *doctor.Facts) { f.Tables.Links[0].Up = false }, []string{"fail uplink"}},
		"a direct route":                {func(f *doctor.Facts) { f.Tables.Routes[1].Link, f.Tables.Routes[1].Via = eth0, f.Peers[0].Public }, nil},
		"flannel's direct route": {func(f *doctor.Facts) {
			r := &f.Tables.Routes[1]
			r.Link, r.Via, r.Protocol = eth0, f.Peers[0].Public, 3
		}, nil},
		"a clone in the store": {func(f *doctor.Facts) { f.Peers[0].MAC = f.Overlay.Self[0].MAC }, []string{"fail cloned-machine", "fail lease-mismatch"}},
		"an old lease with our address": {func(f *doctor.Facts) {
			f.Peers = append(f.Peers, doctor.Member{Subnet: prefix("10.42.9.0/24"), Public: ip("192.168.77.1")})
		}, []string{"warn cloned-machine"}},
		"a clone by its machine id": {func(f *doctor.Facts) {
			f.Overlay.Self[0].Machine, f.Peers[0].Machine = "8d1a", "8d1a"
		}, []string{"warn cloned-machine"}},
		"machine ids that nobody knows, or differ": {func(f *doctor.Facts) {
			f.Overlay.Self[0].Machine, f.Peers[0].Machine = "8d1a", "7c2b"
			f.Peers = append(f.Peers, f.Peers[0])
			f.Peers[1].Machine = ""
		}, nil},
		"a verb that is missing":    {func(f *doctor.Facts) { f.Store.Denied = []string{"watch nodes"} }, []string{"fail rbac"}},
		"events that are refused":   {func(f *doctor.Facts) { f.Store.Spared = []string{"create events"} }, []string{"warn rbac"}},
		"a watch that is refused":   {func(f *doctor.Facts) { f.Daemon.Away = "watch nodes: nodes is forbidden" }, []string{"fail rbac"}},
		"a bridge of another lease": {func(f *doctor.Facts) { f.Tables.Addrs[1].Prefix = prefix("10.42.7.1/24") }, []string{"fail subnet-overlap", "fail lease-mismatch"}},
		"a node inside the network": {func(f *doctor.Facts) { f.Peers[0].Public = ip("10.42.0.9") }, []string{"fail subnet-overlap", "fail lease-mismatch"}},
		"another site behind a router": {func(f *doctor.Facts) {
			f.Tables.Routes = append(f.Tables.Routes, tables.Route{
				Table: tables.Main, Prefix: prefix("10.0.0.0/8"), Via: ip("192.168.77.9"), Link: eth0, Type: "unicast", Protocol: 4,
			})
		}, []string{"warn subnet-overlap"}},
		"a Service of iptables' kube-proxy": {func(f *doctor.Facts) { f.Tables.Firewall = serviceAt(10, 42, 0, 1) }, []string{"fail br-netfilter", "fail service-overlap"}},
		"kube-proxy with br_netfilter": {func(f *doctor.Facts) {
			f.Tables.Firewall = serviceAt(10, 96, 0, 1)
			f.Tables.Sysctls["net/bridge/bridge-nf-call-iptables"] = "1"
		}, nil},
		"rules that nobody can read": {func(f *doctor.Facts) {
			f.Overlay.Masquerade, f.Tables.Unread = true, []string{"rules of iptables-legacy (tables nat)"}
		}, nil},
		"a renamed device": {func(f *doctor.Facts) { f.Tables.Links[1].Name = "vxlan0" }, nil},
		"NetworkManager that leaves us": {func(f *doctor.Facts) {
			f.Host.Manager = doctor.NetworkManager{Runs: true, Unmanaged: []string{"flannel*", "cni0"}}
		}, nil},
		"networkd with a drop-in":           {func(f *doctor.Facts) { f.Host.Networkd = networkd(true) }, nil},
		"networkd without":                  {func(f *doctor.Facts) { f.Host.Networkd = networkd(false) }, []string{"warn networkd"}},
		"strict, and all ways are straight": {func(f *doctor.Facts) { f.Tables.Sysctls["net/ipv4/conf/all/rp_filter"] = "1" }, nil},
		"a table that has been full":        {func(f *doctor.Facts) { f.Host.Neighbours = doctor.Fill{Have: 1, Max: 1024, Dropped: 7} }, []string{"warn neighbour-overflow"}},
		"a store a little slow, clock off":  {func(f *doctor.Facts) { f.Store.Took, f.Store.Skew = time.Second, -10*time.Second }, []string{"warn store-slow", "warn clock-skew"}},
		"a kernel of before":                {func(f *doctor.Facts) { f.Host.Kernel = "4.14.336" }, []string{"fail kernel"}},
		"a disk without inodes": {func(f *doctor.Facts) {
			f.Host.Disks = []doctor.Disk{{Path: "/run", Free: 1 << 30, Size: 1 << 31, Inodes: 100}}
		}, []string{"fail disk-full"}},
		"host-gw has no device": {func(f *doctor.Facts) {
			f.Overlay.Backend, f.Tables.Links = "host-gw", f.Tables.Links[:1]
			f.Probes = nil
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := healthy()
			c.spoil(&f)
			var have []string
			for _, r := range doctor.Examine(f) {
				if r.Level != doctor.OK {
					have = append(have, string(r.Level)+" "+r.Check)
				}
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}

func networkd(keeps bool) doctor.Networkd {
	return doctor.Networkd{Runs: true, KeepsForeign: keeps, Files: []doctor.NetworkdFile{
		{Path: "/etc/systemd/network/10-weft.network", Names: []string{"flannel*", "cni*"}, Unmanaged: true},
		{Path: "/etc/systemd/network/99-all.network", Names: []string{"*"}},
	}}
}

func serviceAt(b ...byte) firewall.Ruleset {
	dst := firewall.Cond{Fields: []firewall.Field{firewall.DstAddr}, Values: []firewall.Range{{From: b, To: b}}}
	return firewall.Ruleset{Chains: []firewall.Chain{{
		Family: "ip", Table: "nat", Name: "KUBE-SERVICES", Rules: []firewall.Rule{{Conds: []firewall.Cond{dst}}},
	}}}
}

func BenchmarkExamine(b *testing.B) {
	f := healthy()
	for i := range 10_000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i >> 5), byte(i << 3)}), 29)
		p := doctor.Member{
			Node: subnet.String(), Subnet: subnet, MAC: mac.Addr{2, 9, 0, 0, byte(i >> 8), byte(i)},
			Public: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}),
		}
		f.Peers = append(f.Peers, p)
		f.Tables.Routes = append(f.Tables.Routes, tables.Route{
			Table: tables.Main, Prefix: subnet, Via: subnet.Addr(), Link: flannel, Type: "unicast", Protocol: 83,
		})
		f.Tables.Neighs = append(f.Tables.Neighs, tables.Neigh{
			Link: flannel, IP: subnet.Addr(), MAC: p.MAC, State: "permanent",
		})
		f.Tables.FDB = append(f.Tables.FDB, tables.Forward{Link: flannel, MAC: p.MAC, Dst: p.Public})
	}
	for b.Loop() {
		doctor.Examine(f)
	}
}
