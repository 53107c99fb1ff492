package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/ui"
)

func newUICommand(g *globals) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Serve a page on localhost that shows this node and its peers, live",
		Long: "Serves one page that shows this node, its peers with round trips and losses, and events, until it is\n" +
			"interrupted. It changes nothing. Whoever is on this machine can read it meanwhile; from another one,\n" +
			"ssh -L 9102:127.0.0.1:9102 NODE brings it to its http://127.0.0.1:9102/.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listener, err := ui.Listen(cmd.Context(), addr)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "http://%s/\n", listener.Addr())
			return serveUI(cmd.Context(), listener, g.socket)
		},
	}
	cmd.Flags().StringVar(&addr, "listen", "127.0.0.1:9102",
		"`address` and port, of this machine only; port 0 takes a free one")
	return cmd
}

// serveUI goes on until ctx ends, also while no weftd runs.
func serveUI(ctx context.Context, listener net.Listener, socket string) error {
	client := clientOf(socket, 30*time.Second)
	return ui.Serve(ctx, listener, func(ctx context.Context, path string) (io.ReadCloser, error) {
		return get(ctx, client, socket, path)
	})
}
