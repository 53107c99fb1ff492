package main

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	var s settings
	fs := s.flagSet()
	var out strings.Builder
	for _, g := range groups() {
		rows := make([][]string, len(g.flags))
		for i, name := range g.flags {
			f := fs.Lookup(name)
			value, text := flag.UnquoteUsage(f)
			rows[i] = []string{
				reference.Code(strings.TrimSpace("--" + name + " " + value)), reference.Code(envNames(name)[0]),
				reference.Code(f.DefValue), text,
			}
		}
		out.WriteString("\n### " + g.title + "\n\n" +
			reference.Table([]string{"flag", "environment", "default", "meaning"}, rows))
	}
	reference.Block(t, "reference.md", "flags of weftd", out.String())

	variables := s.nodeVariables()
	rows := make([][]string, len(variables))
	for i, v := range variables {
		rows[i] = []string{reference.Code(v.name), v.meaning}
	}
	reference.Block(t, "reference.md", "environment of weftd in Kubernetes",
		reference.Table([]string{"variable", "meaning"}, rows))
}

// TestDefaultsOnThePage: configuration.md, which is written by hand, has no other
// defaults.
func TestDefaultsOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../Documentation/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	fs := new(settings).flagSet()
	seen := 0
	rows := regexp.MustCompile("(?m)^\\| `--([a-z0-9_-]+)` \\| (?:`([^`]*)`)? ?\\|")
	for _, row := range rows.FindAllStringSubmatch(string(page), -1) {
		seen++
		want := fs.Lookup(row[1]).DefValue
		if row[2] == "" && (want == "false" || want == "0") {
			continue
		}
		if row[2] != want {
			t.Errorf("--%s: %q on the page, %q in the program", row[1], row[2], want)
		}
	}
	if seen < 30 {
		t.Errorf("only %d rows found", seen)
	}
}
