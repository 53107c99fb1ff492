package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

const (
	pathTime = 1500 * time.Millisecond // of each load, each round
	services = 500                     // of the rules that look like kube-proxy's
)

// measurePath sends the same load from node to node without an overlay and from pod
// to pod through it, in turns.
func measurePath(b *testing.B, p plan, out *report) {
	for _, rules := range []bool{false, true} {
		title := "Data path"
		if rules {
			title += fmt.Sprintf(", beside rules as kube-proxy's for %d Services", services)
		}
		s := out.section(title, "From a pod to a pod on another node, in parts of the same from node to node without an "+
			"overlay. Both ends share this machine's cores, so this is what a packet costs in processor time.")
		for _, c := range out.Daemons {
			r := newRig(b, 3)
			ends := r.ends(b, c)
			if rules {
				for _, n := range r.Nodes[1:3] {
					proxyRules(b, n)
				}
			}
			for range p.rounds {
				for _, l := range loads() {
					base, over := l.run(b, ends.hosts), l.run(b, ends.pods)
					s.add(l.name+", pod to pod", l.unit, c.name, over)
					s.add(l.name+", as a ratio", "", c.name, over/base)
				}
			}
		}
		slices.SortStableFunc(s.Rows, func(a, b *row) int { return strings.Compare(ratioFirst(a), ratioFirst(b)) })
	}
}

func ratioFirst(r *row) string {
	if r.Unit == "" {
		return "0"
	}
	return "1"
}

// pair is where load goes from and to.
type pair struct {
	from, to *topology.Namespace
	addr     netip.Addr
}

type pairs struct{ hosts, pods pair }

// ends starts daemons on nodes 1 and 2, with a pod each.
func (r *rig) ends(b *testing.B, c contender) pairs {
	b.Helper()
	var pods []*topology.Pod
	for i := 1; i <= 2; i++ {
		d := r.begin(c, i)
		b.Cleanup(d.kill)
	}
	for i := 1; i <= 2; i++ {
		n := r.Nodes[i]
		file := r.dir(c, i) + "/subnet.env"
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
	out := pairs{
		pair{&r.Nodes[1].Namespace, &r.Nodes[2].Namespace, r.Nodes[2].Addrs[0]},
		pair{&pods[0].Namespace, &pods[1].Namespace, pods[1].Addrs[0]},
	}
	until(b, 20*time.Millisecond, func() error {
		ctx, stop := context.WithTimeout(b.Context(), time.Second)
		defer stop()
		_, err := out.pods.from.Ping(ctx, topology.Ping{To: out.pods.addr})
		return err
	})
	return out
}

// proxyRules are as many and as deep as kube-proxy's in its mode iptables.
func proxyRules(b *testing.B, n *topology.Node) {
	b.Helper()
	var t strings.Builder
	t.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
	for i := range services {
		fmt.Fprintf(&t, ":KUBE-SVC-%d - [0:0]\n:KUBE-SEP-%d - [0:0]\n", i, i)
	}
	t.WriteString("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n" +
		"-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n" +
		"-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n")
	for i := range services {
		fmt.Fprintf(&t, "-A KUBE-SERVICES -d 10.96.%d.%d/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-%d\n"+
			"-A KUBE-SVC-%d -j KUBE-SEP-%d\n-A KUBE-SEP-%d -p tcp -m tcp -j DNAT --to-destination 10.1.%d.%d:8080\n",
			i/250, i%250+1, i, i, i, i, i/250, i%250+1)
	}
	t.WriteString("COMMIT\n*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n" +
		"-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n" +
		"-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n" +
		"-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n")
	var said bytes.Buffer
	cmd := exec.Command("iptables-nft-restore", "--noflush")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(t.String()), &said, &said
	p, err := n.Start(cmd)
	must(b, err)
	if err := p.Err(); err != nil {
		b.Fatalf("iptables-nft-restore: %v\n%s", err, said.String())
	}
}

// load is one kind of traffic; run gives how much of it went through in a second.
type load struct {
	name, unit, network string
	serve               func(net.Conn)
	send                func(dial func() (net.Conn, error), end time.Time) (float64, error)
	received            bool // count what arrives, not what is sent
}

func loads() []load {
	one := make([]byte, 1)
	return []load{
		{"TCP stream", "MB/s", "tcp", drain, stream, false},
		{"TCP request/response", "1/s", "tcp", echo, func(dial func() (net.Conn, error), end time.Time) (float64, error) {
			c, err := dial()
			if err != nil {
				return 0, err
			}
			defer func() { _ = c.Close() }()
			return exchanges(c, one, end)
		}, false},
		{"TCP connect/request/response", "1/s", "tcp", echo, reconnect, false},
		{"UDP request/response", "1/s", "udp", nil, func(dial func() (net.Conn, error), end time.Time) (float64, error) {
			c, err := dial()
			if err != nil {
				return 0, err
			}
			defer func() { _ = c.Close() }()
			return exchanges(c, one, end)
		}, false},
		{"small UDP packets", "1/s", "udp", nil, flood, true},
	}
}

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func stream(dial func() (net.Conn, error), end time.Time) (sum float64, err error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	for b := make([]byte, 128<<10); err == nil && time.Now().Before(end); {
		var n int
		n, err = c.Write(b)
		sum += float64(n) / 1e6
	}
	return sum, err
}

func exchanges(c net.Conn, b []byte, end time.Time) (n float64, err error) {
	if err = c.SetDeadline(end.Add(time.Second)); err != nil {
		return 0, err
	}
	for time.Now().Before(end) {
		if _, err = c.Write(b); err != nil {
			return n, err
		}
		if _, err = io.ReadFull(c, b); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func reconnect(dial func() (net.Conn, error), end time.Time) (n float64, err error) {
	for b := make([]byte, 1); time.Now().Before(end); n++ {
		c, err := dial()
		if err != nil {
			return n, err
		}
		_, errWrite := c.Write(b)
		_, errRead := io.ReadFull(c, b)
		_ = c.(*net.TCPConn).SetLinger(0) // or ports run out
		if err := errors.Join(errWrite, errRead, c.Close()); err != nil {
			return n, err
		}
	}
	return n, nil
}

func flood(dial func() (net.Conn, error), end time.Time) (float64, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	for b := make([]byte, 18); time.Now().Before(end); {
		_, _ = c.Write(b) // a full queue is no error here
	}
	return 0, nil
}

func (l load) run(b *testing.B, p pair) float64 {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	var arrived atomic.Int64
	var at string
	must(b, p.to.Do(func() (err error) {
		at, err = l.listen(ctx, p.addr, &arrived)
		return err
	}))
	var sum, seconds float64
	must(b, p.from.Do(func() (err error) {
		dial := func() (net.Conn, error) { return net.DialTimeout(l.network, at, 5*time.Second) }
		began := time.Now()
		sum, err = l.send(dial, began.Add(pathTime))
		seconds = time.Since(began).Seconds()
		return err
	}))
	if l.received {
		sum = float64(arrived.Load())
	}
	return sum / seconds
}

// listen serves until ctx ends.
func (l load) listen(ctx context.Context, addr netip.Addr, arrived *atomic.Int64) (string, error) {
	at := netip.AddrPortFrom(addr, 0).String()
	if l.network == "udp" {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return "", err
		}
		context.AfterFunc(ctx, func() { _ = c.Close() })
		go func() {
			for b := make([]byte, 2048); ; {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				if arrived.Add(1); !l.received {
					_, _ = c.WriteTo(b[:n], from)
				}
			}
		}()
		return c.LocalAddr().String(), nil
	}
	s, err := net.Listen("tcp", at)
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() { l.serve(c); _ = c.Close() }()
		}
	}()
	return s.Addr().String(), nil
}
