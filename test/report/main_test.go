package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		in, want string
		ok       bool
	}{
		"all is well": {
			in: `{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestX"}
{"Action":"output","Package":"m/a","Test":"TestX","Output":"--- PASS\n"}
{"Action":"pass","Package":"m/a","Test":"TestX","Elapsed":0.1}
{"Action":"pass","Package":"m/a","Elapsed":0.25}
{"Action":"skip","Package":"m/nofiles"}
`,
			want: "ok    m/a  0.2s\ntests: 1 passed, 0 failed, 0 skipped\n",
			ok:   true,
		},
		"a failed test shows its output, the others keep theirs": {
			in: `{"Action":"output","Package":"m/a","Test":"TestX","Output":"noise\n"}
{"Action":"pass","Package":"m/a","Test":"TestX"}
{"Action":"output","Package":"m/a","Test":"TestY","Output":"want 1, have 2\n"}
{"Action":"fail","Package":"m/a","Test":"TestY"}
{"Action":"fail","Package":"m/a","Elapsed":1}
`,
			want: "--- FAIL  m/a TestY\nwant 1, have 2\nFAIL  m/a  1.0s\nfailed: m/a TestY\n" +
				"tests: 1 passed, 1 failed, 0 skipped\n",
		},
		"a package that panics outside of a test is a failure": {
			in: `{"Action":"output","Package":"m/a","Output":"panic: boom\n"}
{"Action":"fail","Package":"m/a","Elapsed":0}
`,
			want: "FAIL  m/a  0.0s\n--- FAIL  m/a  (outside of any test)\npanic: boom\n" +
				"failed: m/a  (outside of any test)\ntests: 0 passed, 1 failed, 0 skipped\n",
		},
		"a package that does not build is a failure": {
			in: `{"Action":"build-output","ImportPath":"m/a","Output":"a.go:1: bad\n"}
{"Action":"build-fail","ImportPath":"m/a"}
`,
			want: "--- FAIL  m/a  (does not build)\na.go:1: bad\n" +
				"failed: m/a  (does not build)\ntests: 0 passed, 1 failed, 0 skipped\n",
		},
		"skips are told with their reason": {
			in: `{"Action":"output","Package":"m/a","Test":"TestX","Output":"    x_test.go:9: no user namespaces here\n"}
{"Action":"skip","Package":"m/a","Test":"TestX"}
{"Action":"output","Package":"m/a","Test":"TestY","Output":"=== RUN TestY\n"}
{"Action":"output","Package":"m/a","Test":"TestY","Output":"    helper.go:9: no user namespaces here\n"}
{"Action":"skip","Package":"m/a","Test":"TestY"}
{"Action":"skip","Package":"m/a","Test":"TestZ"}
{"Action":"pass","Package":"m/a","Test":"TestW"}
`,
			want: "skipped 1: no reason given (m/a TestZ)\nskipped 2: no user namespaces here (m/a TestX, …)\n" +
				"tests: 1 passed, 0 failed, 3 skipped\n",
			ok: true,
		},
		"no test at all is not a success": {
			in:   "go: cannot find main module\n",
			want: "go: cannot find main module\nno test ran\ntests: 0 passed, 0 failed, 0 skipped\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if ok := run(strings.NewReader(c.in), &out); ok != c.ok {
				t.Errorf("all is well: want %v, have %v", c.ok, ok)
			}
			have := regexp.MustCompile(`(?m)^took .*\n`).ReplaceAllString(out.String(), "")
			if d := cmp.Diff(c.want, have); d != "" {
				t.Errorf("output (-want +have):\n%s", d)
			}
		})
	}
}
