package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/probe"
)

func newPeersCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List the other nodes: how they are reached, and which are left out and why",
		Long: "Lists the other nodes, a line for each subnet. WAY is tunnel (through the VXLAN device) or\n" +
			"direct (by the node's own address, on the uplink's link). SINCE is how long the node counts\n" +
			"as a peer, as far as the running weftd knows. Nodes that are left out follow with the reason.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var peers []network.Peer
			if err := askDaemon(cmd.Context(), g.socket, "/v1/peers", &peers); err != nil {
				return err
			}
			return g.print(cmd.OutOrStdout(), peers, coloured(func(out io.Writer) error {
				return printPeers(out, peers, time.Now())
			}, peersColours()))
		},
	}
}

func printPeers(out io.Writer, peers []network.Peer, now time.Time) error {
	if len(peers) == 0 {
		_, err := fmt.Fprintln(out, "no other node has a lease")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PEER\tSUBNET\tPUBLIC\tVTEP\tMAC\tWAY\tSINCE\tRTT\tLOSS\tPROBES")
	for _, p := range peers {
		for _, path := range p.Paths {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(p.Node, p.Lease), path.Subnet, path.Public,
				cmp.Or(path.VTEP, "-"), cmp.Or(path.MAC, "-"), path.Way, age(now, p.Since), probed(path, now))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range peers {
		if p.Reason != "" {
			_, _ = fmt.Fprintf(out, "left out: %s: %s\n", named(p.Lease, p.Node), p.Reason)
		}
	}
	return nil
}

// probed is what probes found: "0.21ms  0%  ok", "-  100%  overlay-down for 3m".
func probed(path network.PeerPath, now time.Time) string {
	if path.Probe == "" {
		return "-\t-\tnone"
	}
	rtt, state := "-", string(path.Probe)
	if path.RTT > 0 {
		rtt = fmt.Sprintf("%.2fms", path.RTT)
	}
	if path.Probe != probe.OK && path.Probe != probe.Unknown {
		state += " for " + age(now, path.ProbeSince)
	}
	return fmt.Sprintf("%s\t%.0f%%\t%s", rtt, 100*path.Loss, state)
}

// named is "10.42.9.0-24 of 192.0.2.9".
func named(lease, node string) string {
	if node == "" {
		return lease
	}
	return lease + " of " + node
}
