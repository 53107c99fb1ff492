package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/topology"
)

// weftProtocol is the route protocol by which weft knows its own.
const weftProtocol = 83

// TestMigration takes two nodes over from flannel, one after the other, back,
// and over again, while pods on them talk. Nothing is lost, no new flow to the
// outside goes without its masquerade, and what flannel looks at when it starts
// is at every step as flannel made it.
func TestMigration(t *testing.T) {
	for name, underlay := range map[string][]netip.Prefix{
		"ipv4": {underlay4}, "dual stack": {underlay4, underlay6},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMigration(t, underlay)
			before := []map[string]vtepState{m.nodes[0].vteps(), m.nodes[1].vteps()}
			var daemons []*daemon
			for i, f := range m.nodes {
				d := m.c.daemon(i + 1).start()
				daemons = append(daemons, d)
				status := d.awaitReady(2)
				m.taken(i, status.Node.Lease)
				m.same(before, fmt.Sprintf("after the takeover of %s", f.node.Name))
			}
			for i, d := range daemons {
				d.stop()
				m.same(before, "after weftd's end")
				m.nodes[i].start(m.nodes[1-i])
				m.same(before, "after flannel's return")
				if p := m.nodes[i].protocols(m.nodes[1-i]); slices.Contains(p, weftProtocol) {
					t.Errorf("flannel did not get its routes back: %v", p)
				}
			}
			for i, d := range daemons {
				m.taken(i, d.start().awaitReady(2).Node.Lease)
				m.same(before, "after the second takeover")
			}
			m.newPods()
			m.finish()
			for i, d := range daemons {
				d.stop()
				m.nodes[i].start(m.nodes[1-i])
				m.cleaned(i, d)
				if diff := cmp.Diff(before[i], m.nodes[i].vteps()); diff != "" {
					t.Errorf("after weft's cleanup (-before +after):\n%s", diff)
				}
			}
		})
	}
}

// cleaned takes off what weft has left beside flannel: its table, its nexthop
// objects, and the route to a node that this flannel doesn't know; nothing of
// what flannel works with.
func (m *migration) cleaned(i int, d *daemon) {
	m.t.Helper()
	report, out, err := d.cleanup()
	if err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	for _, item := range report.Removed {
		if item.Kind == "link" || item.Name == d.node.SubnetFile() {
			m.t.Errorf("removed %+v, which is flannel's", item)
		}
	}
	if p := m.nodes[i].protocols(m.nodes[1-i]); len(p) == 0 || slices.Contains(p, weftProtocol) {
		m.t.Errorf("flannel's routes: %v", p)
	}
	out = m.c.command(i+1, "ip", "nexthop", "show", "proto", "83") + m.c.command(i+1, "nft", "list", "tables")
	if strings.Contains(out, "weft") || strings.Contains(out, "proto") {
		m.t.Errorf("left: %s", out)
	}
}

// migration is a cluster of which nodes 2 and 3 are flannel's; node 1 is the
// store, and weft's all the time.
type migration struct {
	t       *testing.T
	c       *cluster
	nodes   []*flannel
	pods    []*topology.Pod
	streams []*stream
	flows   []*flows
}

func newMigration(t *testing.T, underlay []netip.Prefix) *migration {
	t.Helper()
	m := &migration{t: t, c: newCluster(t, 3, underlay...)}
	store := m.c.daemon(0, m.c.storeArgs()...).start()
	store.awaitLog("configuration", "weftctl config set")
	for i, n := range m.c.Nodes[1:] {
		m.nodes = append(m.nodes, flannelNode(t, n, i+1))
		m.nodes[i].lease(m.c)
	}
	m.c.etcdctl("put", "/coreos.com/network/config", m.nodes[0].config())
	store.awaitReady(2)
	plugin := flannelPlugin(t)
	for i, f := range m.nodes {
		f.start(m.nodes[1-i])
		pod, err := f.node.AddPod(t.Context(), plugin, "a")
		if err != nil {
			t.Fatal(err)
		}
		m.pods = append(m.pods, pod)
	}
	for family := range underlay {
		for i, to := range m.pods {
			from := m.pods[1-i]
			m.streams = append(m.streams, startStream(t, &from.Namespace, &to.Namespace, to.Addrs[family]))
			m.flows = append(m.flows, startFlows(t, &to.Namespace, m.c.Outside, m.c.Outside.Addrs[family]))
		}
	}
	return m
}

// flannelNode says what flannel would have on a node.
func flannelNode(t *testing.T, n *topology.Node, number int) *flannel {
	t.Helper()
	f := &flannel{t: t, node: n}
	for _, public := range n.Addrs {
		own := flannelFamily{
			device: "flannel.1", network: netip.MustParsePrefix("10.42.0.0/16"), public: public,
			subnet: netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", 50+number)),
			mac:    net.HardwareAddr{0x2e, 0x13, 0xb9, 0x65, 0x04, byte(number)},
		}
		if public.Is6() {
			own.device, own.network = "flannel-v6.1", netip.MustParsePrefix("fd00:42::/48")
			own.subnet = netip.MustParsePrefix(fmt.Sprintf("fd00:42:0:%x::/64", 50+number))
			own.mac = net.HardwareAddr{0x2e, 0x13, 0xb9, 0x65, 0x06, byte(number)}
		}
		f.families = append(f.families, own)
	}
	return f
}

// taken wants a node to be weft's soon: the same lease, our mark on the routes,
// our rules and none of flannel's.
func (m *migration) taken(i int, lease string) {
	m.t.Helper()
	f := m.nodes[i]
	if want := strings.TrimPrefix(f.key(), "/coreos.com/network/subnets/"); lease != want {
		m.t.Errorf("%s has lease %s, want %s", f.node.Name, lease, want)
	}
	if have := strings.TrimSpace(m.c.etcdctl("get", f.key())); have != f.key()+"\n"+f.value() {
		m.t.Errorf("etcd has %s, want %s", have, f.value())
	}
	keys := strings.Fields(m.c.etcdctl("get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"))
	if len(keys) != len(m.c.Nodes) {
		m.t.Errorf("leases: %v, want one for each of %d nodes", keys, len(m.c.Nodes))
	}
	var marks []int
	for range f.families {
		marks = append(marks, weftProtocol)
	}
	eventually(m.t, 10*time.Second, func() error {
		if d := cmp.Diff(marks, f.protocols(m.nodes[1-i])); d != "" {
			return fmt.Errorf("protocols of the routes of %s: %s", f.node.Name, d)
		}
		chains := f.chains()
		flannels := func(c string) bool { return strings.HasPrefix(c, "flannel-") }
		if slices.ContainsFunc(chains, flannels) || len(chains) < len(f.families) {
			return fmt.Errorf("rules on %s: %v, want weft's only", f.node.Name, chains)
		}
		return nil
	})
}

// same wants the devices to be those of before: the same index means that none
// was made anew.
func (m *migration) same(before []map[string]vtepState, when string) {
	m.t.Helper()
	watch(m.t, streamRate/2, m.streams...) // so that what the step broke is seen
	for i, f := range m.nodes {
		if d := cmp.Diff(before[i], f.vteps()); d != "" {
			m.t.Errorf("%s, devices of %s: %s", when, f.node.Name, d)
		}
		content, err := os.ReadFile(f.node.SubnetFile())
		if err != nil || !strings.Contains(string(content), f.families[0].subnet.Addr().Next().String()) {
			m.t.Errorf("%s, subnet.env of %s: %v\n%s", when, f.node.Name, err, content)
		}
	}
}

// newPods attaches pods to the nodes that are weft's by now, beside those of
// before, and wants each to reach each. subnet.env has weft's MTU, which in dual
// stack is less than flannel's.
func (m *migration) newPods() {
	m.t.Helper()
	mtu := flannelMTU
	if len(m.nodes[0].families) > 1 {
		mtu -= 20
	}
	all := slices.Clone(m.pods)
	for _, f := range m.nodes {
		pod, err := f.node.AddPod(m.t.Context(), flannelPlugin(m.t), "b")
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, pod)
	}
	for _, pod := range all {
		m.c.serve(&pod.Namespace)
	}
	m.c.mesh(all, mtu)
	m.pods = all
}

// finish counts: nothing lost, nothing seen under a pod's own address.
func (m *migration) finish() {
	m.t.Helper()
	for _, s := range m.streams {
		s.flawless()
	}
	for i, f := range m.flows {
		family, node := i/len(m.nodes), m.nodes[i%len(m.nodes)]
		f.all(node.families[family].public)
	}
	for _, pod := range m.pods {
		if err := pod.Delete(m.t.Context()); err != nil {
			m.t.Error(err)
		}
	}
}
