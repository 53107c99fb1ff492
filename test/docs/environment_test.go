package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVariablesThatAreReadAreOnThePage: those that stand for flags are in the
// generated table.
func TestVariablesThatAreReadAreOnThePage(t *testing.T) {
	page := read(t, "Documentation/reference.md")
	reads := regexp.MustCompile(`\b(?:Getenv|LookupEnv)\("([A-Z_]+)"\)`)
	found := 0
	for _, dir := range []string{"cmd", "network", "backend", "subnet", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range reads.FindAllStringSubmatch(string(text), -1) {
				found++
				if !strings.Contains(page, "`"+m[1]+"`") {
					t.Errorf("%s reads %s, which Documentation/reference.md does not name", path, m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 4 {
		t.Errorf("only %d variables found", found)
	}
}
