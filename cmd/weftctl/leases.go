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
	"github.com/weftnet/weft/subnet/kube"
)

func newLeasesCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leases",
		Short: "List all leases in the store, how long they live, and what is wrong with them",
		Long: "Lists all leases in etcd, a line for each subnet. RENEWED is how long ago its node was heard of by\n" +
			"etcd, EXPIRES when the subnet is free again unless it is renewed; a reservation has neither.\n" +
			"With --kube-subnet-mgr the leases are those of the Nodes of Kubernetes: AGE is that of the Node,\n" +
			"and they don't expire. Leases that clash with older ones or don't fit the configuration, and\n" +
			"keys or Nodes that can't be read, follow with the reason. weftd need not run for it.",
		Args: cobra.NoArgs,
	}
	var (
		store storeFlags
		nodes kubeFlags
	)
	store.register(cmd.Flags())
	nodes.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if nodes.use {
			return nodes.with(cmd.Context(), store.timeout, func(ctx context.Context, r *kube.Reader) error {
				return listNodes(ctx, cmd, g, r)
			})
		}
		return store.with(cmd.Context(), func(ctx context.Context, s *etcd.Store) error {
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
				return printLeases(out, rows, snapshot.Malformed, false, time.Now())
			})
		})
	}
	return cmd
}

// listNodes prints the leases of Kubernetes.
func listNodes(ctx context.Context, cmd *cobra.Command, g *globals, r *kube.Reader) error {
	snapshot, members, err := r.Leases(ctx)
	if err != nil {
		return err
	}
	if len(snapshot.Config.Networks) == 0 {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "warning: there is no network configuration to judge the leases by; "+
			"name its file by --net-config-path, or run this in weft's pod")
	}
	rows := leaseRows(snapshot, nil)
	for i := range rows {
		rows[i].Born = members[rows[i].Node].Born
	}
	return g.print(cmd.OutOrStdout(), rows, func(out io.Writer) error {
		return printLeases(out, rows, snapshot.Malformed, true, time.Now())
	})
}

// leaseRow is one line of `weftctl leases`; with -o json it is one element.
type leaseRow struct {
	ID       string          `json:"id"`
	Node     string          `json:"node,omitempty"` // in Kubernetes
	Subnet   string          `json:"subnet"`
	Public   string          `json:"public"`
	Backend  string          `json:"backend"`
	Data     json.RawMessage `json:"data,omitempty"`
	Created  int64           `json:"created"`  // orders leases by age; in etcd a revision
	Revision int64           `json:"revision"` // of the last change
	Renewed  time.Time       `json:"renewed,omitzero"`
	Expires  time.Time       `json:"expires,omitzero"` // absent: never
	Born     time.Time       `json:"born,omitzero"`    // the Node, in Kubernetes
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
				ID: l.ID, Node: l.Node, Subnet: share.Subnet.String(), Public: share.Public.String(),
				Backend: l.Backend, Data: share.Data,
				Created: l.Created, Revision: l.Revision, Renewed: life.Renewed, Expires: life.Expires, Conflict: wrong[l.ID],
			})
		}
	}
	return rows
}

// printLeases prints a table with a line for each row; of what only one of the
// stores knows it has no column for the other.
func printLeases(out io.Writer, rows []leaseRow, malformed []subnet.Skipped, nodes bool, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	between := "RENEWED"
	if nodes {
		between = "NODE\tAGE"
	}
	_, _ = fmt.Fprintf(w, "SUBNET\tPUBLIC ADDRESS\tBACKEND\t%s\tEXPIRES\tDATA\n", between)
	for _, r := range rows {
		expires, between := "never", age(now, r.Renewed)
		if !r.Expires.IsZero() {
			expires = "in " + span(r.Expires.Sub(now))
		}
		if nodes {
			between = r.Node + "\t" + age(now, r.Born)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Subnet, r.Public, cmp.Or(r.Backend, "-"), between, expires, cmp.Or(string(r.Data), "-"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printFaults(out, rows, malformed)
	return nil
}

// printFaults tells which leases no node takes for a peer, and what is none.
func printFaults(out io.Writer, rows []leaseRow, malformed []subnet.Skipped) {
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
}
