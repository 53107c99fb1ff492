// Command stats prints the size of the house: function length, source and test
// lines, and a table (Markdown) of the packages and what each imports.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/weftnet/weft/test/arch"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "stats:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	pkgs, err := arch.Load(".")
	if err != nil {
		return err
	}
	var lengths []int
	var longest arch.Func
	var table strings.Builder
	source, tests := 0, 0
	for _, p := range pkgs {
		files, fset, err := arch.Parse(p.Files)
		if err != nil {
			return err
		}
		testFiles, testFset, err := arch.Parse(p.TestFiles)
		if err != nil {
			return err
		}
		s, t := arch.Lines(fset, files), arch.Lines(testFset, testFiles)
		source, tests = source+s, tests+t
		for _, f := range arch.Funcs(fset, files) {
			lengths = append(lengths, f.Lines)
			if f.Lines > longest.Lines {
				longest = arch.Func{Name: p.Path + "." + f.Name, Lines: f.Lines}
			}
		}
		ours, theirs := split(p.Imports)
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %s | %s |\n", p.Path, s, t, len(arch.Names(files)), ours, theirs)
	}
	sum := arch.Summarize(lengths)
	fmt.Fprintf(out, "functions: %d, lines each: mean %.1f, p90 %d, max %d (%s); tests not counted\n",
		sum.N, sum.Mean, sum.P90, sum.Max, longest.Name)
	fmt.Fprintf(out, "lines: %d source, %d test, ratio %.2f; packages: %d\n\n",
		source, tests, float64(tests)/float64(max(source, 1)), len(pkgs))
	fmt.Fprintln(out, "| package | source | test | exported | imports of ours | from outside |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|")
	fmt.Fprint(out, table.String())
	return nil
}

// split sorts imports into ours and what is not in the standard library.
func split(imports []string) (ours, theirs string) {
	var a, b []string
	for _, path := range imports {
		if local, ok := strings.CutPrefix(path, arch.Module+"/"); ok {
			a = append(a, local)
		} else if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
			b = append(b, path)
		}
	}
	slices.Sort(a)
	slices.Sort(b)
	return strings.Join(a, " "), strings.Join(b, " ")
}
