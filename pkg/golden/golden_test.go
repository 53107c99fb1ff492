package golden_test

import (
	"os"
	"testing"

	"github.com/weftnet/weft/pkg/golden"
)

// quiet is a test that may fail.
type quiet struct {
	testing.TB
	failed bool
}

func (*quiet) Helper()                 {}
func (q *quiet) Errorf(string, ...any) { q.failed = true }
func (q *quiet) Fatalf(string, ...any) { q.failed = true; panic(q) }

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("testdata", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/one-and-two.golden", []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails := func(name, have string) bool {
		q := &quiet{TB: t}
		func() {
			defer func() { _ = recover() }() // of Fatalf
			golden.Check(q, name, have)
		}()
		return q.failed
	}
	if fails("one, and two", "text\n") {
		t.Error("the same text fails")
	}
	if !fails("one, and two", "other\n") || !fails("three", "text\n") {
		t.Error("another text, or none, does not fail")
	}
}
