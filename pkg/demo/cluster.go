package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/pkg/topology"
)

const (
	weftd  = "weftd"
	plugin = "weft"

	readyWithin = 30 * time.Second
	readyURL    = "http://127.0.0.1:10248/readyz"
	etcdPort    = 2379
	logTail     = 20 // lines
)

// cluster is what stands, as far as it does.
type cluster struct {
	options  Options
	out      *printer
	topology *topology.Topology
	daemons  []*topology.Process // one per node
	started  time.Time           // the first of them
	pods     []*topology.Pod
}

// underlay has the families of the pods' networks. It is closed in itself, so
// its addresses can't clash with anything.
func (o Options) underlay() []netip.Prefix {
	var list []netip.Prefix
	for _, n := range o.Networks {
		if n.Addr().Is4() {
			list = append(list, netip.MustParsePrefix("192.168.77.0/24"))
		} else {
			list = append(list, netip.MustParsePrefix("fd77::/64"))
		}
	}
	return list
}

func (c *cluster) build(context.Context) error {
	o := c.options
	err := c.out.step("underlay: bridge in namespace "+o.Name+"-underlay", func() (string, error) {
		made, err := topology.New(topology.Options{
			Name: o.Name, Dir: o.State, Nodes: o.Nodes, Underlay: o.underlay(),
		})
		c.topology = made
		return joined(o.underlay()), err
	})
	if err != nil {
		return err
	}
	for _, n := range c.topology.Nodes {
		c.out.done("node "+n.Name+": network namespace", topology.Eth0+" "+joined(n.Addrs))
	}
	outside := c.topology.Outside
	c.out.done("outside: network namespace "+outside.Name, topology.Eth0+" "+joined(outside.Addrs))
	return nil
}

func (c *cluster) startDaemons(context.Context) error {
	c.started = time.Now()
	for i, n := range c.topology.Nodes {
		daemon, err := c.startDaemon(n, i == 0)
		if err != nil {
			return err
		}
		c.daemons = append(c.daemons, daemon)
	}
	return nil
}

// startDaemon starts weftd in a session of its own, so that neither Ctrl-C nor
// the end of the terminal reaches it, and with nothing of our environment that
// could change what it does.
func (c *cluster) startDaemon(n *topology.Node, first bool) (*topology.Process, error) {
	log, err := os.Create(logFile(n))
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.options.Bin, weftd), c.options.daemonArgs(n, c.topology.Nodes[0], first)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{}
	for _, name := range []string{"PATH", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return n.Start(cmd)
}

// daemonArgs are weftd's flags on a node; store is the node with etcd.
func (o Options) daemonArgs(n, store *topology.Node, first bool) []string {
	args := []string{
		"--iface", topology.Eth0, "--ip-masq",
		"--subnet-file", n.SubnetFile(), "--state-dir", filepath.Join(n.Dir, "state"), "--socket", socket(n),
		"--attachments-dir", n.Attachments(),
		"--healthz-ip", "127.0.0.1", "--healthz-port", "10248",
	}
	if !first {
		return append(args, "--etcd-endpoints", etcdURL(store.Addrs[0]))
	}
	args = append(args,
		"--embedded-etcd", "--embedded-etcd-insecure", "--embedded-etcd-data", filepath.Join(n.Dir, "etcd"),
		"--embedded-etcd-listen", etcdURL(store.Addrs[0])+","+etcdURL(netip.AddrFrom4([4]byte{127, 0, 0, 1})),
	)
	for _, network := range o.Networks {
		if network.Addr().Is4() {
			args = append(args, "--network", network.String())
		} else {
			args = append(args, "--ipv6-network", network.String())
		}
	}
	return args
}

// device is the name of the VXLAN link of a family, with the default VNI.
func device(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "flannel-v6.1"
	}
	return "flannel.1"
}

func logFile(n *topology.Node) string { return filepath.Join(n.Dir, "weftd.log") }
func socket(n *topology.Node) string  { return filepath.Join(n.Dir, "weftd.sock") }

func etcdURL(a netip.Addr) string { return "http://" + netip.AddrPortFrom(a, etcdPort).String() }

func (c *cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("not ready within %s", readyWithin))
	defer cancel()
	for i, n := range c.topology.Nodes {
		title := "weftd on " + n.Name
		if i == 0 {
			title += ", with etcd at " + etcdURL(n.Addrs[0])
		}
		err := c.out.step(title, func() (string, error) {
			err := untilReady(ctx, n, c.daemons[i])
			return "ready after " + since(c.started), err
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			c.out.line("\nThe end of %s:\n%s", logFile(n), tail(logFile(n), logTail))
		}
		if err != nil {
			return fmt.Errorf("weftd on %s: %w", n.Name, err)
		}
	}
	return nil
}

// untilReady asks the daemon until it says that pods can be served. The error
// tells what it said last.
func untilReady(ctx context.Context, n *topology.Node, daemon *topology.Process) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var notYet error
	for {
		answer := askReady(ctx, n)
		if answer == nil {
			return nil
		}
		if notYet == nil || ctx.Err() == nil { // else it was cut off and tells nothing
			notYet = answer
		}
		select {
		case <-daemon.Done():
			return fmt.Errorf("it ended: %w", errors.Join(daemon.Err(), notYet))
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), notYet)
		case <-tick.C:
		}
	}
}

func askReady(ctx context.Context, n *topology.Node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, readyURL, nil)
	if err != nil {
		return err
	}
	response, err := n.Client().Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // the status is enough
	return fmt.Errorf("%s: %s %s", readyURL, response.Status, bytes.TrimSpace(said))
}

func (c *cluster) addPods(ctx context.Context) error {
	for _, n := range c.topology.Nodes {
		for i := range c.options.Pods {
			name := string(rune('a' + i))
			err := c.out.step("pod "+n.Name+"-"+name+", by the CNI plugin", func() (string, error) {
				pod, err := n.AddPod(ctx, filepath.Join(c.options.Bin, plugin), name)
				if err != nil {
					return "", err
				}
				c.pods = append(c.pods, pod)
				return joined(pod.Addrs), c.options.covers(pod.Addrs)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// covers tells whether the addresses are one of each network.
func (o Options) covers(addrs []netip.Addr) error {
	ok := len(addrs) == len(o.Networks)
	for i := 0; ok && i < len(addrs); i++ {
		ok = o.Networks[i].Contains(addrs[i])
	}
	if !ok {
		return fmt.Errorf("addresses %s: want one of each of %s", joined(addrs), joined(o.Networks))
	}
	return nil
}

// printNodes shows what each weftd leased and made.
func (c *cluster) printNodes() error {
	var rows []nodeRow
	for _, n := range c.topology.Nodes {
		env, err := subnetenv.Read(n.SubnetFile())
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		if len(env.Subnets) != len(c.options.Networks) {
			return fmt.Errorf("%s: leases %s: want one of each of %s",
				n.SubnetFile(), joined(env.Subnets), joined(c.options.Networks))
		}
		for i, lease := range env.Subnets {
			vtep, err := n.Interface(device(lease))
			if err != nil {
				return err
			}
			rows = append(rows, nodeRow{
				node: n.Name, underlay: n.Addrs[i], lease: lease,
				device: vtep.Name, mac: vtep.HardwareAddr.String(), mtu: vtep.MTU,
			})
		}
	}
	c.out.line("\n%s", nodesTable(rows).render(c.out.terminal))
	return nil
}

// tail gives the last lines of a file, each indented, or why it can't be read.
func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "    " + err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "    " + strings.Join(all, "\n    ")
}
