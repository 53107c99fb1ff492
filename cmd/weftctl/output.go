package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// formats are the values of --output.
func formats() []string { return []string{"table", "json", "yaml"} }

func checkFormat(f string) error {
	if slices.Contains(formats(), f) {
		return nil
	}
	return fmt.Errorf("--output %q: use table, json or yaml", f)
}

func completeFormats(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return formats(), cobra.ShellCompDirectiveNoFileComp
}

// print writes a value in the format that was asked for, or as a table.
func (g *globals) print(out io.Writer, v any, table func(io.Writer) error) error {
	switch g.output {
	case "json":
		return printJSON(out, v)
	case "yaml":
		return printYAML(out, v)
	}
	return table(out)
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printYAML has the names and the order of the JSON, which is YAML in one line.
func printYAML(out io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	inBlocks(&doc)
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	return enc.Close()
}

func inBlocks(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		inBlocks(child)
	}
}

// age is a time in the past as a person reads it: 3s, 12m, 5h10m, 12d.
func age(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return span(now.Sub(at))
}

// span cuts a duration to what matters.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
