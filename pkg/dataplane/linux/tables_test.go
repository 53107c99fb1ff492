package linux_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/netnstest"
	"github.com/weftnet/weft/pkg/tables"
	fw "github.com/weftnet/weft/pkg/tables/firewall"
)

// kubeProxy is the shape of kube-proxy's table in mode nftables.
const kubeProxy = `
table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . udp . 53 : goto service-dns }
	}
	map no-endpoint-services {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.66 . tcp . 80 : goto reject-chain }
	}
	chain reject-chain { reject; }
	chain mark-for-masquerade { meta mark set mark or 0x4000; }
	chain endpoint-a { ip saddr 10.42.2.5 jump mark-for-masquerade; meta l4proto udp dnat to 10.42.2.5:1053; }
	chain endpoint-b { meta l4proto udp dnat to 10.42.3.5:1053; }
	chain service-dns {
		ip daddr 10.96.0.10 udp dport 53 ip saddr != 10.42.0.0/16 jump mark-for-masquerade
		numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-b }
	}
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
	chain filter-forward {
		type filter hook forward priority -110; policy accept
		ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-services
	}
	chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; jump masquerading; }
}
table inet guard {
	set bad { type ipv4_addr; flags interval; elements = { 198.51.100.0/25, 203.0.113.9 } }
	chain input {
		type filter hook input priority 0; policy drop
		ct state established,related accept
		iifname "lo" accept
		meta nfproto ipv6 accept
		tcp dport { 22, 8000-8010 } accept
		udp dport != 8472 ip saddr 192.0.2.0/24 accept
		limit rate 5/second accept
	}
	chain forward { type filter hook forward priority 5; ip daddr @bad drop; }
	chain opaque { type filter hook prerouting priority 300; ct original ip saddr 10.9.9.9 drop; }
	chain output { type filter hook output priority 0; oif "lo" accept; socket mark 0x7 drop; fib daddr type local drop; }
}`

// What the kernel holds, whoever wrote it, read back and walked through.
func TestTablesOfRules(t *testing.T) {
	ns := netnstest.New(t)
	k := kernelIn(t, ns)
	ns.Do(func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(kubeProxy)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
	})
	for _, line := range []string{
		"-t nat -N WEFT-SVC", "-t nat -N WEFT-SEP", "-t nat -N WEFT-SEP2", "-t nat -A WEFT-SEP -j MARK --or-mark 0x4000",
		"-t nat -A PREROUTING -m comment --comment portals -d 10.97.0.1/32 -p tcp -m tcp --dport 443 -j WEFT-SVC",
		"-t nat -A PREROUTING -d 10.97.0.2/32 -p tcp -m multiport --dports 80,90:95 -j DNAT --to-destination 10.42.9.9:1",
		"-t nat -A PREROUTING -m addrtype --dst-type LOCAL -p udp --dport 7 -j DNAT --to-destination 10.42.9.9",
		"-t nat -A WEFT-SVC -m statistic --mode random --probability 0.5 -j WEFT-SEP", "-t nat -A WEFT-SVC -j WEFT-SEP2",
		"-t nat -A WEFT-SEP -p tcp -j DNAT --to-destination 10.42.2.6:6443",
		"-t nat -A WEFT-SEP2 -p tcp -j DNAT --to-destination 10.42.3.6:6443",
		"-t filter -A OUTPUT -m mark --mark 0x30/0xf0 -j REJECT", "-t filter -P FORWARD DROP",
		"-t filter -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -d 10.42.7.0/24 -j ACCEPT",
	} {
		ns.Exec("iptables-nft", strings.Fields(line)...)
	}
	s := space(t, k)
	for _, u := range s.Unread {
		// What google/nftables can't decode (the direction of a ct expression) is said.
		if !strings.Contains(u, "iptables-legacy") && !strings.Contains(u, "chain inet guard opaque") {
			t.Errorf("not read: %s", u)
		}
	}
	const mark = 0x4000
	for name, c := range map[string]struct {
		hook     fw.Hook
		from, to string // "10.42.1.2" and "udp 10.96.0.10:53"
		change   func(*fw.Packet)

		lands   string // after translation
		others  int
		dropped string // a part of the words
		unread  string
		mark    uint32
	}{
		"a Service":               {fw.Prerouting, "10.42.1.2", "udp 10.96.0.10:53", nil, "10.42.2.5:1053", 1, "", "", 0},
		"a Service from outside":  {fw.Prerouting, "192.0.2.1", "udp 10.96.0.10:53", nil, "10.42.2.5:1053", 1, "", "", mark},
		"not that port":           {fw.Prerouting, "10.42.1.2", "udp 10.96.0.10:54", nil, "10.96.0.10:54", 0, "", "", 0},
		"no endpoint":             {fw.Forward, "10.42.1.2", "tcp 10.96.0.66:80", nil, "10.96.0.66:80", 0, "reject-chain: reject", "", 0},
		"iptables' Service":       {fw.Prerouting, "10.42.1.2", "tcp 10.97.0.1:443", nil, "10.42.2.6:6443", 1, "", "", mark},
		"several ports":           {fw.Prerouting, "10.42.1.2", "tcp 10.97.0.2:93", nil, "10.42.9.9:1", 0, "", "", 0},
		"not those":               {fw.Prerouting, "10.42.1.2", "tcp 10.97.0.2:96", nil, "10.97.0.2:96", 0, "", "", 0},
		"to the host":             {fw.Prerouting, "10.42.1.2", "udp 192.0.2.7:7", func(p *fw.Packet) { p.ToHost = true }, "10.42.9.9:7", 0, "", "", 0},
		"not to the host":         {fw.Prerouting, "10.42.1.2", "udp 192.0.2.7:7", nil, "192.0.2.7:7", 0, "", "", 0},
		"policy of iptables":      {fw.Forward, "10.42.1.2", "tcp 10.42.8.1:80", nil, "10.42.8.1:80", 0, "policy of chain ip filter FORWARD", "", 0},
		"let through by iptables": {fw.Forward, "10.42.1.2", "tcp 10.42.7.1:80", nil, "10.42.7.1:80", 0, "", "", 0},
		"a set of intervals":      {fw.Forward, "10.42.1.2", "tcp 198.51.100.77:80", nil, "198.51.100.77:80", 0, "filter FORWARD", "", 0},
		"the mark":                {fw.Output, "10.42.1.2", "tcp 192.0.2.7:80", func(p *fw.Packet) { p.Mark = 0x35 }, "192.0.2.7:80", 0, "reject", "", 0x35},
		"input by default":        {fw.Input, "192.0.2.1", "udp 192.0.2.7:8472", nil, "192.0.2.7:8472", 0, "policy of chain inet guard input", "limit", 0},
		"input of a range":        {fw.Input, "192.0.2.1", "tcp 192.0.2.7:8005", nil, "192.0.2.7:8005", 0, "", "", 0},
		"input over lo":           {fw.Input, "192.0.2.1", "udp 192.0.2.7:8472", func(p *fw.Packet) { p.In = "lo" }, "192.0.2.7:8472", 0, "", "", 0},
		"output over lo":          {fw.Output, "192.0.2.1", "udp 192.0.2.7:1", func(p *fw.Packet) { p.Out, p.ToHost = "lo", true }, "192.0.2.7:1", 0, "", "", 0},
		"output to the host":      {fw.Output, "192.0.2.1", "udp 192.0.2.7:1", func(p *fw.Packet) { p.ToHost = true }, "192.0.2.7:1", 0, "daddr type local", "socket", 0},
	} {
		t.Run(name, func(t *testing.T) {
			proto, dst, _ := strings.Cut(c.to, " ")
			ap := netip.MustParseAddrPort(dst)
			p := fw.Packet{Src: netip.MustParseAddr(c.from), Dst: ap.Addr(), DstPort: ap.Port(), SrcPort: 40000, In: "cni0"}
			p.Proto = map[string]uint8{"tcp": 6, "udp": 17}[proto]
			if c.change != nil {
				c.change(&p)
			}
			res := s.Firewall.Walk(c.hook, p)
			have := netip.AddrPortFrom(res.Packet.Dst, res.Packet.DstPort).String()
			if have != c.lands || len(res.Others) != c.others {
				t.Errorf("lands at %s (or %v), want %s", have, res.Others, c.lands)
			}
			if (c.dropped == "") != (res.Dropped == "") || !strings.Contains(res.Dropped, c.dropped) {
				t.Errorf("dropped by %q, want %q", res.Dropped, c.dropped)
			}
			unread := strings.Join(res.Unread, "\n")
			if c.hook == fw.Prerouting {
				if !strings.Contains(unread, "guard opaque: <the whole chain>") {
					t.Errorf("the chain that can't be read is not named: %q", unread)
				}
				unread = ""
			}
			if (c.unread == "") != (unread == "") || !strings.Contains(unread, c.unread) {
				t.Errorf("unread %q, want %q", unread, c.unread)
			}
			if res.Packet.Mark != c.mark {
				t.Errorf("mark %#x, want %#x", res.Packet.Mark, c.mark)
			}
		})
	}
}

// The other engine of iptables, where the kernel has it.
func TestTablesOfLegacyRules(t *testing.T) {
	ns := netnstest.New(t)
	k := kernelIn(t, ns)
	legacy := func(args ...string) (out []byte, err error) {
		ns.Do(func() {
			cmd := exec.Command("iptables-legacy", append([]string{"-w"}, args...)...)
			cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
			out, err = cmd.CombinedOutput()
		})
		return out, err
	}
	if out, err := legacy("-P", "FORWARD", "DROP"); err != nil {
		t.Skipf("no iptables-legacy here: %v\n%s", err, out)
	}
	for _, line := range []string{
		"-A FORWARD -s 10.42.0.0/16 -j ACCEPT",
		"-t nat -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 192.0.2.7:6443",
	} {
		if out, err := legacy(strings.Fields(line)...); err != nil {
			t.Fatalf("iptables-legacy %s: %v\n%s", line, err, out)
		}
	}
	rules := space(t, k).Firewall
	p := fw.Packet{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("10.96.0.1"), Proto: 6, SrcPort: 40000, DstPort: 443,
	}
	if res := rules.Walk(fw.Forward, p); res.Dropped != "policy of chain ip legacy filter FORWARD" {
		t.Errorf("dropped by %q", res.Dropped)
	}
	if res := rules.Walk(fw.Prerouting, p); res.Packet.Dst.String() != "192.0.2.7" || res.Packet.DstPort != 6443 {
		t.Errorf("goes to %s port %d", res.Packet.Dst, res.Packet.DstPort)
	}
	p.Src = netip.MustParseAddr("10.42.1.2")
	if res := rules.Walk(fw.Forward, p); res.Dropped != "" {
		t.Errorf("a pod's packet is dropped by %q", res.Dropped)
	}
}

func kernelIn(t *testing.T, ns *netnstest.NS) *linux.Kernel {
	t.Helper()
	k, err := linux.New(linux.Options{Namespace: ns.Handle()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func space(t *testing.T, k *linux.Kernel) tables.Space {
	t.Helper()
	s, err := k.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Lookup must find what the kernel itself would take.
func TestTablesLookUpAsTheKernelDoes(t *testing.T) {
	ns := netnstest.New(t)
	k := kernelIn(t, ns)
	for _, line := range []string{
		"link add dum0 type bridge", "link set dum0 up", "addr add 192.0.2.1/24 dev dum0", "addr add 2001:db8::1/64 dev dum0 nodad",
		"link add dum1 type bridge", "link set dum1 up", "addr add 198.51.100.1/24 dev dum1",
		"route add default via 192.0.2.254", "route add default via 198.51.100.254 metric 50",
		"route add 10.42.0.0/16 via 192.0.2.9", "route add 10.42.2.0/24 dev dum1 scope link", "route add blackhole 10.9.0.0/16",
		"route add default via 198.51.100.254 table 100", "rule add to 203.0.113.0/24 lookup 100 priority 100",
		"rule add from 198.51.100.1 lookup 100 priority 101", "rule add not to 10.0.0.0/8 lookup 101 priority 102",
		"route add 100.64.0.0/10 dev dum1 table 101", "-6 route add fd00:42::/48 via 2001:db8::9",
	} {
		ns.Exec("ip", strings.Fields(line)...)
	}
	s := space(t, k)
	for _, dst := range []string{
		"192.0.2.1", "192.0.2.7", "198.51.100.7", "1.1.1.1", "10.42.2.5", "10.42.3.5", "203.0.113.5", "100.64.1.1", "127.0.0.1",
		"fd00:42::5", "2001:db8::5",
	} {
		for _, src := range []string{"", "198.51.100.1"} {
			ask := tables.Ask{Dst: netip.MustParseAddr(dst)}
			args := []string{"-o", "route", "get", dst}
			if src != "" {
				if ask.Src = netip.MustParseAddr(src); ask.Dst.Is6() {
					continue
				}
				args = append(args, "from", src)
			}
			want := ns.Exec("ip", args...)
			found, ok := s.Lookup(ask)
			dev := "dev " + s.Name(found.Route.Link) + " "
			via := found.Route.Via.IsValid() && !strings.Contains(want, "via "+found.Route.Via.String())
			if found.Route.Type == "local" {
				dev, via = "dev lo ", false
				if ask.Dst.Is6() {
					dev = "local "
				}
			}
			if !ok || via || !strings.Contains(want, dev) {
				t.Errorf("to %s from %q: the kernel says %s, we %s", dst, src, want, s.Text(found.Route))
			}
		}
	}
	if found, _ := s.Lookup(tables.Ask{Dst: netip.MustParseAddr("10.9.1.1")}); !found.Route.Refuses() {
		t.Errorf("the blackhole is %s", s.Text(found.Route))
	}
}
