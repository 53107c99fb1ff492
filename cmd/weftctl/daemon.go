package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/version"
)

// errDrift ends `weftctl plan` with status 1: the kernel is not as wanted.
var errDrift = errors.New("the kernel is not as wanted")

func newStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show this node: its lease, uplink, peers and store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s network.Status
			if err := askDaemon(cmd.Context(), g.socket, "/v1/status", &s); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
}

func newPlanCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what weftd would write to the kernel now; exit status 1 if anything",
		Long: "Shows the difference between what is wanted and what the kernel has, without writing:\n" +
			"  +  would be created    ~  would be changed    -  would be deleted\n" +
			"  !  is needed, but something foreign stands there; weftd leaves it alone",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p network.PlanReply
			if err := askDaemon(cmd.Context(), g.socket, "/v1/plan", &p); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if g.output == "json" {
				if err := printJSON(out, p); err != nil {
					return err
				}
			} else {
				printPlan(out, p)
			}
			if len(p.Ops)+len(p.Conflicts) > 0 {
				return errDrift
			}
			return nil
		},
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.String())
			return err
		},
	}
}

// askDaemon gets one JSON document from the local weftd.
func askDaemon(ctx context.Context, socket, path string, into any) error {
	client := http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weftd"+path, nil)
	if err != nil {
		return err
	}
	reply, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask weftd at %s: %w; is it running? systemctl status weftd", socket, errors.Unwrap(err))
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return fmt.Errorf("ask weftd at %s: %w", socket, err)
	}
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("ask weftd at %s: %s", socket, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("ask weftd at %s: its answer can't be read: %w", socket, err)
	}
	return nil
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printStatus(out io.Writer, s network.Status, now time.Time) error {
	ready := "yes"
	if !s.Ready {
		ready = "no"
	}
	heard := "not since weftd started"
	if !s.Store.Heard.IsZero() {
		heard = fmt.Sprintf("revision %d, heard %s ago, %d leases",
			s.Store.Revision, now.Sub(s.Store.Heard).Round(time.Second), s.Store.Leases)
		if s.Store.InDoubt {
			heard += ", in doubt: peers stay until it is confirmed"
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) }
	row("Ready", ready)
	for _, r := range s.Reasons {
		row("", r)
	}
	if s.Node.Lease == "" {
		row("Lease", "none yet")
	} else {
		row("Lease", s.Node.Lease)
		row("Subnets", strings.Join(s.Node.Subnets, ", "))
		row("Backend", fmt.Sprintf("%s, pods' MTU %d", s.Node.Backend, s.Node.MTU))
		row("Uplink", fmt.Sprintf("%s, %s", s.Node.Uplink, strings.Join(s.Node.Local, ", ")))
		row("Public", strings.Join(s.Node.Public, ", "))
	}
	if s.Rules.Engine != "" {
		row("Rules", fmt.Sprintf("in %s: %s", s.Rules.Engine, s.Rules.Reason))
	}
	if s.Rules.Warning != "" {
		row("", s.Rules.Warning)
	}
	row("Peers", fmt.Sprintf("%d programmed, %d left out", s.Peers, len(s.Skipped)))
	row("Store", heard)
	row("Kernel", fmt.Sprintf("%d rounds, %d writes, last round took %s", s.Rounds, s.Ops, s.LastTook))
	row("Drift", driftText(s))
	row("Version", s.Version)
	for _, entry := range s.Fights {
		row("Fight", fmt.Sprintf("%s: changed again and again by %s", entry, cmp.Or(s.Fighters[entry], "somebody")))
	}
	for _, entry := range slices.Sorted(maps.Keys(s.Conflicts)) {
		row("Conflict", entry+": "+s.Conflicts[entry])
	}
	if s.Store.Refused != "" {
		row("Refused", "the store's configuration: "+s.Store.Refused)
	}
	for _, x := range s.Skipped {
		row("Left out", x.String())
	}
	for _, x := range s.Store.Malformed {
		row("Malformed", x.String())
	}
	return w.Flush()
}

// driftText is "3 repaired: link 1, route 2".
func driftText(s network.Status) string {
	if s.Repaired == 0 {
		return "nothing had to be repaired"
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(s.RepairedKinds)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, s.RepairedKinds[kind]))
	}
	return fmt.Sprintf("%d repaired: %s", s.Repaired, strings.Join(kinds, ", "))
}

func printPlan(out io.Writer, p network.PlanReply) {
	for _, op := range p.Ops {
		_, _ = fmt.Fprintln(out, op)
	}
	for _, c := range p.Conflicts {
		_, _ = fmt.Fprintln(out, "!", c)
	}
	if len(p.Ops)+len(p.Conflicts) == 0 {
		_, _ = fmt.Fprintln(out, "nothing to do: the kernel is as wanted")
	}
}
