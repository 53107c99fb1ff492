package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	for _, e := range os.Environ() { // defaults are taken from there
		if strings.HasPrefix(e, "WEFTD_") || strings.HasPrefix(e, "FLANNELD_") {
			name, _, _ := strings.Cut(e, "=")
			t.Setenv(name, "")
		}
	}
	root := newRootCommand()
	var out strings.Builder
	out.WriteString("\nEach command has these:\n\n" + flagTable(root.PersistentFlags()))
	for _, c := range runnable(root) {
		use := strings.TrimSuffix(c.UseLine(), " [flags]")
		out.WriteString("\n### " + strings.TrimPrefix(c.CommandPath(), "weftctl ") + "\n\n" + reference.Code(use))
		for _, alias := range c.Aliases {
			out.WriteString(", or " + reference.Code(alias))
		}
		out.WriteString(": " + strings.ToLower(c.Short[:1]) + c.Short[1:] + ".\n")
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		flags.AddFlagSet(c.NonInheritedFlags())
		c.InheritedFlags().VisitAll(func(f *pflag.Flag) { // but for those of all commands
			if root.PersistentFlags().Lookup(f.Name) == nil {
				flags.AddFlag(f)
			}
		})
		if flags.HasFlags() {
			out.WriteString("\n" + flagTable(flags))
		}
	}
	reference.Block(t, "reference.md", "commands of weftctl", out.String())
}

// runnable are the commands below one, those of cobra's own left out.
func runnable(parent *cobra.Command) (out []*cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Runnable() && c.Name() != "help" {
			out = append(out, c)
		}
		out = append(out, runnable(c)...)
	}
	return out
}

func flagTable(flags *pflag.FlagSet) string {
	var rows [][]string
	flags.VisitAll(func(f *pflag.Flag) {
		value, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		def := f.DefValue
		if def == "[]" {
			def = ""
		}
		rows = append(rows, []string{reference.Code(strings.TrimSpace(name + " " + value)), reference.Code(def), text})
	})
	return reference.Table([]string{"flag", "default", "meaning"}, rows)
}
