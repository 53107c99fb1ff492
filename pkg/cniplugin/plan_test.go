package cniplugin

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// TestGolden compares what is decided, and what the runtime is told, with one
// readable file per case. `go test -run Golden -args bless` writes them anew.
func TestGolden(t *testing.T) {
	bless := slices.Contains(flag.Args(), "bless")
	v4, v6 := "10.42.1.0/24 10.42.1.5", "fd00:5:0:1::/64 fd00:5:0:1::5"
	for name, c := range map[string]struct{ conf, subnets string }{
		"bridge-dual":       {`"cniVersion":"1.0.0"`, v4 + "," + v6},
		"bridge-dual-0.3.1": {`"cniVersion":"0.3.1"`, v4 + "," + v6},
		"bridge-ipv6":       {`"cniVersion":"1.0.0","bridge":"br.v6","mtu":1300`, v6},
		"bridge-routes": {`"cniVersion":"1.0.0","isDefaultGateway":false,"hairpinMode":false,
			"ipam":{"routes":[{"dst":"192.0.2.0/24"},{"dst":"198.51.100.9/24","gw":"10.42.1.9"},{"dst":"10.42.0.0/16"},
			{"dst":"10.42.1.0/24"},{"dst":"2001:db8::/32"}]},"dns":{"nameservers":["10.96.0.10"],"search":["svc"]}`, v4},
		"ptp-dual": {`"cniVersion":"1.0.0","mode":"ptp"`, v4 + "," + v6},
		"ptp-asked": {`"cniVersion":"1.1.0","mode":"ptp","dns":{"search":["svc"]},"runtimeConfig":{"mac":"02:00:00:00:00:09",
			"ips":["10.42.1.5/24"],"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`, v4},
		"ptp-dns": {`"cniVersion":"1.0.0","mode":"ptp","isDefaultGateway":false,
			"dns":{"nameservers":["10.96.0.10"],"domain":"a \"b\"","search":["svc"],"options":["ndots:5"]}`, v6},
		"bridge-promisc": {`"cniVersion":"1.1.0","promiscMode":true`, v4},
		"flannel":        {`"cniVersion":"0.3.1","type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}`, v4},
	} {
		t.Run(name, func(t *testing.T) {
			conf, err := parseText([]byte(`{"name":"cbr0",` + c.conf + `}`))
			if err != nil {
				t.Fatal(err)
			}
			env, addrs := subnetenv.Env{MTU: 1450, IPMasq: true}, []netip.Addr{}
			for _, s := range strings.Split(c.subnets, ",") {
				subnet, addr, _ := strings.Cut(s, " ")
				p := netip.MustParsePrefix(subnet)
				env.Subnets = append(env.Subnets, p)
				env.Networks = append(env.Networks, netip.PrefixFrom(p.Addr(), p.Bits()-8).Masked())
				addrs = append(addrs, netip.MustParseAddr(addr))
			}
			req := request{containerID: "c0ffee", ifName: "eth0", netns: "/run/netns/pod"}
			if conf.delegation != nil {
				rendered, err := conf.delegation.render(env)
				if err != nil {
					t.Fatal(err)
				}
				own, foreign := rendered.inProcess(conf)
				if foreign != "" {
					t.Fatalf("not done in process: %s", foreign)
				}
				conf = own
			}
			w, err := wishOf(conf.runtime, "")
			if err != nil {
				t.Fatal(err)
			}
			a := newPlan(conf, req, env, w, addrs)
			link := hostLink{7, mac.Addr{2, 0, 0, 0, 0, 7}}
			out, err := encode(result(nil, a, link, req, conf.dns), false, conf.version)
			if err != nil {
				t.Fatal(err)
			}
			// What the library prints, which is asked where others are in the chain.
			same, err := encode(result(nil, a, link, req, conf.dns), true, conf.version)
			if d := cmp.Diff(indented(t, same), indented(t, out)); d != "" || err != nil {
				t.Error(err, d)
			}
			have := describe(a) + indented(t, out) + "\n"
			path := filepath.Join("testdata", name+".golden")
			if bless {
				if err := os.WriteFile(path, []byte(have), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), have); d != "" {
				t.Error(d)
			}
		})
	}
}

// parseText parses a configuration as a runtime hands it over.
func parseText(b []byte) (config, error) {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return config{}, err
	}
	return parseConfig(d)
}

func indented(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "    "); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// describe says an attachment as an operator would type it.
func describe(a plan) string {
	var b strings.Builder
	if br := a.bridge; br != nil {
		fmt.Fprintf(&b, "host: bridge %s %s if new, mtu %d promisc %t up\n", br.name, br.mac, br.mtu, br.promisc)
		for _, s := range br.sysctls {
			fmt.Fprintf(&b, "host: sysctl %s=%s\n", s.path, s.value)
		}
		for _, p := range br.addrs {
			fmt.Fprintf(&b, "host: addr %s dev %s\n", p, br.name)
		}
	}
	fmt.Fprintf(&b, "host: veth %s %s mtu %d hairpin %t peer %s %s in the pod\n",
		a.hostIf, a.hostMAC, a.mtu, a.hairpin, a.podIf, a.podMAC)
	for _, s := range a.hostSysctls {
		fmt.Fprintf(&b, "host: sysctl %s=%s\n", s.path, s.value)
	}
	for _, p := range a.hostAddrs {
		fmt.Fprintf(&b, "host: addr %s dev %s\n", p, a.hostIf)
	}
	for _, p := range a.proxies {
		fmt.Fprintf(&b, "host: answer for %s on %s if that has %s\n", p.addr, p.bridge, p.gateway)
		for _, s := range p.sysctls {
			fmt.Fprintf(&b, "host: sysctl %s=%s\n", s.path, s.value)
		}
	}
	for _, p := range a.hostRoutes {
		fmt.Fprintf(&b, "host: route %s dev %s scope link\n", p, a.hostIf)
	}
	for _, s := range a.podSysctls {
		fmt.Fprintf(&b, "pod: sysctl %s=%s\n", s.path, s.value)
	}
	for _, p := range a.podAddrs {
		fmt.Fprintf(&b, "pod: addr %s dev %s\n", p, a.podIf)
	}
	for _, r := range a.podRoutes {
		fmt.Fprintf(&b, "pod: route %s via %s onlink %t\n", r.dst, r.via, a.onlink)
	}
	return b.String()
}

func TestHostNameIsOneAttachments(t *testing.T) {
	base := hostName("cbr0", request{containerID: "a", ifName: "eth0", netns: "/x"})
	if len(base) != 15 || !strings.HasPrefix(base, "veth") {
		t.Errorf("%q is not a name of 15 bytes that begins with veth", base)
	}
	if again := hostName("cbr0", request{containerID: "a", ifName: "eth0", netns: ""}); again != base {
		t.Errorf("without its namespace %q becomes %q", base, again)
	}
	for what, other := range map[string]string{
		"network":   hostName("cbr1", request{containerID: "a", ifName: "eth0", netns: ""}),
		"container": hostName("cbr0", request{containerID: "b", ifName: "eth0", netns: ""}),
		"interface": hostName("cbr0", request{containerID: "a", ifName: "eth1", netns: ""}),
		"border":    hostName("cbr0", request{containerID: "ae", ifName: "th0", netns: ""}),
	} {
		if other == base {
			t.Errorf("another %s has the same name", what)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"name":"cbr0","cniVersion":"1.0.0","type":"weft","ipam":{"routes":[{"dst":"::/0","gw":"fd00::1"}]}}`))
	f.Add([]byte(`{"name":"cbr0","cniVersion":"0.3.1","delegate":{"type":"ptp","isDefaultGateway":true}}`))
	f.Add([]byte(`{"name":"..","cniVersion":"1.0.0","mtu":-1,"bridge":"a/b"}`))
	f.Add([]byte(`{"name":"cbr0","cniVersion":"0.3.1","type":"flannel","delegate":{"type":"macvlan","mtu":null},
		"ipam":{"type":"dhcp","routes":[{"dst":"::/0","mtu":1}]},"runtimeConfig":{"mac":"02:00:00:00:00:01"}}`))
	env := subnetenv.Env{Subnets: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, MTU: 1450}
	addrs := []netip.Addr{netip.MustParseAddr("10.42.1.2")}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseText(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(c.network, "/\x00") || c.network == ".." {
			t.Errorf("network %q leaves its directory", c.network)
		}
		if c.delegation != nil {
			rendered, err := c.delegation.render(env)
			if err != nil {
				return
			}
			own, foreign := rendered.inProcess(c)
			if foreign != "" {
				return
			}
			if own.network != c.network {
				t.Errorf("network %q becomes %q", c.network, own.network)
			}
			c = own
		}
		for _, r := range newPlan(c, request{containerID: "a", ifName: "eth0", netns: "/x"}, env, wish{}, addrs).podRoutes {
			if !r.via.IsValid() || r.via.BitLen() != r.dst.Addr().BitLen() {
				t.Errorf("route %s via %s", r.dst, r.via)
			}
		}
	})
}
