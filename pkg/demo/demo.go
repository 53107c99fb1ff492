// Package demo shows on one machine that the overlay works: nodes as network
// namespaces, a real weftd on each with etcd in the first, pods attached by the
// real CNI plugin, and a check of every way between two pods.
//
//	topology ─→ weftd ×n, ready ─→ pods ─→ checks ─→ tables ─→ all gone
//
// It owns the order of events, the checks and what is printed of them. It
// refuses to make or to repair anything in the network itself: what it shows
// is what weftd and the plugin did.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

// ErrFailed is the error of a run that came to its end but found ways between
// pods that don't work.
var ErrFailed = errors.New("checks failed")

// maxPods is one for each letter, which is a pod's name.
const maxPods = 26

// Options says what Run shows.
type Options struct {
	Name     string         // begins the names of all namespaces
	Bin      string         // directory of weftd and weft
	State    string         // directory for logs and state, see topology.Options
	Nodes    int            // 1 to 200
	Pods     int            // on each node, 1 to 26
	Networks []netip.Prefix // of the pods: IPv4, IPv6, or one of each in this order
	Keep     bool           // leave it running
	Out      io.Writer
	Terminal bool // Out is a terminal: colours, and lines that change
}

// Run builds the cluster, checks it and takes it down again, unless it is to
// be kept. When ctx ends it takes everything down in any case, and the error is
// ctx's.
func Run(ctx context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	c := &cluster{options: o, out: &printer{out: o.Out, terminal: o.Terminal}}
	c.out.line("weft demo: %d nodes, %d pods on each\n", o.Nodes, o.Pods)
	err := c.show(ctx)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: a demo is there already; take it down first: %s", err, o.downCommand())
	case c.topology == nil:
		return err
	case ctx.Err() != nil:
		err = fmt.Errorf("interrupted: %w", ctx.Err())
	case o.Keep:
		c.out.line("\nIt is left running. To look around:\n%s", hints(c.hintArgs()))
		return err
	case err == nil:
		c.out.line("\nTo look around, leave it running with --keep; then:\n%s\n", hints(c.hintArgs()))
	}
	return errors.Join(err, c.out.step("remove every trace", func() (string, error) {
		return "namespaces, processes and " + o.State, c.topology.Down()
	}))
}

// Down removes what a run left: kept, or crashed.
func Down(o Options) error {
	out := &printer{out: o.Out, terminal: o.Terminal}
	names, err := topology.Find(o.Name)
	if err != nil {
		return err
	}
	return out.step("remove every trace", func() (string, error) {
		detail := fmt.Sprintf("%d namespaces, what ran in them and %s", len(names), o.State)
		if len(names) == 0 {
			detail = "no namespace was left"
		}
		return detail, topology.Clean(o.Name, o.State)
	})
}

func (o Options) validate() error {
	if o.Pods < 1 || o.Pods > maxPods {
		return fmt.Errorf("%d pods on each node: want 1 to %d", o.Pods, maxPods)
	}
	families := make([]int, len(o.Networks))
	for i, n := range o.Networks {
		families[i] = n.Addr().BitLen()
	}
	switch fmt.Sprint(families) {
	case "[32]", "[128]", "[32 128]":
	default:
		return fmt.Errorf("pod networks %v: want an IPv4 network, an IPv6 network, or one of each in this order", o.Networks)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces can be made by root only: try sudo")
	}
	for _, program := range []string{weftd, plugin} {
		path := filepath.Join(o.Bin, program)
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("program %s: %w; build it first: make build", program, err)
		}
	}
	return nil
}

// show is the demo itself.
func (c *cluster) show(ctx context.Context) error {
	for _, part := range []func(context.Context) error{c.build, c.startDaemons, c.awaitReady, c.addPods} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if err := c.printNodes(); err != nil {
		return err
	}
	return c.check(ctx)
}

func (o Options) downCommand() string {
	return filepath.Join(o.Bin, "weftctl") + " demo --down --name " + o.Name + " --state " + o.State
}

// since is a duration as people read it.
func since(start time.Time) string { return time.Since(start).Round(10 * time.Millisecond).String() }
