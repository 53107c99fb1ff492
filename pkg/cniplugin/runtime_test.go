package cniplugin_test

import (
	"encoding/json"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// What the runtime asks for, in each of the three ways.
func TestAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		conf []any
		args string
	}{
		"capabilities": {conf: []any{"runtimeConfig", map[string]any{
			"ips": []string{"fd00:5:0:1::99", "10.42.1.99/24"}, "mac": "02:00:00:00:00:99",
		}}},
		"args.cni": {conf: []any{"args", map[string]any{"cni": map[string]any{
			"ips": []string{"10.42.1.99", "fd00:5:0:1::99"}, "mac": "02:00:00:00:00:99",
		}}}},
		"CNI_ARGS": {args: "IgnoreUnknown=1;IP=10.42.1.99,fd00:5:0:1::99;MAC=02:00:00:00:00:99"},
		"flannel's form": {conf: []any{"type", "flannel", "delegate", map[string]any{}, "runtimeConfig", map[string]any{
			"ips": []string{"10.42.1.99", "fd00:5:0:1::99"}, "mac": "02:00:00:00:00:99",
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6).with(c.conf...)
			n.t, n.args = t, c.args
			p, ns := newPod(t, 1)
			r := n.add(p)
			n.wantAddresses("10.42.1.99", "fd00:5:0:1::99")
			if have := r.Interfaces[2].Mac; have != "02:00:00:00:00:99" {
				t.Errorf("MAC %s", have)
			}
			ns.Do(func() {
				if have := link(t, "eth0").Attrs().HardwareAddr.String(); have != "02:00:00:00:00:99" {
					t.Errorf("MAC %s", have)
				}
			})
			reachAll(t, n.host, ns, r)
			second, _ := newPod(t, 2)
			n.refused("ADD", second, 103, "is held by pod-1/eth0", "another address")
			n.del(p)
			n.add(second)
		})
	}
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	for name, c := range map[string]struct {
		ask   map[string]any
		words []string
	}{
		"no address":         {map[string]any{"ips": []string{"x"}}, []string{`"x" is no address`}},
		"of another node":    {map[string]any{"ips": []string{"10.42.2.9"}}, []string{"10.42.2.9 is none that this node gives"}},
		"no MAC":             {map[string]any{"mac": "x"}, []string{`mac: "x"`}},
		"a MAC of many":      {map[string]any{"mac": "01:00:5e:00:00:01"}, []string{"not the MAC of a station"}},
		"the subnet's first": {map[string]any{"ips": []string{"10.42.1.1"}}, []string{"10.42.1.1 is none"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := n.with("runtimeConfig", c.ask)
			other.t = t
			other.refused("ADD", p, 7, c.words...)
			other.empty()
		})
	}
}

// Behind other plugins their result goes first, and ours is counted from there.
func TestPrevResult(t *testing.T) {
	prev := `{"cniVersion":"1.0.0","interfaces":[{"name":"dummy0","mac":"02:00:00:00:00:01","sandbox":"/x"}],
		"ips":[{"interface":0,"address":"192.0.2.5/24"}],"routes":[{"dst":"198.51.100.0/24","gw":"192.0.2.1"}],
		"dns":{"nameservers":["192.0.2.53"]}}`
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, ipv4).with("cniVersion", version)
			n.t = t
			var r types100.Result
			if err := json.Unmarshal([]byte(prev), &r); err != nil {
				t.Fatal(err)
			}
			if version < "1" {
				r.CNIVersion = "1.0.0"
			}
			old, err := r.GetAsVersion(version)
			if err != nil {
				t.Fatal(err)
			}
			n = n.with("prevResult", old)
			p, _ := newPod(t, 1)
			have := n.add(p)
			var names []string
			for _, i := range have.Interfaces {
				names = append(names, i.Name)
			}
			hostEnd := attachmentOf(t, n, p).HostLink
			if d := cmp.Diff([]string{"dummy0", "cni0", hostEnd, "eth0"}, names); d != "" {
				t.Error(d)
			}
			if len(have.IPs) != 2 || *have.IPs[0].Interface != 0 || *have.IPs[1].Interface != 3 {
				t.Errorf("%+v", have.IPs)
			}
			if len(have.Routes) != 3 || len(have.DNS.Nameservers) != 1 {
				t.Errorf("%+v, %+v", have.Routes, have.DNS)
			}
		})
	}
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	n.with("prevResult", map[string]any{"ips": "all"}).refused("ADD", p, 6, "prevResult")
}

// lo is up, the address is announced, and a promiscuous bridge is so.
func TestLinksOfThePod(t *testing.T) {
	n := newNode(t, ipv4, ipv6).with("promiscMode", true)
	p, ns := newPod(t, 1)
	ns.Exec("ip", "link", "set", "lo", "down")
	n.add(p)
	ns.Do(func() { link(t, "lo") })
	for file, want := range map[string]string{"ipv4/conf/eth0/arp_notify": "1\n", "ipv6/conf/eth0/ndisc_notify": "1\n"} {
		if have := ns.Exec("cat", "/proc/sys/net/"+file); have != want {
			t.Errorf("%s is %q", file, have)
		}
	}
	n.host.Do(func() {
		if have := link(t, "cni0").Attrs().Promisc; have == 0 {
			t.Error("cni0 is not promiscuous")
		}
		port, err := netlink.LinkGetProtinfo(link(t, attachmentOf(t, n, p).HostLink))
		if err != nil || port.Hairpin {
			t.Errorf("hairpin: %v, %v", port, err)
		}
	})
	n.with("hairpinMode", true).refused("ADD", p, 7, "promiscMode and hairpinMode are both true")
}

// Who remembers another pod under an address learns of the new one by itself.
func TestAnnouncement(t *testing.T) {
	n := newNode(t, ipv4, ipv6)
	first, firstNS := newPod(t, 1)
	n.add(first)
	second, _ := newPod(t, 2)
	firstNS.Exec("sh", "-ec", "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_accept;"+
		"ip neigh add 10.42.1.3 lladdr 02:00:00:00:00:66 dev eth0 nud stale;"+
		"ip neigh add fd00:5:0:1::3 lladdr 02:00:00:00:00:66 dev eth0 nud stale")
	r := n.add(second)
	want := r.Interfaces[2].Mac
	for _, addr := range []string{"10.42.1.3", "fd00:5:0:1::3"} {
		eventually(t, func() bool {
			return cmp.Equal(neighbour(firstNS.Exec("ip", "neigh", "show", "to", addr)), want)
		}, addr+" is still remembered as another's")
	}
}
