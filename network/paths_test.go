package network

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// configOf is config1 with another backend: a node takes no subnet of the peers'
// then, and either can follow the other.
func configOf(backend string) []byte {
	return []byte(`{"Network":"10.42.0.0/16","SubnetMin":"10.42.100.0","Backend":` + backend + `}`)
}

// allBackends is what weftd has.
func allBackends(o *Options) {
	o.Backends = map[string]backend.Backend{"vxlan": vxlan.New(), "host-gw": hostgw.New(), "alloc": alloc.New()}
}

// peerAt puts a lease of another node with this public address into the store.
func (b *bench) peerAt(backendType string, number int, public string) {
	l := subnet.Lease{ID: fmt.Sprintf("10.42.%d.0-24", number), Backend: backendType, Shares: []subnet.Share{{
		Subnet: netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", number)), Public: netip.MustParseAddr(public),
	}}}
	if backendType == "vxlan" {
		l.Shares[0].Data = fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, number)
	}
	b.server.Put(l)
}

// leads checks the one route to a peer's subnet.
func (b *bench) leads(number int, via, link string) {
	b.t.Helper()
	subnet, found := fmt.Sprintf("route 10.42.%d.0/24 ", number), []string{}
	for line := range strings.Lines(b.kernel.Dump()) {
		if strings.HasPrefix(line, subnet) {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], "Via:"+via+" Link:"+link+" ") {
		b.t.Errorf("want %svia %s dev %s, have %q", subnet, via, link, found)
	}
}

// onLink is a route by which the host reaches 198.51.100.0/24 without a router.
func onLink() dataplane.State {
	return dataplane.State{Routes: map[dataplane.RouteKey]dataplane.Route{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24")}: {Link: "eth0"},
	}}
}

// TestDirectRouting: the way to a peer is that of the host's routes, and follows
// them, peer by peer.
func TestDirectRouting(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig(configOf(`{"Type":"vxlan","DirectRouting":true}`))
		b.peerAt("vxlan", 2, "192.168.77.2")
		b.peerAt("vxlan", 3, "198.51.100.3")
		b.start()
		b.settle(10 * time.Second)
		b.ready(true, "")
		b.leads(2, "192.168.77.2", "eth0")
		b.leads(3, "10.42.3.0", "flannel.1")
		if dump := b.kernel.Dump(); strings.Contains(dump, "dst 192.168.77.2") {
			t.Errorf("a direct peer has an FDB entry:\n%s", dump)
		}
		for i := range 20 {
			b.peerAt("vxlan", 50+i, fmt.Sprint("192.168.77.", 50+i))
		}
		b.settle(time.Second)
		looked := b.kernel.Looked()
		b.peerAt("vxlan", 90, "192.168.77.90")
		b.settle(time.Second)
		b.leads(90, "192.168.77.90", "eth0")
		if n := b.kernel.Looked() - looked; n != 1 {
			t.Errorf("%d ways were asked for when one peer came", n)
		}
		b.server.Delete("10.42.90.0-24")
		b.world(onLink())
		b.settle(time.Second)
		b.leads(3, "198.51.100.3", "eth0")
		b.peerAt("vxlan", 4, "198.51.100.4")
		b.peerAt("vxlan", 5, "203.0.113.5")
		b.settle(time.Second)
		b.leads(4, "198.51.100.4", "eth0")
		b.leads(5, "10.42.5.0", "flannel.1")
		if err := b.kernel.Delete(onLink()); err != nil {
			t.Fatal(err)
		}
		b.settle(time.Second)
		b.leads(2, "192.168.77.2", "eth0")
		b.leads(3, "10.42.3.0", "flannel.1")
		b.leads(4, "10.42.4.0", "flannel.1")
		writes := b.kernel.Writes()
		b.stop()
		b.start()
		b.settle(time.Minute)
		b.ready(true, "")
		b.server.Delete("10.42.2.0-24")
		b.settle(time.Second)
		if n := b.kernel.Writes() - writes; n != 1 {
			t.Errorf("%d writes after a restart, want 1: the direct peer went", n)
		}
		b.stop()
	})
}

// TestRouteMTU: what a route to some peer says bounds the device, from the first write
// on, and no longer than there is such a route and such a peer.
func TestRouteMTU(t *testing.T) {
	for name, options := range map[string]string{"by the tunnel": "", "direct": `,"DirectRouting":true`} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				mtu := func(what string, want int) {
					t.Helper()
					b.settle(2 * time.Second)
					env, err := os.ReadFile(b.subnetFile())
					dump := b.kernel.Dump()
					if !strings.Contains(string(env), fmt.Sprint("FLANNEL_MTU=", want)) ||
						!strings.Contains(dump, fmt.Sprint(" MTU:", want, " ")) {
						t.Errorf("%s: want MTU %d; have %s%v\n%s", what, want, env, err, dump)
					}
				}
				far, farther := netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24")
				b.kernel.SetRouteMTU(far, 1400)
				b.server.SetConfig(configOf(`{"Type":"vxlan"` + options + `}`))
				b.peerAt("vxlan", 2, "192.168.77.2")
				b.peerAt("vxlan", 3, "198.51.100.3")
				b.start()
				mtu("a start", 1350)
				b.kernel.SetRouteMTU(far, 1300)
				mtu("another MTU", 1250)
				b.kernel.SetRouteMTU(farther, 1200)
				mtu("a route to nobody", 1250)
				b.peerAt("vxlan", 4, "203.0.113.4")
				mtu("a peer there", 1150)
				b.kernel.SetRouteMTU(farther, 0)
				mtu("its route says nothing more", 1250)
				b.server.Delete("10.42.3.0-24")
				b.settle(time.Minute)
				b.kernel.SetRouteMTU(netip.MustParsePrefix("192.168.77.0/24"), 1450)
				mtu("the peer is gone", 1400)
				b.stop()
			})
		})
	}
}

// TestHostGateway: routes and nothing else; who is behind a router is left out
// and named, until it is no longer.
func TestHostGateway(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.tune = allBackends
		b.server.SetConfig(configOf(`{"Type":"host-gw"}`))
		b.peerAt("host-gw", 2, "192.168.77.2")
		b.peerAt("host-gw", 3, "198.51.100.3")
		b.peerAt("vxlan", 4, "192.168.77.4")
		b.start()
		b.settle(10 * time.Second)
		b.ready(true, "")
		b.leads(2, "192.168.77.2", "eth0")
		skipped := b.node.Status().Skipped
		if len(skipped) != 2 || !strings.Contains(fmt.Sprint(skipped), "198.51.100.3 is not on the link of eth0") {
			t.Errorf("skipped: %v", skipped)
		}
		if dump := b.kernel.Dump(); strings.Contains(dump, "flannel") {
			t.Errorf("a device:\n%s", dump)
		}
		if env, err := os.ReadFile(b.subnetFile()); err != nil || !strings.Contains(string(env), "FLANNEL_MTU=1500") {
			t.Errorf("subnet file: %s %v", env, err)
		}
		b.world(onLink())
		b.settle(time.Second)
		b.leads(3, "198.51.100.3", "eth0")
		b.world(dataplane.State{Links: map[string]dataplane.Link{"eth0": {MTU: 1500}}})
		b.world(dataplane.State{Links: map[string]dataplane.Link{"eth0": {MTU: 1500, Up: true}}})
		b.world(uplinkRoutes())
		b.world(onLink())
		b.settle(time.Second)
		b.leads(2, "192.168.77.2", "eth0")
		b.leads(3, "198.51.100.3", "eth0")
		writes, lease := b.kernel.Writes(), b.node.Status().Node.Lease
		b.stop()
		b.start()
		b.settle(time.Minute)
		b.ready(true, "")
		if n := b.kernel.Writes() - writes; n != 0 || b.node.Status().Node.Lease != lease {
			t.Errorf("%d writes after a restart, lease %s, before %s", n, b.node.Status().Node.Lease, lease)
		}
		b.stop()
	})
}

// TestAlloc: a lease and the subnet file, and no entry for anybody but rules.
func TestAlloc(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.tune = func(o *Options) { allBackends(o); o.Masquerade, o.Forward = false, false }
		b.server.SetConfig(configOf(`{"Type":"alloc"}`))
		before := b.kernel.Dump()
		b.start()
		b.peerAt("alloc", 2, "192.168.77.2")
		b.settle(time.Minute)
		b.ready(true, "")
		if b.node.Status().Node.Lease == "" || b.node.Status().Peers != 1 {
			t.Errorf("%+v", b.node.Status())
		}
		if after := b.kernel.Dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		if env, err := os.ReadFile(b.subnetFile()); err != nil || !strings.Contains(string(env), "FLANNEL_MTU=1500") {
			t.Errorf("subnet file: %s %v", env, err)
		}
		b.stop()
	})
}

// TestRefusedBackends: the node says why it waits and what to do, and takes the
// configuration that is written then.
func TestRefusedBackends(t *testing.T) {
	const asks = "the network configuration asks for backend "
	for name, want := range map[string]string{
		"udp": asks + `"udp", which weft does not have: it carries packets through user space, ` +
			"for kernels without VXLAN, which weft does not run on: use vxlan",
		"IPIP": asks + `"ipip", which weft does not have: it is for IPv4 only: ` +
			"use vxlan, with DirectRouting for peers on one link",
		"ipsec": asks + `"ipsec", which weft does not have: weft does not encrypt yet: ` +
			"use vxlan over an underlay that does, or stay with flannel for now",
		"wireguard": asks + `"wireguard", which weft does not have: weft does not encrypt yet: ` +
			"use vxlan over an underlay that does, or stay with flannel for now",
		"tencent-vpc": asks + `"tencent-vpc", which weft does not have: weft writes no cloud's route tables: ` +
			"use vxlan, or alloc if something else writes them",
		"extension": asks + `"extension", which runs commands out of the store: if whoever can write there ` +
			"may run them on this node, start weftd with --extension-commands; else use vxlan",
		"vlxan": asks + `"vlxan", which nobody knows: use alloc, host-gw or vxlan`,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.tune = allBackends
				b.server.SetConfig(configOf(`{"Type":"` + name + `"}`))
				b.start()
				b.settle(time.Minute)
				b.ready(false, want)
				if b.kernel.Writes() != 0 {
					t.Errorf("it wrote:\n%s", b.kernel.Dump())
				}
				b.server.SetConfig([]byte(config1))
				b.settle(5 * time.Second)
				b.ready(true, "")
				b.stop()
			})
		})
	}
}
