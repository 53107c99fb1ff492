package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/pkg/topology"
)

const (
	pagePort   = 8080
	tryWithin  = time.Second      // one probe
	settle     = 15 * time.Second // all checks together: as long may the last route take
	atOnce     = 4                // checks; more would spoil the round-trip times
	pingsEach  = 3                // of which the best counts
	retryAfter = 100 * time.Millisecond
)

// way is one thing to check: from a place to a server of pages, within a
// family.
type way struct {
	from   *topology.Namespace
	source netip.Addr // zero: the kernel chooses
	to     *topology.Namespace
	addr   netip.Addr
	seen   netip.Addr // the client's address that the server must see; zero: any
	note   string     // what that address means
}

// check serves pages in all pods and at the outside, goes all ways and prints
// what it found.
func (c *cluster) check(ctx context.Context) error {
	serving, stop := context.WithCancel(ctx)
	var servers errgroup.Group
	err := c.serve(serving, &servers)
	if err == nil {
		err = c.goAll(ctx)
	}
	stop()
	if serveErr := servers.Wait(); !errors.Is(serveErr, context.Canceled) {
		err = errors.Join(err, serveErr)
	}
	return err
}

func (c *cluster) serve(ctx context.Context, servers *errgroup.Group) error {
	sites := []*topology.Namespace{c.topology.Outside}
	for _, p := range c.pods {
		sites = append(sites, &p.Namespace)
	}
	for _, site := range sites {
		listeners, err := listenAll(site)
		if err != nil {
			return err
		}
		servers.Go(func() error { return topology.ServePages(ctx, site.Name, listeners...) })
	}
	return nil
}

func listenAll(site *topology.Namespace) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, a := range site.Addrs {
		l, err := site.Listen(netip.AddrPortFrom(a, pagePort))
		if err != nil {
			for _, open := range listeners {
				_ = open.Close() // it was never used
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// goAll goes all ways, prints a matrix per family and a line for each other
// way, and gives the verdict.
func (c *cluster) goAll(ctx context.Context) error {
	settled, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	names := make([]string, len(c.pods))
	for i, p := range c.pods {
		names[i] = p.Name
	}
	var all []finding
	var report strings.Builder
	for i, network := range c.options.Networks {
		found := c.goWays(settled, ctx, "every pod of "+network.String()+" to every other one", c.podWays(i))
		all = append(all, found...)
		fmt.Fprintf(&report, "\n%s: ping in ms/largest packet in bytes; a page was fetched too\n%s",
			network, matrix(names, c.options.Name+"-", found).render(c.out.terminal))
	}
	others := c.goWays(settled, ctx, "pod to the outside, node to a pod of another one", c.otherWays())
	if err := ctx.Err(); err != nil {
		return err
	}
	report.WriteString("\n")
	for _, f := range others {
		report.WriteString(f.sentence() + "\n")
	}
	c.out.line("%s", report.String())
	return c.verdict(append(all, others...))
}

// goWays tries each way until it works or settled is over, and once in any
// case. The findings are in the order of the ways.
func (c *cluster) goWays(settled, ctx context.Context, title string, ways []way) []finding {
	found := make([]finding, len(ways))
	_ = c.out.step("check: "+title, func() (string, error) { // the verdict counts the errors
		start, late := time.Now(), make([]bool, len(ways))
		var group errgroup.Group
		group.SetLimit(atOnce)
		for i, w := range ways {
			group.Go(func() error {
				found[i] = w.try(ctx)
				for found[i].fault != passed && pause(settled, retryAfter) {
					late[i] = true
					found[i] = w.try(ctx)
				}
				return nil
			})
		}
		_ = group.Wait() // none returns an error
		if n := failed(found); n > 0 && ctx.Err() == nil {
			return "", fmt.Errorf("%d of %d failed", n, len(found))
		}
		detail := fmt.Sprintf("all %d passed in %s", len(found), since(start))
		if n := len(slices.DeleteFunc(late, func(l bool) bool { return !l })); n > 0 {
			detail += fmt.Sprintf(", %d of them not at the first try", n)
		}
		return detail, ctx.Err()
	})
	return found
}

func failed(findings []finding) int {
	n := 0
	for _, f := range findings {
		if f.fault != passed {
			n++
		}
	}
	return n
}

// verdict prints what failed, in words.
func (c *cluster) verdict(all []finding) error {
	for _, f := range all {
		if f.fault != passed {
			c.out.mark(red, "✗", "check", f.sentence())
		}
	}
	if n := failed(all); n > 0 {
		return fmt.Errorf("%d of %d %w", n, len(all), ErrFailed)
	}
	c.out.done("verdict", fmt.Sprintf("all %d checks passed", len(all)))
	return nil
}

// podWays are those of every pod to every other one, within one family. There
// is no NAT between pods.
func (c *cluster) podWays(family int) []way {
	var ways []way
	for _, from := range c.pods {
		for _, to := range c.pods {
			if from == to {
				continue
			}
			ways = append(ways, way{
				from: &from.Namespace, source: from.Addrs[family],
				to: &to.Namespace, addr: to.Addrs[family], seen: from.Addrs[family],
			})
		}
	}
	return ways
}

// otherWays are from a pod to the outside, which must see the node, and from
// a node to a pod of another one.
func (c *cluster) otherWays() []way {
	var ways []way
	node, outside := c.topology.Nodes[0], c.topology.Outside
	pod, far := c.pods[0], c.pods[len(c.pods)-1]
	for i := range c.options.Networks {
		ways = append(ways,
			way{
				from: &pod.Namespace, source: pod.Addrs[i], to: outside, addr: outside.Addrs[i],
				seen: node.Addrs[i], note: "the node's own: masqueraded",
			},
			way{from: &node.Namespace, to: &far.Namespace, addr: far.Addrs[i]},
		)
	}
	return ways
}

// pause tells whether the time was waited out before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// try goes the way once: small pings, one of the interface's full size, and a
// page.
func (w way) try(ctx context.Context) finding {
	f := finding{from: w.from.Name, to: w.to.Name, note: w.note}
	for range pingsEach {
		rtt, err := w.ping(ctx, 0)
		if err != nil {
			f.fault, f.err = noPing, err
			return f
		}
		if f.rtt == 0 || rtt < f.rtt {
			f.rtt = rtt
		}
	}
	if f.mtu, f.err = w.fullSize(ctx); f.err != nil {
		f.fault = noMTU
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	page, err := w.from.Fetch(ctx, netip.AddrPortFrom(w.addr, pagePort))
	f.source = page.Client
	switch {
	case err != nil:
		f.fault, f.err = noPage, err
	case page.Name != w.to.Name:
		f.fault, f.err = noPage, fmt.Errorf("it was %s that answered at %s", page.Name, w.addr)
	case w.seen.IsValid() && page.Client != w.seen:
		f.fault, f.err = addrNAT, fmt.Errorf("the server saw %s, not %s", page.Client, w.seen)
	}
	return f
}

// fullSize sends a packet as large as the smaller of the two interfaces takes,
// which must not be fragmented on the way, and returns its size.
func (w way) fullSize(ctx context.Context) (int, error) {
	near, err := w.from.Interface(topology.Eth0)
	if err != nil {
		return 0, err
	}
	far, err := w.to.Interface(topology.Eth0)
	if err != nil {
		return 0, err
	}
	size := min(near.MTU, far.MTU)
	_, err = w.ping(ctx, size)
	return size, err
}

func (w way) ping(ctx context.Context, size int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	return w.from.Ping(ctx, topology.Ping{From: w.source, To: w.addr, Size: size})
}

// hintArgs picks a pod of the first node, and one of the last.
func (c *cluster) hintArgs() hintArgs {
	node := c.topology.Nodes[0]
	a := hintArgs{
		node: node.Name, device: device(c.options.Networks[0]), log: logFile(node),
		ctl: filepath.Join(c.options.Bin, "weftctl"), socket: socket(node), down: c.options.downCommand(),
	}
	if len(c.pods) > 0 {
		a.pod, a.peer = c.pods[0].Name, c.pods[len(c.pods)-1].Addrs[0].String()
	}
	return a
}
