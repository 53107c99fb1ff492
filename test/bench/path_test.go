package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

const (
	pathTime = 200 * time.Millisecond // of each load, each turn
	turns    = 4                      // in a round
	services = 500                    // of the rules that look like kube-proxy's
)

// route is a way of packets that is measured: a daemon with some options, or none.
type route struct {
	contender
	bridge bool // pods on a bridge, as flannel's are, instead of point to point
	// guard is whether pods are held to their own addresses; nil: as is usual for their
	// attachment, on a bridge they are not.
	guard *bool
	pair  pair
}

// routes are ours by default and with what costs or gains something turned, and others'.
func routes(daemons []contender) (out []route) {
	held := true
	for i, c := range daemons {
		out = append(out, route{contender: c, bridge: i > 0 && c.name != "base"})
		if i > 0 {
			continue
		}
		for _, option := range []string{"--vxlan-filter=off", "--vxlan-notrack=false"} {
			other := c
			other.name, other.args = option, c.args+" "+option
			out = append(out, route{contender: other})
		}
		named := func(name string) contender {
			c.name = name
			return c
		}
		out = append(out, route{contender: named("allowSpoofing"), guard: new(bool)},
			route{contender: named("bridge"), bridge: true},
			route{contender: named("bridge-guarded"), bridge: true, guard: &held})
	}
	return out
}

// spoofing is what the route says of it in the configuration of the node's CNI plugin.
func (r route) spoofing(n *topology.Node) []string {
	switch {
	case r.guard == nil:
		return nil
	case *r.guard:
		return []string{}
	}
	return []string{n.Name} // the namespace of all of its pods
}

// measurePath sends the same load from node to node without an overlay and from pod
// to pod through it, in turns, all on one CPU.
func measurePath(b *testing.B, p plan, out *report) {
	all := routes(out.Daemons)
	r := newRig(b, 1+2*len(all))
	for i := range all {
		all[i].pair = r.ends(b, all[i], 1+2*i)
	}
	base := pair{&r.Nodes[1].Namespace, &r.Nodes[2].Namespace, r.Nodes[2].Addrs[0]}
	defer pin(b)()
	for _, rules := range []bool{false, true} {
		title := "Data path"
		if rules {
			title += fmt.Sprintf(", beside rules as kube-proxy's for %d Services", services)
			for i := range all {
				proxyRules(b, r.Nodes[1+2*i], base.addr, all[i].pair.addr)
				proxyRules(b, r.Nodes[2+2*i], base.addr, all[i].pair.addr)
			}
		}
		s := out.section(title, "From a pod to a pod on another node, in parts of the same from node to node without an "+
			"overlay, by this process's processor time on one CPU: what a packet costs, on kernels that count softirqs in it "+
			"(without IRQ_TIME_ACCOUNTING).")
		for i := range all {
			s.Names = append(s.Names, all[i].name)
		}
		for range p.rounds * turns {
			s.turn(b, base, all, rules)
		}
	}
}

// turn sends each load by each way, one after the other.
func (s *section) turn(b *testing.B, base pair, all []route, rules bool) {
	b.Helper()
	for _, l := range loads() {
		if l.service && !rules {
			continue
		}
		without := l.run(b, base, serviceOfNode)
		for i := range all {
			s.add(l.name, "", all[i].name, l.run(b, all[i].pair, serviceOfPod)/without)
		}
		s.add(l.name+", from node to node", l.unit, all[0].name, without)
	}
}

// pin brings this process to one CPU; what it gives lets it go again.
func pin(b *testing.B) (free func()) {
	b.Helper()
	var all, one unix.CPUSet
	must(b, unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	procs := runtime.GOMAXPROCS(1)
	must(b, affinity(&one))
	return func() {
		runtime.GOMAXPROCS(procs)
		must(b, affinity(&all))
	}
}

// affinity goes through the threads twice: one may be made meanwhile by another that
// was not changed yet.
func affinity(cpus *unix.CPUSet) error {
	for range 2 {
		threads, err := filepath.Glob("/proc/self/task/*")
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(filepath.Base(t))
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, cpus); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// pair is where load goes from and to.
type pair struct {
	from, to *topology.Namespace
	addr     netip.Addr
}

// ends starts daemons on two nodes, with a pod each.
func (r *rig) ends(b *testing.B, c route, first int) pair {
	b.Helper()
	var pods []*topology.Pod
	for i := first; i <= first+1; i++ {
		d := r.begin(c.contender, i)
		b.Cleanup(d.kill)
	}
	for i := first; i <= first+1; i++ {
		n := r.Nodes[i]
		n.PTP, n.AllowSpoofing = !c.bridge, c.spoofing(n)
		file := r.dir(c.contender, i) + "/subnet.env"
		until(b, 20*time.Millisecond, func() error {
			raw, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(n.SubnetFile(), raw, 0o600)
			}
			return err
		})
		pod, err := n.AddPod(b.Context(), bin+"/weft", "pod")
		must(b, err)
		pods = append(pods, pod)
	}
	out := pair{&pods[0].Namespace, &pods[1].Namespace, pods[1].Addrs[0]}
	until(b, 20*time.Millisecond, func() error {
		ctx, stop := context.WithTimeout(b.Context(), time.Second)
		defer stop()
		_, err := out.from.Ping(ctx, topology.Ping{To: out.addr})
		return err
	})
	return out
}

// Services of two servers, a node and a pod, and the port of those.
var (
	serviceOfNode = netip.MustParseAddrPort("10.96.250.1:80")
	serviceOfPod  = netip.MustParseAddrPort("10.96.250.2:80")
)

const servicePort = 8080

// proxyRules writes as many and as deep rules as kube-proxy in its mode iptables. The last
// two Services have servers.
func proxyRules(b *testing.B, n *topology.Node, node, pod netip.Addr) {
	b.Helper()
	must(b, n.Do(func() error { // a host asks for the way to a Service before it is translated
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 96, 0, 0), Mask: net.CIDRMask(16, 32)},
			Scope: netlink.SCOPE_LINK,
		})
	}))
	var said bytes.Buffer
	cmd := exec.Command("iptables-nft-restore", "--noflush")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(proxyText(node, pod)), &said, &said
	p, err := n.Start(cmd)
	must(b, err)
	if err := p.Err(); err != nil {
		b.Fatalf("iptables-nft-restore: %v\n%s", err, said.String())
	}
}

func proxyText(node, pod netip.Addr) string {
	var t strings.Builder
	t.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
	for i := range services {
		fmt.Fprintf(&t, ":KUBE-SVC-%d - [0:0]\n:KUBE-SEP-%d - [0:0]\n", i, i)
	}
	t.WriteString("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n" +
		"-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n" +
		"-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n")
	for i := range services {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i / 250), byte(i%250 + 1)}), 80)
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i%250 + 1)}), servicePort)
		switch i {
		case services - 2:
			at, to = serviceOfNode, netip.AddrPortFrom(node, servicePort)
		case services - 1:
			at, to = serviceOfPod, netip.AddrPortFrom(pod, servicePort)
		}
		fmt.Fprintf(&t, "-A KUBE-SERVICES -d %s/32 -p tcp -m tcp --dport %d -j KUBE-SVC-%d\n"+
			"-A KUBE-SVC-%d -j KUBE-SEP-%d\n-A KUBE-SEP-%d -p tcp -m tcp -j DNAT --to-destination %s\n",
			at.Addr(), at.Port(), i, i, i, i, to)
	}
	t.WriteString("COMMIT\n*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n" +
		"-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n" +
		"-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n" +
		"-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n")
	return t.String()
}
