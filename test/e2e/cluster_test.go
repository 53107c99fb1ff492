// Package e2e runs the real binaries on real nodes: network namespaces with
// their own devices, routes and firewall, joined by a bridge. It needs root.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/topology"
)

// bin is where TestMain builds the binaries.
var bin string

func TestMain(m *testing.M) {
	os.Exit(build(m))
}

func build(m *testing.M) int {
	if role := os.Getenv(roleEnv); role != "" {
		return play(role)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: these tests make network namespaces with names; run them as root")
		return 1
	}
	dir, err := os.MkdirTemp("", "weft-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin = dir
	for pkg, module := range map[string]string{"./cmd/...": "../..", "go.etcd.io/etcd/etcdctl/v3": "../../tools"} {
		cmd := exec.Command("go", "build", "-o", dir+"/", pkg)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	return m.Run()
}

// otherVersion builds weftd as another release would be stamped.
func otherVersion(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weftd-other")
	cmd := exec.Command("go", "build", "-ldflags", "-X github.com/weftnet/weft/pkg/version.Version=v0.0.1-other",
		"-o", path, "./cmd/weftd")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build another weftd: %v\n%s", err, out)
	}
	return path
}

var (
	underlay4 = netip.MustParsePrefix("192.168.77.0/24")
	underlay6 = netip.MustParsePrefix("fd77::/64")
)

// cluster is a topology and what it needs to start daemons on it.
type cluster struct {
	*topology.Topology
	t     testing.TB
	store *store // nil: node 1 serves it
}

func newCluster(t testing.TB, nodes int, underlay ...netip.Prefix) *cluster {
	t.Helper()
	//nolint:usetesting // t.TempDir is too long: the path of a socket has 108 bytes (unix(7))
	dir, err := os.MkdirTemp("", "weft-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	name := "e2e-" + strings.ToLower(strings.TrimLeft(filepath.Base(dir), "weft-")) + "-t"
	top, err := topology.New(topology.Options{Name: name, Dir: dir, Nodes: nodes, Underlay: underlay})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := top.Down(); err != nil {
			t.Error(err)
		}
	})
	return &cluster{Topology: top, t: t}
}

// daemon is a weftd on one node.
type daemon struct {
	t    testing.TB
	node *topology.Node
	args []string
	env  []string // beside our own
	path string   // of the program
	open bool     // it was stopped in peace: the tunnel's filter has to be put back
	proc *topology.Process
}

// etcdURL is where the store is served: by node 1, if none stands alone.
func (c *cluster) etcdURL() string {
	if c.store != nil {
		return c.store.url()
	}
	return "http://" + netip.AddrPortFrom(c.Nodes[0].Addrs[0], 2379).String()
}

// storeArgs make a daemon the store; config is "--network=…" and the like.
func (c *cluster) storeArgs(config ...string) []string {
	return append([]string{
		"--embedded-etcd", "--embedded-etcd-insecure", "--embedded-etcd-listen", c.etcdURL(),
		"--embedded-etcd-data", filepath.Join(c.Nodes[0].Dir, "etcd"),
	}, config...)
}

// daemon prepares a weftd for a node; start starts it. The first argument list
// that is given wins over the usual flags.
func (c *cluster) daemon(i int, extra ...string) *daemon {
	n := c.Nodes[i]
	args := []string{
		"--etcd-endpoints", c.etcdURL(), "--iface", topology.Eth0, "--ip-masq",
		"--subnet-file", n.SubnetFile(), "--state-dir", filepath.Join(n.Dir, "state"),
		"--attachments-dir", n.Attachments(),
		"--socket", filepath.Join(n.Dir, "weftd.sock"), "--healthz-ip", "127.0.0.1", "--healthz-port", "10248",
	}
	return &daemon{t: c.t, node: n, args: append(args, extra...), path: filepath.Join(bin, "weftd")}
}

func (d *daemon) log() string { return filepath.Join(d.node.Dir, "weftd.log") }

func (d *daemon) start() *daemon {
	d.t.Helper()
	out, err := os.OpenFile(d.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(d.path, d.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), d.env...)
	again := d.proc != nil
	if d.proc, err = d.node.Start(cmd); err != nil {
		d.t.Fatal(err)
	}
	if again {
		return d
	}
	d.t.Cleanup(func() {
		d.kill()
		if d.t.Failed() {
			text, _ := os.ReadFile(d.log())
			d.t.Logf("log of %s:\n%s", d.node.Name, text)
		}
	})
	return d
}

// kill ends the daemon as kill -9 does.
func (d *daemon) kill() {
	_ = d.proc.Signal(syscall.SIGKILL)
	<-d.proc.Done()
	d.open = false
}

// stop ends it in peace.
func (d *daemon) stop() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
	defer cancel()
	if err := d.proc.Stop(ctx); err != nil {
		d.t.Fatalf("stop %s: %v", d.node.Name, err)
	}
	d.open = true
}

// status asks the daemon's control socket.
func (d *daemon) status() (s network.Status, err error) {
	err = d.ask("/v1/status", &s)
	return s, err
}

func (d *daemon) ask(path string, into any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", filepath.Join(d.node.Dir, "weftd.sock"))
		},
	}, Timeout: 5 * time.Second}
	reply, err := client.Get("http://weftd" + path)
	if err != nil {
		return err
	}
	defer func() { _ = reply.Body.Close() }()
	return json.NewDecoder(reply.Body).Decode(into)
}

// awaitPlanEmpty waits until the kernel is as the daemon wants it.
func (d *daemon) awaitPlanEmpty() {
	d.t.Helper()
	eventually(d.t, 10*time.Second, func() error {
		var p network.PlanReply
		err := d.ask("/v1/plan", &p)
		if err == nil && len(p.Ops)+len(p.Conflicts) > 0 {
			err = fmt.Errorf("%s: left to do: %v", d.node.Name, p)
		}
		return err
	})
}

// awaitReady waits until the daemon is ready and has so many peers.
func (d *daemon) awaitReady(peers int) network.Status {
	d.t.Helper()
	var s network.Status
	eventually(d.t, 30*time.Second, func() (err error) {
		if s, err = d.status(); err != nil {
			return err
		}
		if !s.Ready || s.Peers != peers {
			return fmt.Errorf("%s: ready %v %v, %d of %d peers", d.node.Name, s.Ready, s.Reasons, s.Peers, peers)
		}
		return nil
	})
	return s
}

// awaitLog waits for a line in the daemon's log.
func (d *daemon) awaitLog(words ...string) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, func() error {
		text, err := os.ReadFile(d.log())
		if err != nil {
			return err
		}
	line:
		for line := range strings.Lines(string(text)) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue line
				}
			}
			return nil
		}
		return fmt.Errorf("no line with all of %q", words)
	})
}

// output runs a command in a namespace and gives what it prints.
func output(t testing.TB, ns *topology.Namespace, path string, args ...string) (string, error) {
	t.Helper()
	return outputOf(t, ns, exec.Command(path, args...))
}

func outputOf(t testing.TB, ns *topology.Namespace, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := ns.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		_ = p.Signal(syscall.SIGKILL)
		<-p.Done()
	}
	return out.String(), p.Err()
}

// etcdctl runs the real one against the cluster's store.
func (c *cluster) etcdctl(args ...string) string {
	c.t.Helper()
	out, err := output(c.t, &c.Nodes[0].Namespace, filepath.Join(bin, "etcdctl"),
		append([]string{"--endpoints", c.etcdURL()}, args...)...)
	if err != nil {
		c.t.Fatalf("etcdctl %v: %v\n%s", args, err, out)
	}
	return out
}

// eventually polls until f gives nil.
func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %v", limit, err)
		}
	}
}

// pods attaches pods a and b on every node and serves a page in each.
func (c *cluster) pods() []*topology.Pod {
	c.t.Helper()
	var pods []*topology.Pod
	for _, n := range c.Nodes {
		for _, name := range []string{"a", "b"} {
			pod, err := n.AddPod(c.t.Context(), filepath.Join(bin, "weft"), name)
			if err != nil {
				c.t.Fatal(err)
			}
			c.serve(&pod.Namespace)
			pods = append(pods, pod)
		}
	}
	return pods
}

const pagePort = 8080

// serve serves pages on all addresses of a namespace until the test ends.
func (c *cluster) serve(ns *topology.Namespace) {
	c.t.Helper()
	var listeners []net.Listener
	for _, a := range ns.Addrs {
		eventually(c.t, 5*time.Second, func() error { // a new IPv6 address can't be bound at once
			l, err := ns.Listen(netip.AddrPortFrom(a, pagePort))
			if err == nil {
				listeners = append(listeners, l)
			}
			return err
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- topology.ServePages(ctx, ns.Name, listeners...) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			c.t.Error(err)
		}
	})
}

// mesh checks that every pod reaches every other with packets of the full MTU,
// and that the other sees the pod's own address.
func (c *cluster) mesh(pods []*topology.Pod, mtu int) {
	c.t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				c.pair(from, to, mtu)
			}
		}
	}
}

func (c *cluster) pair(from, to *topology.Pod, mtu int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	for i, addr := range to.Addrs {
		if _, err := from.Ping(ctx, topology.Ping{To: addr, Size: mtu}); err != nil {
			c.t.Error(err)
		}
		page, err := from.Fetch(ctx, netip.AddrPortFrom(addr, pagePort))
		if err != nil {
			c.t.Error(err)
			continue
		}
		if page.Client != from.Addrs[i] {
			c.t.Errorf("%s sees %s as %s, want its own address %s", to.Name, from.Name, page.Client, from.Addrs[i])
		}
	}
}
