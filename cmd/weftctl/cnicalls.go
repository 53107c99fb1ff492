package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/calls"
)

// callsRow is what the CNI plugin did under one verb.
type callsRow struct {
	Verb   string `json:"verb"`
	Done   uint64 `json:"done"`
	Failed uint64 `json:"failed"`
	Mean   string `json:"mean"`
	P50    string `json:"p50"` // at most
	P99    string `json:"p99"`
}

func newCNICallsCommand(g *globals) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "Tell how often the CNI plugin was called, and how long it took",
		Long: "calls counts what container runtimes asked of the CNI plugin since its counters were made,\n" +
			"and how long it took from its start to its answer. Why a call failed, their logs say.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			of, err := calls.Read(dir)
			if err != nil {
				return err
			}
			var rows []callsRow
			for _, verb := range calls.Verbs() {
				rows = append(rows, callsRowOf(verb, of[verb]))
			}
			return g.print(cmd.OutOrStdout(), rows, func(out io.Writer) error { return printCalls(out, rows) })
		},
	}
	attachmentsFlag(cmd, &dir)
	return cmd
}

// attachmentsFlag is where the plugin keeps its state.
func attachmentsFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "attachments-dir", setting("ATTACHMENTS_DIR", attachment.DefaultDir),
		"`directory` of the CNI plugin's records (stateDir)")
}

func callsRowOf(verb string, c calls.Calls) callsRow {
	r := callsRow{Verb: verb, Done: c.Done, Failed: c.Failed, Mean: "-", P50: "-", P99: "-"}
	if all := c.Done + c.Failed; all > 0 {
		r.Mean = (c.Sum / time.Duration(all)).Round(10 * time.Microsecond).String()
		r.P50, r.P99 = atMost(c, all, 50), atMost(c, all, 99)
	}
	return r
}

// atMost is the bound that so many percent of the calls kept.
func atMost(c calls.Calls, all, percent uint64) string {
	var sum uint64
	for i, bound := range calls.Bounds() {
		if sum += c.Took[i]; sum*100 >= all*percent {
			return "≤" + bound.String()
		}
	}
	return "longer"
}

func printCalls(out io.Writer, rows []callsRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "VERB\tDONE\tFAILED\tMEAN\tP50\tP99")
	for _, r := range rows {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", r.Verb, r.Done, r.Failed, r.Mean, r.P50, r.P99)
	}
	return w.Flush()
}
