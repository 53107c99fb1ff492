package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/demo"
)

// demoFlags are those of the demo as they are typed.
type demoFlags struct {
	options           demo.Options
	network, network6 string
	down              bool
}

func newDemoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole overlay on this machine and check every way between its pods",
		Long: "demo makes nodes as network namespaces, starts a real weftd in each, with etcd in the first,\n" +
			"attaches pods by the CNI plugin, and lets every pod ping every other one and fetch a page from it.\n" +
			"It needs root. Nothing but names in /run/netns is added to the host's own network, and all of it\n" +
			"is gone when the demo ends, unless --keep is given. The exit status is 1 if any check failed.",
		Example: "  weftctl demo\n  weftctl demo --keep\n  weftctl demo --down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.options.Name, "name", "weft-demo", "`word` that begins the names of all namespaces")
	flags.IntVar(&f.options.Nodes, "nodes", 3, "`number` of nodes")
	flags.IntVar(&f.options.Pods, "pods", 2, "`number` of pods on each node")
	flags.StringVar(&f.network, "network", "10.42.0.0/16", "IPv4 `CIDR` of the pods; empty for none")
	flags.StringVar(&f.network6, "ipv6-network", "fd00:42::/48", "IPv6 `CIDR` of the pods; empty for none")
	flags.StringVar(&f.options.Bin, "bin", "", "`directory` of weftd and weft (default: that of weftctl)")
	flags.StringVar(&f.options.State, "state", "", "`directory` for logs and state (default: /run/<name>)")
	flags.BoolVar(&f.options.Keep, "keep", false, "leave it running, to look around")
	flags.BoolVar(&f.down, "down", false, "remove every trace of a demo that was kept, or that crashed")
	cmd.MarkFlagsMutuallyExclusive("keep", "down")
	return cmd
}

func (f *demoFlags) run(cmd *cobra.Command) error {
	o, err := f.complete()
	if err != nil {
		return err
	}
	o.Out, o.Terminal = cmd.OutOrStdout(), isTerminal(os.Stdout)
	if f.down {
		return demo.Down(o)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return demo.Run(ctx, o)
}

// complete fills in what was not given, and reads what is text.
func (f *demoFlags) complete() (demo.Options, error) {
	o := f.options
	for _, flag := range []struct {
		name, text string
		bits       int
	}{{"network", f.network, 32}, {"ipv6-network", f.network6, 128}} {
		if flag.text == "" {
			continue
		}
		p, err := netip.ParsePrefix(flag.text)
		if err == nil && p.Addr().BitLen() != flag.bits {
			err = errors.New("it is of the other family")
		}
		if err != nil {
			return o, fmt.Errorf("--%s %q: %w", flag.name, flag.text, err)
		}
		o.Networks = append(o.Networks, p.Masked())
	}
	if o.State == "" {
		o.State = filepath.Join("/run", o.Name)
	}
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("directory of weftctl: %w; give --bin", err)
		}
		o.Bin = filepath.Dir(self)
	}
	return o, nil
}
