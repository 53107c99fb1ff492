package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSizes(t *testing.T) {
	const src = "package p\n\nfunc one() {}\n\nfunc (T) two() {\n\tone()\n\t_ = 2\n}\n\nfunc declared()\n"
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	files := []*ast.File{f}
	if d := cmp.Diff([]Func{{"one", 1}, {"two", 2}}, Funcs(fset, files)); d != "" {
		t.Errorf("functions (-want +have):\n%s", d)
	}
	if have := Lines(fset, files); have != 10 {
		t.Errorf("lines: want 10, have %d", have)
	}
}

func TestSummarize(t *testing.T) {
	for name, c := range map[string]struct {
		numbers []int
		want    Summary
	}{
		"nothing":           {nil, Summary{}},
		"one":               {[]int{7}, Summary{N: 1, P90: 7, Max: 7, Mean: 7}},
		"ten, in any order": {[]int{10, 1, 2, 3, 4, 5, 6, 7, 8, 9}, Summary{N: 10, P90: 9, Max: 10, Mean: 5.5}},
		"eleven":            {[]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, Summary{N: 11, P90: 10, Max: 11, Mean: 6}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, Summarize(c.numbers)); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}
