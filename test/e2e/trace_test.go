package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/linux/probe"
	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/pkg/trace"
)

// tracer runs `weftctl trace` on a node, as an operator does.
type tracer struct {
	t    *testing.T
	c    *cluster
	node *topology.Node
}

type traced struct {
	trace.Path
	Live *probe.Report
}

func (tr tracer) ask(args ...string) (out traced) {
	tr.t.Helper()
	args = append([]string{
		"trace", "-o", "json", "--subnet-file", tr.node.SubnetFile(), "--attachments-dir", tr.node.Attachments(),
	}, args...)
	text, err := output(tr.t, &tr.node.Namespace, filepath.Join(bin, "weftctl"), args...)
	if jsonErr := json.Unmarshal([]byte(text), &out); jsonErr != nil {
		tr.t.Fatalf("weftctl %v: %v\n%s", args, err, text)
	}
	if out.Stops() != (err != nil) {
		tr.t.Errorf("weftctl %v: it stops (%q) and its exit status says %v", args, out.Missing, err)
	}
	return out
}

// wants checks that hops with these words are there, in this order.
func (tr tracer) wants(p traced, words ...string) {
	tr.t.Helper()
	text := p.String()
	rest := text
	for _, w := range words {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			tr.t.Errorf("no %q (in this order) in:\n%s", w, text)
			return
		}
		rest = after
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, underlay4, underlay6)
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start(), c.daemon(1).start(),
	}
	for _, d := range daemons {
		d.awaitReady(1)
	}
	pods := c.pods()
	a, b, far := pods[0], pods[1], pods[2]
	for _, p := range []*topology.Pod{b, far} { // so that neighbours are known
		c.pair(a, p, 1280)
	}
	tr := tracer{t, c, c.Nodes[0]}
	from, to := a.Addrs[0].String(), far.Addrs[0].String()
	outside := c.Outside.Addrs[0].String()

	t.Run("pod to pod on the node", func(t *testing.T) {
		tr := tracer{t, c, c.Nodes[0]}
		tr.wants(tr.ask(from, b.Addrs[0].String()), "dev eth0 lladdr", "master cni0", "the pod behind veth")
	})
	t.Run("pod to pod elsewhere", func(t *testing.T) {
		tr := tracer{t, c, c.Nodes[0]}
		for i, peer := range c.Nodes[1].Addrs {
			p := tr.ask("--live", a.Addrs[i].String(), far.Addrs[i].String())
			tr.wants(p, "is a port of cni0", "proto 83", "weft forward", "permanent", "dst "+peer.String(), "VNI 1",
				"outer route", "goes to node "+peer.String())
			if p.MTU != 1430 || p.Live == nil || p.Live.Answer != "reply" || p.Live.Last != "the answer went out" {
				t.Errorf("MTU %d, sent one: %+v", p.MTU, p.Live)
			}
			if strings.Contains(p.String(), "can't be judged") {
				t.Errorf("a rule of our own isn't understood: %s", p)
			}
		}
		tr.wants(tr.ask("--port", "8080", "--live", a.Name, to), "tcp port 8080")
	})
	t.Run("pod to the outside", func(t *testing.T) {
		tr := tracer{t, c, c.Nodes[0]}
		p := tr.ask("--live", "--port", "7", from, outside)
		tr.wants(p, "weft postrouting", "masquerade", "the source becomes 192.168.77.1, that of eth0", "goes to "+outside)
		if p.Live.Answer != "refused" {
			t.Errorf("sent one: %+v", p.Live)
		}
	})
	t.Run("the node to a pod elsewhere", func(t *testing.T) {
		tr := tracer{t, c, c.Nodes[0]}
		own := tr.node.Addrs[0].String()
		if p := tr.ask(own, to); p.Src.String() != own || p.Stops() {
			t.Errorf("from the node's own address: %s", p)
		}
		p := tr.ask("--live", "node", to)
		if tr.wants(p, "flannel.1", "goes to node 192.168.77.2"); p.Live.Answer != "reply" {
			t.Errorf("sent one: %+v", p.Live)
		}
	})
	t.Run("pod to a Service", func(t *testing.T) {
		tracesServices(tracer{t, c, c.Nodes[0]}, from, to, b.Addrs[0].String())
	})
	t.Run("a rule that drops", func(t *testing.T) {
		tr := tracer{t, c, c.Nodes[0]}
		c.nft(0, "add table inet x; add chain inet x f { type filter hook forward priority 10; };"+
			"add rule inet x f ip daddr "+to+" drop")
		p := tr.ask("--live", from, to)
		tr.wants(p, "STOPS: dropped in forward by inet x f")
		if !strings.Contains(p.Live.Dropped, "chain x f") || p.Live.Last != "about to be forwarded" {
			t.Errorf("sent one: %+v", p.Live)
		}
		c.nft(0, "delete table inet x")
	})
	if left := c.command(0, "nft", "list", "tables"); strings.Contains(left, "weft-trace") {
		t.Errorf("a trace left its table: %s", left)
	}
	t.Run("killed while it waits", func(t *testing.T) { killedTrace(t, c) })

	for _, d := range daemons { // and with the daemons dead, piece by piece
		d.kill()
	}
	subnet := netip.PrefixFrom(far.Addrs[0], 24).Masked()
	peer := subnet.Addr().String()
	peerMAC := strings.Fields(c.command(0, "ip", "neigh", "show", peer, "dev", "flannel.1"))[2]
	for _, step := range []struct{ remove, missing string }{
		{"bridge fdb del " + peerMAC + " dev flannel.1", "no forwarding entry says which node " + peer},
		{"ip neigh del " + peer + " dev flannel.1", "no neighbour entry for the peer's end of the tunnel: " + peer},
		{"sysctl -qw net.ipv4.ip_forward=0", "forwards nothing: net/ipv4/ip_forward is 0"},
		{"ip link set flannel.1 down", "no route to " + to + " in the cluster's network"},
		{"ip link set cni0 down", "the bridge cni0 is down"},
	} {
		words := strings.Fields(step.remove)
		c.command(0, words[0], words[1:]...)
		p := tr.ask(from, to)
		if p.Mend == "" || !strings.Contains(p.Missing, step.missing) {
			t.Errorf("after %s: it stops by %q, want %q; mend %q", step.remove, p.Missing, step.missing, p.Mend)
		}
	}
}

// killedTrace ends a trace as kill -9 does: its table goes too.
func killedTrace(t *testing.T, c *cluster) {
	n := c.Nodes[0]
	cmd := exec.Command(filepath.Join(bin, "weftctl"), "trace", "--live", "node", "192.168.77.99") // nobody is there
	proc, err := n.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	seen := func() bool { return strings.Contains(c.command(0, "nft", "list", "tables"), "weft-trace") }
	eventually(t, 10*time.Second, func() error {
		select {
		case <-proc.Done():
			return nil // too late: judged below
		default:
		}
		if !seen() {
			return errors.New("it has no table yet")
		}
		return nil
	})
	if err := proc.Signal(syscall.SIGKILL); err != nil {
		t.Fatalf("it ended before it could be killed: %v", err)
	}
	<-proc.Done()
	eventually(t, 20*time.Second, func() error {
		if seen() {
			return errors.New("its table is still there")
		}
		return nil
	})
}

// nft runs a script on a node.
func (c *cluster) nft(i int, script string) {
	c.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := outputOf(c.t, &c.Nodes[i].Namespace, cmd); err != nil {
		c.t.Fatalf("nft %s: %v\n%s", script, err, out)
	}
}

// tracesServices has both of kube-proxy's modes in small.
func tracesServices(tr tracer, from, far, near string) {
	tr.c.nft(0, fmt.Sprintf(`table ip kube-proxy {
		map service-ips {
			type ipv4_addr . inet_proto . inet_service : verdict
			elements = { 10.96.0.10 . tcp . 80 : goto web }
		}
		chain one { meta l4proto tcp dnat to %s:8080; }
		chain two { meta l4proto tcp dnat to %s:8080; }
		chain web { numgen random mod 2 vmap { 0 : goto one, 1 : goto two }; }
		chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
		chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	}`, far, near))
	for _, line := range []string{
		"-N KUBE-SVC", "-N KUBE-SEP-1", "-N KUBE-SEP-2", "-A PREROUTING -d 10.97.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC",
		"-A KUBE-SVC -m statistic --mode random --probability 0.5 -j KUBE-SEP-1", "-A KUBE-SVC -j KUBE-SEP-2",
		"-A KUBE-SEP-1 -p tcp -j DNAT --to-destination " + far + ":8080",
		"-A KUBE-SEP-2 -p tcp -j DNAT --to-destination " + near + ":8080",
	} {
		tr.c.command(0, "iptables-nft", append([]string{"-w", "-t", "nat"}, strings.Fields(line)...)...)
	}
	for service, chain := range map[string]string{"10.96.0.10": "kube-proxy one", "10.97.0.10": "nat KUBE-SEP-1"} {
		p := tr.ask("--live", "--port", "80", from, service)
		tr.wants(p, chain, "the destination becomes "+far+":8080", "it could also be "+near+":8080",
			"goes to node 192.168.77.2")
		if p.Live.Answer != "connected" {
			tr.t.Errorf("sent one to %s: %+v", service, p.Live)
		}
	}
	tr.wants(tr.ask("--port", "81", from, "10.96.0.10"), "kube-proxy's rules translate nothing")
}
