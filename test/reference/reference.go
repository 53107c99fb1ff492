// Package reference keeps what pages say of flags, keys and metrics equal to the
// code's own tables. A page holds blocks between two marks,
//
//	<!-- generated: NAME -->
//	<!-- end of NAME -->
//
// and a test of the package that has the table gives what belongs there.
// `make reference` writes them, every other run of the test compares.
package reference

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Writes is the environment variable that has blocks written, if it is "1".
const Writes = "WEFT_WRITE_REFERENCE"

// Block holds the block of a page, named by its path in Documentation, to text.
func Block(t *testing.T, page, name, text string) {
	t.Helper()
	path := filepath.Join(documentation(t), page)
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, ok := replaced(have, name, text)
	switch {
	case !ok:
		t.Fatalf("%s has no block %q: put <!-- generated: %s --> and <!-- end of %s --> where it belongs",
			page, name, name, name)
	case bytes.Equal(have, want):
	case os.Getenv(Writes) == "1":
		if err := os.WriteFile(path, want, 0o644); err != nil { //nolint:gosec // a page
			t.Fatal(err)
		}
	default:
		t.Errorf("%s (-page +code), `make reference` mends it:\n%s", page, cmp.Diff(string(have), string(want)))
	}
}

// replaced gives the page with another block, and whether it has one of this name.
func replaced(page []byte, name, text string) ([]byte, bool) {
	head, rest, begins := bytes.Cut(page, []byte("<!-- generated: "+name+" -->\n"))
	_, tail, ends := bytes.Cut(rest, []byte("<!-- end of "+name+" -->\n"))
	if !begins || !ends {
		return nil, false
	}
	var out bytes.Buffer
	out.Write(head)
	out.WriteString("<!-- generated: " + name + " -->\n" + strings.TrimRight(text, "\n") +
		"\n<!-- end of " + name + " -->\n")
	out.Write(tail)
	return out.Bytes(), true
}

// Table is a table in Markdown, of cells without line breaks.
func Table(heads []string, rows [][]string) string {
	var out strings.Builder
	line := func(cells []string) {
		for _, c := range cells {
			out.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
		}
		out.WriteString("|\n")
	}
	line(heads)
	out.WriteString(strings.Repeat("|---", len(heads)) + "|\n")
	for _, r := range rows {
		line(r)
	}
	return strings.ReplaceAll(out.String(), "|  |", "| |")
}

// Code is text as code, and nothing if there is none.
func Code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// documentation is the folder of the pages, of the module that the test runs in.
func documentation(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "Documentation")
		}
		if dir == "/" {
			t.Fatal("no go.mod above this test")
		}
		dir = filepath.Dir(dir)
	}
}
