package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
)

func newLeasesCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leases",
		Short: "List all leases in etcd, how long they live, and what is wrong with them",
		Long: "Lists all leases in etcd, a line for each subnet. RENEWED is how long ago its node was heard of by\n" +
			"etcd, EXPIRES when the subnet is free again unless it is renewed; a reservation has neither.\n" +
			"Leases that clash with older ones or don't fit the configuration, and keys that can't be read,\n" +
			"follow with the reason. In Kubernetes the leases are in the Nodes: kubectl get nodes -o yaml.",
		Args: cobra.NoArgs,
	}
	var flags storeFlags
	flags.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return flags.with(cmd.Context(), func(ctx context.Context, s *etcd.Store) error {
			snapshot, err := s.Leases(ctx)
			if err != nil {
				return err
			}
			lives, err := s.Lives(ctx)
			if err != nil {
				return err
			}
			rows := leaseRows(snapshot, lives)
			return g.print(cmd.OutOrStdout(), rows, func(out io.Writer) error {
				return printLeases(out, rows, snapshot.Malformed, time.Now())
			})
		})
	}
	return cmd
}

// leaseRow is one line of `weftctl leases`; with -o json it is one element.
type leaseRow struct {
	ID       string          `json:"id"`
	Subnet   string          `json:"subnet"`
	Public   string          `json:"public"`
	Backend  string          `json:"backend"`
	Data     json.RawMessage `json:"data,omitempty"`
	Created  int64           `json:"created"`  // etcd's revision
	Revision int64           `json:"revision"` // of the last change
	Renewed  time.Time       `json:"renewed,omitzero"`
	Expires  time.Time       `json:"expires,omitzero"` // absent: never
	// Conflict is why no node takes it for a peer, whoever looks.
	Conflict string `json:"conflict,omitempty"`
}

func leaseRows(s subnet.Snapshot, lives map[string]etcd.Life) []leaseRow {
	wrong := map[string]string{}
	if len(s.Config.Networks) > 0 {
		_, no := subnet.Admit(s.Config, subnet.Lease{}, s.Leases)
		for _, x := range no {
			wrong[x.ID] = x.Field + " " + x.Reason
		}
	}
	rows := []leaseRow{}
	for _, l := range s.Leases {
		life := lives[l.ID]
		for _, share := range l.Shares {
			rows = append(rows, leaseRow{
				ID: l.ID, Subnet: share.Subnet.String(), Public: share.Public.String(), Backend: l.Backend, Data: share.Data,
				Created: l.Created, Revision: l.Revision, Renewed: life.Renewed, Expires: life.Expires, Conflict: wrong[l.ID],
			})
		}
	}
	return rows
}

func printLeases(out io.Writer, rows []leaseRow, malformed []subnet.Skipped, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SUBNET\tPUBLIC ADDRESS\tBACKEND\tRENEWED\tEXPIRES\tDATA")
	for _, r := range rows {
		expires := "never"
		if !r.Expires.IsZero() {
			expires = "in " + span(r.Expires.Sub(now))
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Subnet, r.Public, cmp.Or(r.Backend, "-"), age(now, r.Renewed), expires, r.Data)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	last := ""
	for _, r := range rows {
		if r.Conflict != "" && r.ID != last {
			_, _ = fmt.Fprintf(out, "does not count: %s: %s\n", named(r.ID, r.Public), r.Conflict)
		}
		last = r.ID
	}
	for _, m := range malformed {
		_, _ = fmt.Fprintf(out, "can't be read: %s\n", m)
	}
	return nil
}
