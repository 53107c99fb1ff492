package arch

import (
	"go/ast"
	"go/token"
	"slices"
)

// Func is one function and the lines of its body, counted as the linter's
// budget counts them: between the braces.
type Func struct {
	Name  string
	Lines int
}

// Funcs gives the functions of files.
func Funcs(fset *token.FileSet, files []*ast.File) []Func {
	var out []Func
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				lines := fset.Position(fn.Body.Rbrace).Line - fset.Position(fn.Body.Lbrace).Line - 1
				out = append(out, Func{Name: fn.Name.Name, Lines: max(lines, 1)})
			}
		}
	}
	return out
}

// Lines counts the lines of files.
func Lines(fset *token.FileSet, files []*ast.File) int {
	n := 0
	for _, f := range files {
		n += fset.File(f.FileStart).LineCount()
	}
	return n
}

// Summary is what a row of numbers comes to.
type Summary struct {
	N, P90, Max int
	Mean        float64
}

// Summarize sums up numbers; P90 is the smallest that at least nine tenths of
// them don't exceed.
func Summarize(numbers []int) Summary {
	if len(numbers) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(numbers))
	sum := 0
	for _, n := range sorted {
		sum += n
	}
	return Summary{
		N:    len(sorted),
		P90:  sorted[(9*len(sorted)+9)/10-1],
		Max:  sorted[len(sorted)-1],
		Mean: float64(sum) / float64(len(sorted)),
	}
}
