// Command weftctl is the operator's view of weft: see `weftctl --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	switch {
	case err == nil:
	case errors.Is(err, errDrift), errors.Is(err, errStops), errors.Is(err, errUnwell):
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "weftctl: %v\n", err)
		os.Exit(1)
	}
}

// globals are the flags of every command.
type globals struct {
	socket string
	output string
}

func newRootCommand() *cobra.Command {
	var g globals
	root := &cobra.Command{
		Use:   "weftctl",
		Short: "Look at a weft overlay and configure it",
		Long: "weftctl shows what the local weftd does, reads and writes the overlay's configuration\n" +
			"in etcd, and runs a demonstration on one machine.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.socket, "socket", "/run/weft/weftd.sock", "control `socket` of the local weftd")
	flags.StringVarP(&g.output, "output", "o", "table", "`format`: table, json or yaml")
	_ = root.RegisterFlagCompletionFunc("output", completeFormats) // the flag is there
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return checkFormat(g.output) }
	root.AddCommand(
		newTraceCommand(&g), newDoctorCommand(&g),
		newStatusCommand(&g), newPeersCommand(&g), newPlanCommand(&g), newEventsCommand(&g), newLeasesCommand(&g),
		newConfigCommand(), newCleanupCommand(&g), newCNICommand(&g), newDemoCommand(), newDockerOptsCommand(),
		newUICommand(&g), newBenchCommand(&g), newVersionCommand(),
	)
	return root
}
