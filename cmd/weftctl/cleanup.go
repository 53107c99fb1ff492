package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/extension"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
)

const cleanupHelp = `cleanup takes weft off this node: its devices with all that stands on them, its routes
(also those over other interfaces, and blackholes), its rules in every engine, the guards of pods'
links, the table of host ports unless pods still have some, subnet.env, the saved lease and
snapshot, and the control socket a dead weftd left.

What is not weft's stays as it is. So do forwarding sysctls, which others may rely on; the
embedded etcd's data, which is the cluster's; cni0 and pods' interfaces, which the CNI plugin
removes with each pod; what flannel has taken over; and what commands of the backend extension
have done, which is listed with the commands that take it back.

Stop weftd first. Which network was here is told by the state directory, else by the subnet
file, else by --config.`

// cleanupFlags are those of cleanup as they are typed.
type cleanupFlags struct {
	cleanup network.Cleanup
	config  string
	lease   bool
	store   storeFlags
}

func newCleanupCommand(g *globals) *cobra.Command {
	var f cleanupFlags
	cmd := &cobra.Command{
		Use:     "cleanup",
		Short:   "Remove all that weft owns on this node, and nothing else",
		Long:    cleanupHelp,
		Example: "  systemctl disable --now weftd\n  weftctl cleanup --dry-run\n  weftctl cleanup --lease",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.cleanup.Socket = g.socket
			return f.run(cmd, g)
		},
	}
	flags := cmd.Flags()
	stateFlags(flags, &f.cleanup.StateDir, &f.cleanup.SubnetFile)
	flags.StringVar(&f.config, "config", "", "network configuration as `JSON`, where neither of them tells")
	flags.BoolVar(&f.lease, "lease", false, "give this node's lease back to etcd too: peers forget it at once")
	flags.BoolVar(&f.cleanup.DryRun, "dry-run", false, "tell what would be removed, and remove nothing")
	flags.BoolVar(&f.cleanup.Force, "force", false, "even while a weftd runs, and what flannel may have taken over")
	f.store.register(flags)
	return cmd
}

// stateFlags say what outlives a weftd.
func stateFlags(flags *pflag.FlagSet, stateDir, subnetFile *string) {
	flags.StringVar(stateDir, "state-dir", setting("STATE_DIR", "/var/lib/weft"), "`directory` of weftd's state")
	flags.StringVar(subnetFile, "subnet-file", setting("SUBNET_FILE", "/run/flannel/subnet.env"),
		"`file` that weftd wrote for the CNI plugin")
}

// backends are those whose entries may stand on this host.
func backends() map[string]backend.Backend {
	return map[string]backend.Backend{
		"vxlan": vxlan.New(), "host-gw": hostgw.New(), "alloc": alloc.New(), "extension": extension.New(),
	}
}

// podTables are those of nftables that the CNI plugin makes.
func podTables() map[string]func(dry, force bool) (there bool, why string, err error) {
	return map[string]func(dry, force bool) (there bool, why string, err error){
		"netdev " + guard.Table: func(dry, _ bool) (there bool, why string, err error) {
			there, err = guard.Clear(dry)
			return there, "", err
		},
		"inet " + hostports.Table: hostports.Clear,
	}
}

func (f *cleanupFlags) run(cmd *cobra.Command, g *globals) error {
	c := f.cleanup
	c.Backends, c.Tables = backends(), podTables()
	if f.config != "" {
		var err error
		if c.Config, err = subnet.ParseConfig([]byte(f.config)); err != nil {
			return fmt.Errorf("--config: %w", err)
		}
	}
	if f.lease {
		c.GiveBack = func(ctx context.Context, l subnet.Lease) error {
			return f.store.with(ctx, func(ctx context.Context, s *etcd.Store) error { return s.Release(ctx, l) })
		}
	}
	kernel, err := linux.New(linux.Options{})
	if err != nil {
		return fmt.Errorf("%w; run it as root", err)
	}
	defer kernel.Close()
	c.Kernel = kernel
	report, err := c.Run(cmd.Context())
	if len(report.Removed)+len(report.Kept)+len(report.Failed) == 0 && err != nil {
		return err
	}
	return errors.Join(err, g.print(cmd.OutOrStdout(), report, func(out io.Writer) error {
		return printCleanup(out, report)
	}))
}

func printCleanup(out io.Writer, r network.CleanupReport) error {
	if len(r.Removed)+len(r.Kept)+len(r.Failed) == 0 {
		_, err := fmt.Fprintln(out, "nothing of weft's is on this node")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := func(verb string, items []network.CleanupItem) {
		for _, i := range items {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", verb, i.Kind, i.Name, cmp.Or(i.Note, "-"))
		}
	}
	_, _ = fmt.Fprintln(w, "\tKIND\tNAME\tNOTE")
	removed := "removed"
	if r.DryRun {
		removed = "would remove"
	}
	rows(removed, r.Removed)
	rows("kept", r.Kept)
	rows("NOT REMOVED", r.Failed)
	return w.Flush()
}

// setting is the default of a flag that weftd has too: what weftd's environment
// says, so that its environment file serves weftctl.
func setting(name, otherwise string) string {
	for _, prefix := range []string{"WEFTD_", "FLANNELD_"} {
		if v := os.Getenv(prefix + name); v != "" {
			return v
		}
	}
	return otherwise
}
