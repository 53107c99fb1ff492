// Package golden compares what tests get with files under testdata, and writes
// these anew with -update: read the difference before you keep it.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew") //nolint:gochecknoglobals // of tests

// Check compares with testdata/NAME.golden; blanks in the name are dashes there, and
// commas are left out.
func Check(t testing.TB, name, have string) {
	t.Helper()
	name = strings.NewReplacer(" ", "-", ",", "").Replace(name)
	File(t, filepath.Join("testdata", name+".golden"), have)
}

// File compares with a file.
func File(t testing.TB, path, have string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil { //nolint:gosec // of the repository
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), have); d != "" {
		t.Errorf("%s differs (-want +have), go test -update writes it anew:\n%s", path, d)
	}
}
