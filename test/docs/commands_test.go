package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/weftnet/weft/test/reference"
)

// TestBlocksOfCommandsAreRunOrExamples: a comment above each block says which.
// That a command is one at all is seen in cmd/weftctl and cmd/weftd.
func TestBlocksOfCommandsAreRunOrExamples(t *testing.T) {
	tests := index{t: t, packages: map[string]*suite{}}
	marked := 0
	for _, c := range reference.Commands(t) {
		if !c.Block {
			continue
		}
		pkg, test, ok := strings.Cut(strings.TrimPrefix(c.Mark, "run: "), ": ")
		switch {
		case c.Mark == "example":
		case c.Mark == "":
			t.Errorf("%s:%d: %s: put <!-- example --> above the block, or <!-- run: PACKAGE: TEST -->", c.Page, c.Line, c.Text)
		case !ok || !tests.has(pkg, test):
			t.Errorf("%s:%d: there is no test %q", c.Page, c.Line, c.Mark)
		default:
			marked++
		}
	}
	if marked < 5 {
		t.Errorf("only %d commands are run", marked)
	}
}

// TestTargetsOnPagesAreThere: those of make, and its variables.
func TestTargetsOnPagesAreThere(t *testing.T) {
	makefile := read(t, "Makefile")
	seen := 0
	for _, c := range reference.Commands(t) {
		if c.Words[0] != "make" {
			continue
		}
		seen++
		for _, w := range c.Words[1:] {
			pattern := `(?m)^` + regexp.QuoteMeta(w) + `:`
			if name, _, is := strings.Cut(w, "="); is {
				pattern = `\$\(` + regexp.QuoteMeta(name) + `\)`
			}
			if !regexp.MustCompile(pattern).MatchString(makefile) {
				t.Errorf("%s:%d: %s: the Makefile has no %s", c.Page, c.Line, c.Text, w)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d found", seen)
	}
}
