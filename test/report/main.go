// Command report reads `go test -json` and prints what a person wants to see
// of it: a line per package as it ends, the output of what failed, why tests
// were skipped, and the sum as the last line. It exits 1 if anything failed or
// if no test ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if !run(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is one line of `go test -json` (go doc test2json, go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that does not build
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type report struct {
	out     io.Writer
	output  map[string][]string // by package and test
	passed  int
	failed  []string
	skipped map[string][]string // reason → tests
}

// run copies what matters from in to out and tells whether all is well.
func run(in io.Reader, out io.Writer) bool {
	r := report{out: out, output: map[string][]string{}, skipped: map[string][]string{}}
	began := time.Now()
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			r.line(line)
		}
		if err != nil {
			break
		}
	}
	return r.close(time.Since(began))
}

// line takes one line of input. What is no event (a message of the go command
// itself) is passed on as it is.
func (r *report) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Fprint(r.out, line)
		return
	}
	id := strings.TrimSpace(e.Package + e.ImportPath + " " + e.Test)
	switch e.Action {
	case "output", "build-output":
		r.output[id] = append(r.output[id], e.Output)
	case "build-fail":
		r.fail(id, "does not build")
	case "fail":
		r.ended(e, id)
	case "pass", "skip":
		r.ended(e, id)
		delete(r.output, id)
	}
}

func (r *report) ended(e event, id string) {
	switch {
	case e.Test == "" && e.Action == "pass":
		fmt.Fprintf(r.out, "ok    %s  %.1fs\n", e.Package, e.Elapsed)
	case e.Test == "" && e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
		if !slices.ContainsFunc(r.failed, func(f string) bool { return strings.HasPrefix(f, e.Package+" ") }) {
			r.fail(id, "outside of any test") // a panic, a timeout, TestMain
		}
	case e.Test == "": // no test files
	case e.Action == "pass":
		r.passed++
	case e.Action == "skip":
		reason := skipReason(r.output[id])
		r.skipped[reason] = append(r.skipped[reason], id)
	default:
		r.fail(id, "")
	}
}

func (r *report) fail(id, why string) {
	if why != "" {
		why = "  (" + why + ")"
	}
	r.failed = append(r.failed, id+why)
	fmt.Fprintf(r.out, "--- FAIL  %s%s\n%s", id, why, strings.Join(r.output[id], ""))
}

// close prints the summary and tells whether all is well.
func (r *report) close(took time.Duration) bool {
	skipped := 0
	for _, reason := range slices.Sorted(maps.Keys(r.skipped)) {
		tests := r.skipped[reason]
		skipped += len(tests)
		fmt.Fprintf(r.out, "skipped %d: %s (%s)\n", len(tests), reason, sample(tests))
	}
	for _, f := range r.failed {
		fmt.Fprintf(r.out, "failed: %s\n", f)
	}
	ran := r.passed+len(r.failed) > 0
	if !ran {
		fmt.Fprintln(r.out, "no test ran")
	}
	fmt.Fprintf(r.out, "took %s\n", took.Round(time.Second))
	fmt.Fprintf(r.out, "tests: %d passed, %d failed, %d skipped\n", r.passed, len(r.failed), skipped)
	return ran && len(r.failed) == 0
}

// skipReason is what the test said when it skipped: "    file_test.go:12: why".
// skipReason is the text of the line that testing.T marks with its place, which
// is in a test or in a helper of one.
func skipReason(output []string) string {
	for _, line := range output {
		place, text, ok := strings.Cut(strings.TrimLeft(line, " "), ": ")
		if ok && strings.Contains(place, ".go:") && !strings.ContainsAny(place, " /") {
			return strings.TrimSpace(text)
		}
	}
	return "no reason given"
}

func sample(tests []string) string {
	if len(tests) > 1 {
		return tests[0] + ", …"
	}
	return tests[0]
}
