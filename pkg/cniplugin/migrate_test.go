package cniplugin_test

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/netnstest"
)

const flannelsConf = `{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"dataDir":"NETWORKS",` +
	`"ranges":[[{"subnet":"10.42.1.0/24"}]],"routes":[{"dst":"10.42.0.0/16"}],"type":"host-local"},` +
	`"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`

// attachAsFlannel makes what flannel's plugin leaves for a pod: its own file,
// host-local's, and a pair with a name that says nothing.
func (n *node) attachAsFlannel(p pod, ns *netnstest.NS, addr string) {
	n.t.Helper()
	networks := filepath.Join(n.dir, "networks")
	n.write(n.state(p.id), strings.ReplaceAll(flannelsConf, "NETWORKS", networks))
	n.write(filepath.Join(networks, "cbr0", addr), p.id+"\r\n"+p.ifName)
	n.write(filepath.Join(networks, "cbr0", "last_reserved_ip.0"), addr)
	n.host.Exec("sh", "-ec", `ip link show cni0 >/dev/null 2>&1 || {
		ip link add cni0 mtu 1450 type bridge; ip address add 10.42.1.1/24 dev cni0; ip link set cni0 up
		ip link set cni0 address 0a:58:0a:2a:01:01; }`)
	n.host.Do(func() {
		bridge, err := netlink.LinkByName("cni0")
		if err != nil {
			n.t.Fatal(err)
		}
		pair := netlink.NewVeth(netlink.LinkAttrs{
			Name: "veth" + p.id, MTU: 1450, TxQLen: -1, MasterIndex: bridge.Attrs().Index,
		})
		pair.PeerName, pair.PeerNamespace = p.ifName, netlink.NsFd(ns.Handle())
		if err := netlink.LinkAdd(pair); err != nil {
			n.t.Fatal(err)
		}
		if err := netlink.LinkSetUp(pair); err != nil {
			n.t.Fatal(err)
		}
	})
	ns.Exec("ip", "link", "set", p.ifName, "mtu", "1450", "up")
	ns.Exec("ip", "address", "add", addr+"/24", "dev", p.ifName)
	ns.Exec("ip", "route", "add", "default", "via", "10.42.1.1")
}

// A node that flannel's plugin served: pods of before and pods of now share the
// bridge and the addresses, and the old ones go without flannel's help.
func TestNodeOfFlannels(t *testing.T) {
	for name, form := range map[string]func(n *node) *node{
		"under flannel's name": func(n *node) *node { return n.flannels(map[string]any{"isDefaultGateway": true}) },
		"in our own form":      func(n *node) *node { return n },
	} {
		t.Run(name, func(t *testing.T) {
			n := form(newNode(t, ipv4))
			old, oldNS := newPod(t, 1)
			n.attachAsFlannel(old, oldNS, "10.42.1.2")
			n.host.Do(func() {
				before := link(t, "cni0").Attrs()
				p, ns := newPod(t, 2)
				r := n.add(p)
				if have := r.IPs[0].Address.String(); have != "10.42.1.3/24" {
					t.Errorf("the new pod has %s, want what follows the old one's address", have)
				}
				after := link(t, "cni0").Attrs()
				if before.Index != after.Index || after.MTU != 1450 || after.HardwareAddr.String() != "0a:58:0a:2a:01:01" {
					t.Errorf("the bridge was %+v and is %+v", before, after)
				}
				wantAddrs(t, link(t, "cni0"), "10.42.1.1/24")
				reach(t, oldNS, ns, r.IPs[0].Address.IP)
				reach(t, ns, oldNS, []byte{10, 42, 1, 2})
				n.del(old)
				n.del(p)
			})
			n.wantStates()
			n.empty()
			if v := veths(t, oldNS); len(v) > 0 {
				t.Errorf("the old pod still has %v", v)
			}
		})
	}
}

func TestForceAddress(t *testing.T) {
	n := newNode(t, ipv4, ipv6).flannels(map[string]any{"forceAddress": true})
	p, ns := newPod(t, 1)
	n.host.Exec("sh", "-ec", `ip link add cni0 type bridge
		ip address add 10.42.7.1/24 dev cni0; ip address add fd00:5::1/56 dev cni0 nodad
		ip address add fd99::1/64 dev cni0 nodad`)
	r := n.add(p)
	n.host.Do(func() { wantAddrs(t, link(t, "cni0"), "10.42.1.1/24", "fd00:5:0:1::1/64", "fd99::1/64") })
	reachAll(t, n.host, ns, r)
	other, _ := newPod(t, 2)
	n.add(other)
	n.host.Do(func() { wantAddrs(t, link(t, "cni0"), "10.42.1.1/24", "fd00:5:0:1::1/64", "fd99::1/64") })
}

// Pods on the bridge of before reach pods with a link of their own, and back.
func TestBridgePodsReachPointToPointPods(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4, ipv6)
	forward(t, n.host)
	old, oldNS := newPod(t, 1)
	rOld := n.add(old)
	ptp := n.with("mode", "ptp")
	p, ns := newPod(t, 2)
	r := ptp.add(p)
	reachAll(t, oldNS, ns, r)
	reachAll(t, ns, oldNS, rOld)
	if have := n.proxies(); !slices.Equal(have, []string{"fd00:5:0:1::3"}) {
		t.Errorf("answered for: %v", have)
	}
	ptp.del(p)
	if have := n.proxies(); len(have) > 0 {
		t.Errorf("still answered for: %v", have)
	}
	ptp.del(p)

	wantNobody(t, oldNS, net.IPv4(10, 42, 1, 200))
	n.del(old)
	n.empty()
}

// wantNobody asks for an address that no pod has, and waits until the kernel
// has given up.
func wantNobody(t *testing.T, from *netnstest.NS, addr net.IP) {
	t.Helper()
	from.Exec("sh", "-c", "echo 10 > /proc/sys/net/ipv4/neigh/eth0/retrans_time_ms")
	conn, err := listen(from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("weft"), &net.UDPAddr{IP: addr, Port: 9}); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		out := from.Exec("ip", "neigh", "show", "to", addr.String())
		if strings.Contains(out, "FAILED") {
			return
		}
		if strings.Contains(out, "lladdr") || time.Now().After(end) {
			t.Fatalf("asked for a free address: %q", out)
		}
	}
}

// proxies are the addresses that the host answers for.
func (n *node) proxies() (out []string) {
	n.t.Helper()
	for line := range strings.Lines(n.host.Exec("ip", "-6", "neigh", "show", "proxy")) {
		out = append(out, strings.Fields(line)[0])
	}
	return out
}
