package cniplugin_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestPodsReachEachOther(t *testing.T) {
	t.Parallel()
	for name, subnets := range map[string][]string{
		"IPv4": {ipv4}, "IPv6": {ipv6}, "dual stack": {ipv4, ipv6},
	} {
		for _, mode := range []string{"bridge", "ptp"} {
			t.Run(mode+" "+name, func(t *testing.T) {
				n := newNode(t, subnets...).with("mode", mode)
				if mode == "ptp" { // the daemon's part: pods meet in the host's routing
					forward(t, n.host)
				}
				p1, ns1 := newPod(t, 1)
				p2, ns2 := newPod(t, 2)
				r1, r2 := n.add(p1), n.add(p2)
				reachAll(t, ns1, ns2, r2)
				reachAll(t, ns2, ns1, r1)
				reachAll(t, n.host, ns1, r1)
				reachAll(t, ns1, ns1, r1)
				for _, ip := range r1.IPs {
					reach(t, ns1, n.host, ip.Gateway)
				}
				if len(r1.IPs) != len(subnets) {
					t.Errorf("want %d addresses, have %v", len(subnets), r1.IPs)
				}
				n.del(p1)
				n.del(p2)
				n.empty()
			})
		}
	}
}

func forward(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	ns.Do(func() {
		for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The kernel holds what the result says, and what no result can say.
func TestWhatTheKernelHolds(t *testing.T) {
	n := newNode(t, ipv4, ipv6)
	p, ns := newPod(t, 1)
	r := n.add(p)
	bridge, hostEnd, podEnd := r.Interfaces[0], r.Interfaces[1], r.Interfaces[2]

	var bridgeIndex int
	n.host.Do(func() {
		br := link(t, bridge.Name)
		bridgeIndex = br.Attrs().Index
		if br.Type() != "bridge" || br.Attrs().MTU != 1450 || br.Attrs().HardwareAddr.String() != bridge.Mac {
			t.Errorf("bridge: %+v", br.Attrs())
		}
		wantAddrs(t, br, "10.42.1.1/24", "fd00:5:0:1::1/64")
		veth := link(t, hostEnd.Name)
		if veth.Attrs().MasterIndex != bridgeIndex || veth.Attrs().MTU != 1450 ||
			veth.Attrs().HardwareAddr.String() != hostEnd.Mac {
			t.Errorf("host's end: %+v", veth.Attrs())
		}
		port, err := netlink.LinkGetProtinfo(veth)
		if err != nil || !port.Hairpin {
			t.Errorf("hairpin is off: %v, %v", port, err)
		}
	})
	ns.Do(func() {
		eth0 := link(t, podEnd.Name)
		if eth0.Attrs().MTU != 1450 || eth0.Attrs().HardwareAddr.String() != podEnd.Mac {
			t.Errorf("pod's end: %+v", eth0.Attrs())
		}
		wantAddrs(t, eth0, "10.42.1.2/24", "fd00:5:0:1::2/64")
		routes, err := netlink.RouteList(eth0, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, r := range routes {
			if r.Gw != nil {
				have = append(have, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
			}
		}
		slices.Sort(have)
		want := []string{
			"0.0.0.0/0 via 10.42.1.1", "10.42.0.0/16 via 10.42.1.1",
			"::/0 via fd00:5:0:1::1", "fd00:5::/56 via fd00:5:0:1::1",
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Error(d)
		}
		for f, want := range map[string]string{"accept_ra": "0", "accept_dad": "0"} {
			have, err := os.ReadFile("/proc/sys/net/ipv6/conf/eth0/" + f)
			if err != nil || strings.TrimSpace(string(have)) != want {
				t.Errorf("%s: %q, %v", f, have, err)
			}
		}
	})

	// More pods don't change the bridge's MAC: their neighbour caches hold it.
	for i := range 5 {
		other, _ := newPod(t, 10+i)
		if again := n.add(other).Interfaces[0].Mac; again != bridge.Mac {
			t.Errorf("the bridge's MAC went from %s to %s", bridge.Mac, again)
		}
	}
	n.host.Do(func() {
		if have := link(t, bridge.Name).Attrs().HardwareAddr.String(); have != bridge.Mac {
			t.Errorf("the bridge's MAC went from %s to %s", bridge.Mac, have)
		}
	})
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("%s is down", name)
	}
	return l
}

// wantAddrs compares the global addresses, none of which may be tentative.
func wantAddrs(t *testing.T, l netlink.Link, want ...string) {
	t.Helper()
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, a := range addrs {
		if a.Scope != int(netlink.SCOPE_UNIVERSE) {
			continue
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%s is tentative", a.IPNet)
		}
		have = append(have, a.IPNet.String())
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("%s: %s", l.Attrs().Name, d)
	}
}

func TestExistingBridge(t *testing.T) {
	addBridge := func(t *testing.T, n *node, addrs ...string) {
		n.host.Do(func() {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
			if err := netlink.LinkAdd(br); err != nil {
				t.Fatal(err)
			}
			for _, a := range addrs {
				addr, err := netlink.ParseAddr(a)
				if err == nil {
					err = netlink.AddrAdd(br, addr)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	t.Run("of another subnet keeps its address and gets ours", func(t *testing.T) {
		n := newNode(t, ipv4)
		addBridge(t, n, "10.9.9.1/24")
		p, ns := newPod(t, 1)
		r := n.add(p)
		n.host.Do(func() { wantAddrs(t, link(t, "cni0"), "10.9.9.1/24", "10.42.1.1/24") })
		reachAll(t, n.host, ns, r)
	})
	t.Run("that takes its MAC from ports stops doing so", func(t *testing.T) {
		n := newNode(t, ipv4)
		addBridge(t, n)
		var macs []string
		for i := range 4 {
			p, _ := newPod(t, i)
			macs = append(macs, n.add(p).Interfaces[0].Mac)
		}
		n.host.Do(func() { macs = append(macs, link(t, "cni0").Attrs().HardwareAddr.String()) })
		if len(slices.Compact(macs)) != 1 {
			t.Errorf("the bridge's MAC changes: %v", macs)
		}
	})
	t.Run("whose state is unknown is not waited for", func(t *testing.T) {
		n := newNode(t, ipv4)
		addBridge(t, n)
		start := time.Now()
		const pods = 5
		for i := range pods {
			p, _ := newPod(t, i)
			n.add(p)
		}
		if each := time.Since(start) / pods; each > time.Second {
			t.Errorf("an ADD takes %v", each)
		}
	})
	t.Run("that is no bridge", func(t *testing.T) {
		n := newNode(t, ipv4)
		n.host.Do(func() {
			taken := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}, VxlanId: 1, Port: 8472}
			if err := netlink.LinkAdd(taken); err != nil {
				t.Fatal(err)
			}
		})
		p, _ := newPod(t, 1)
		n.refused("ADD", p, 103, "cni0 is a vxlan, not a bridge", "another name")
		n.empty()
	})
}

// Whatever an ADD failed at, nothing of it stays.
func TestAddUndoesItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		conf    []any
		prepare func(t *testing.T, n *node, ns *netnstest.NS)
		code    uint
		words   []string
	}{
		"interface name taken in the pod": {
			prepare: func(t *testing.T, _ *node, ns *netnstest.NS) {
				ns.Do(func() {
					if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}); err != nil {
						t.Fatal(err)
					}
				})
			},
			code: 103, words: []string{"the pod has a link eth0 already", "DEL"},
		},
		"a gateway that can't be reached": {
			conf: []any{"ipam", map[string]any{"routes": []map[string]string{{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}}}},
			code: 100, words: []string{"192.0.2.0/24 via 203.0.113.1"},
		},
		"a route in the host that is another's": {
			conf: []any{"mode", "ptp"},
			prepare: func(t *testing.T, n *node, _ *netnstest.NS) {
				n.host.Do(func() {
					for _, last := range []byte{2, 3} {
						dst := &net.IPNet{IP: net.IPv4(10, 42, 1, last), Mask: net.CIDRMask(32, 32)}
						err := netlink.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: dst, Scope: netlink.SCOPE_LINK})
						if err != nil {
							t.Fatal(err)
						}
					}
				})
			},
			code: 103, words: []string{"the host has a route to 10.42.1.", "/32 already"},
		},
		"exhausted": {
			prepare: func(t *testing.T, n *node, _ *netnstest.NS) {
				text := "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\n" +
					"FLANNEL_IPV6_NETWORK=fd00::/64\nFLANNEL_IPV6_SUBNET=fd00::1/127\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
				if err := os.WriteFile(n.subnetFile(), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			code: 101, words: []string{"fd00::/127 has no room"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4)
			// The data directory is the node's in every case.
			ipam := n.conf["ipam"].(map[string]any)
			n = n.with(c.conf...)
			n.conf["ipam"].(map[string]any)["dataDir"] = ipam["dataDir"]
			p, ns := newPod(t, 1)
			if c.prepare != nil {
				c.prepare(t, n, ns)
			}
			n.refused("ADD", p, c.code, c.words...)
			n.empty()
			n.refused("ADD", p, c.code, c.words...) // and again the same, not "already held"
			n.del(p)
		})
	}
}

func TestAddTwice(t *testing.T) {
	n := newNode(t, ipv4)
	p, ns := newPod(t, 1)
	r := n.add(p)
	n.refused("ADD", p, 103, "pod-1/eth0 has address 10.42.1.2 already", "DEL before")
	reachAll(t, n.host, ns, r) // the first one is as it was

	second := p
	second.ifName = "net1"
	n.refused("ADD", second, 103, "the pod has a route to 10.42.0.0/16 already", "one network")
	n.del(second)
	if d := cmp.Diff([]string{"10.42.1.2"}, n.addresses()); d != "" {
		t.Error(d)
	}
	reachAll(t, n.host, ns, r)

	// The address store is lost, the pod lives: its link is not torn away. Nor
	// when all that we knew is lost.
	if err := os.RemoveAll(filepath.Join(n.dir, "networks")); err != nil {
		t.Fatal(err)
	}
	n.refused("ADD", p, 103, "has address 10.42.1.2 already")
	if err := os.RemoveAll(string(n.records())); err != nil {
		t.Fatal(err)
	}
	n.refused("ADD", p, 103, "has a link", "DEL it")
	reachAll(t, n.host, ns, r)
	n.del(p)
	n.empty()
}

func TestAddsAtOnce(t *testing.T) {
	t.Parallel()
	const many = 8
	n := newNode(t, ipv4, ipv6)
	pods := make([]pod, many)
	spaces := make([]*netnstest.NS, many)
	for i := range many {
		pods[i], spaces[i] = newPod(t, i)
	}
	var wg sync.WaitGroup
	outs := make([]string, many)
	for i := range many {
		wg.Go(func() {
			status, out := n.call("ADD", pods[i])
			if status != 0 {
				t.Errorf("%s", out)
			}
			outs[i] = string(out)
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	seen := map[string]bool{}
	for i, out := range outs {
		var r struct {
			IPs []struct {
				Address netip.Prefix `json:"address"`
			} `json:"ips"`
			Interfaces []struct {
				Mac mac.Addr `json:"mac"`
			} `json:"interfaces"`
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		for _, ip := range r.IPs {
			if a := ip.Address.Addr(); seen[a.String()] {
				t.Errorf("%s was given twice", a)
			} else {
				seen[a.String()] = true
				reach(t, n.host, spaces[i], a.AsSlice())
			}
		}
		if r.Interfaces[0].Mac.IsZero() {
			t.Error("the bridge has no MAC")
		}
	}
	if len(seen) != 2*many {
		t.Errorf("%d addresses for %d pods", len(seen), many)
	}
	for i := range many {
		wg.Go(func() { n.call("DEL", pods[i]) })
	}
	wg.Wait()
	n.empty()
}
