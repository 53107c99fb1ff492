package cniplugin_test

import (
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/pkg/netnstest"
)

// check is CHECK with the result of ADD.
func (n *node) check(p pod, r *types100.Result) (status int, out []byte) {
	n.t.Helper()
	version, _ := n.conf["cniVersion"].(string)
	converted, err := r.GetAsVersion(version)
	if err != nil {
		n.t.Fatal(err)
	}
	raw, err := json.Marshal(converted)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.with("prevResult", json.RawMessage(raw)).call("CHECK", p)
}

// CHECK finds nothing right after ADD, and names exactly what is changed.
func TestCheck(t *testing.T) {
	t.Parallel()
	in := func(script string) func(*netnstest.NS) {
		return func(ns *netnstest.NS) { ns.Exec("sh", "-ec", script) }
	}
	veth := `v=$(ip -o link show type veth | sed 's/^[0-9]*: \([^@]*\)@.*/\1/' | head -1); `
	for name, c := range map[string]struct {
		mode      string
		host, pod func(*netnstest.NS)
		want      []string
	}{
		"the pod's address": {
			pod: in("ip addr del 10.42.1.2/24 dev eth0"),
			// The kernel takes the routes along.
			want: []string{
				"eth0 in the pod has no address 10.42.1.2/24",
				"the route to 10.42.0.0/16 via 10.42.1.1 over eth0 is gone in the pod",
			},
		},
		"a route":             {pod: in("ip route del default"), want: []string{"the route to 0.0.0.0/0 via 10.42.1.1 over eth0 is gone in the pod"}},
		"an IPv6 route":       {pod: in("ip -6 route del default"), want: []string{"the route to ::/0 via fd00:5:0:1::1 over eth0 is gone in the pod"}},
		"the pod's link":      {pod: in("ip link set eth0 down"), want: []string{"eth0 in the pod is down"}},
		"no link":             {pod: in("ip link del eth0"), want: []string{"eth0 in the pod is gone", "of the host is gone"}},
		"another link":        {pod: in("ip link set eth0 down; ip link set eth0 name old; ip link add eth0 type bridge"), want: []string{"eth0 in the pod is a bridge, not a veth"}},
		"the MTU":             {pod: in("ip link set eth0 mtu 1300"), want: []string{"eth0 in the pod has MTU 1300, not 1450"}},
		"the MAC":             {pod: in("ip link set eth0 address 02:00:00:00:00:07"), want: []string{"eth0 in the pod has MAC 02:00:00:00:00:07, not "}},
		"the bridge":          {host: in("ip link del cni0"), want: []string{"cni0 of the host is gone"}},
		"the bridge's state":  {host: in("ip link set cni0 down"), want: []string{"cni0 of the host is down"}},
		"the gateway":         {host: in("ip addr del 10.42.1.1/24 dev cni0"), want: []string{"cni0 of the host has no address 10.42.1.1/24"}},
		"the port":            {host: in(veth + "ip link set $v nomaster"), want: []string{"is no port of cni0"}},
		"hairpin":             {host: in(veth + "bridge link set dev $v hairpin off"), want: []string{"hairpin mode of veth", "is false, not true"}},
		"the host's route":    {mode: "ptp", host: in("ip route del 10.42.1.2/32"), want: []string{"the route to 10.42.1.2/32 over veth", "is gone of the host"}},
		"the host's IPv6":     {mode: "ptp", host: in("ip -6 route del fd00:5:0:1::2/128"), want: []string{"the route to fd00:5:0:1::2/128 over veth"}},
		"the link's gateway":  {mode: "ptp", host: in(veth + "ip addr del 10.42.1.1/32 dev $v"), want: []string{"of the host has no address 10.42.1.1/32"}},
		"the host port":       {mode: "ptp", host: in("nft flush map inet weft-hostports any4"), want: []string{"host port 8080/tcp does not lead to the pod"}},
		"the table":           {mode: "ptp", host: in("nft delete table inet weft-hostports"), want: []string{"host port 8080/tcp does not", "is not in set local of table inet weft-hostports"}},
		"the guard":           {host: in("nft delete table netdev weft-guard"), want: []string{"weft-guard does not hold veth"}},
		"the guard's set":     {mode: "ptp", host: in("nft flush set netdev weft-guard own_ip6"), want: []string{"weft-guard does not hold veth"}},
		"nothing, bridge":     {},
		"nothing, own bridge": {host: in("ip addr add 10.9.9.9/24 dev cni0")},
		"nothing, ptp":        {mode: "ptp"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6).withPorts(mapping("tcp", 8080, 80, ""))
			if c.mode != "" {
				n = n.with("mode", c.mode)
			}
			p, ns := newPod(t, 1)
			r := n.add(p)
			if status, out := n.check(p, r); status != 0 || len(out) > 0 {
				t.Fatalf("right after ADD: %s", out)
			}
			if c.host != nil {
				c.host(n.host)
			}
			if c.pod != nil {
				c.pod(ns)
			}
			status, out := n.check(p, r)
			if len(c.want) == 0 {
				if status != 0 {
					t.Errorf("%s", out)
				}
			} else {
				checkRefused(t, status, out, 106, append(c.want, "pod-1/eth0 is not as ADD left it")...)
			}
			n.del(p)
			n.empty()
		})
	}
}

func TestCheckOfLittle(t *testing.T) {
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	r := n.add(p)
	n.refused("CHECK", p, 7, "prevResult is missing")
	n.with("cniVersion", "0.3.1").refused("CHECK", p, 1, "0.3.1", "CHECK", "0.4.0")
	stranger, _ := newPod(t, 2)
	status, out := n.check(stranger, r)
	checkRefused(t, status, out, 3, "pod-2/eth0 is no attachment of ours")
	gone := p
	gone.netns += "0000"
	status, out = n.check(gone, r)
	checkRefused(t, status, out, 4, "is not a network namespace of a pod")
	n.host.Exec("rm", n.dir+"/networks/cbr0/10.42.1.2")
	status, out = n.check(p, r)
	checkRefused(t, status, out, 106, "address 10.42.1.2 is not reserved for the pod")
	if strings.Contains(string(out), "eth0 in the pod") {
		t.Errorf("more than that: %s", out)
	}
}
