package logging

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
)

// say logs one line of each level, from this file, and gives the levels that
// were written.
func say(t *testing.T, o Options) string {
	t.Helper()
	var out bytes.Buffer
	log, err := New(&out, o)
	if err != nil {
		t.Fatal(err)
	}
	log.WithField("x", 1).Error("x")
	log.Warn("x")
	log.Info("x")
	log.WithError(fmt.Errorf("y")).Debug("x")
	var levels []string
	for _, m := range regexp.MustCompile(`level=(\w+)`).FindAllStringSubmatch(out.String(), -1) {
		levels = append(levels, m[1])
	}
	return strings.Join(levels, " ")
}

func TestVerbosity(t *testing.T) {
	const errorsOnly, usual, all = "error", "error warning info", "error warning info debug"
	for name, c := range map[string]struct {
		level     string
		verbosity int
		modules   string
		want      string
	}{
		"nothing said":                     {"info", 0, "", usual},
		"a little more is not debug":       {"info", 3, "", usual},
		"debug from 4 on":                  {"info", 4, "", all},
		"it goes before the level":         {"error", 10, "", all},
		"a little more takes nothing away": {"debug", 1, "", all},
		"and adds nothing":                 {"error", 3, "", errorsOnly},
		"this file by its name":            {"info", 0, "klog_test=4", all},
		"this file by a pattern":           {"info", 0, "kl[o]g*=9", all},
		"another file":                     {"info", 0, "node=9", usual},
		"only the whole name matches":      {"info", 0, "klog=9", usual},
		"this file, not enough":            {"info", 0, "klog_test=3", usual},
		"the first that matches counts":    {"info", 0, "klog_*=2,klog_test=9", usual},
		"the second, as the first doesn't": {"info", 0, "node=2,klog_test=9", all},
		"a file takes nothing away":        {"info", 5, "klog_test=0", all},
		"a file goes before the level":     {"error", 0, "klog_test=4", all},
		"another file leaves the level":    {"error", 0, "node=4", errorsOnly},
	} {
		t.Run(name, func(t *testing.T) {
			modules, err := ParseModules(c.modules)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, say(t, Options{Level: c.level, Verbosity: c.verbosity, Modules: modules})); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}

func TestBadModules(t *testing.T) {
	for text, want := range map[string]string{
		"node":        `"node" is not of the form PATTERN=N, as in node=4`,
		"node=":       `"node=" is not of the form PATTERN=N, as in node=4`,
		"a=1,node=x":  `"node=x" is not of the form PATTERN=N, as in node=4`,
		"=4":          `"=4" is not of the form PATTERN=N, as in node=4`,
		"node=-1":     `"node=-1" is not of the form PATTERN=N, as in node=4`,
		"node=4=5":    `"node=4=5" is not of the form PATTERN=N, as in node=4`,
		"network/*=4": `"network/*" is not a pattern for the name of a source file`,
		"[a=4":        `"[a" is not a pattern for the name of a source file`,
	} {
		_, err := ParseModules(text)
		if err == nil || err.Error() != want {
			t.Errorf("%s: want %s, have %v", text, want, err)
		}
	}
}

func TestBadPlaces(t *testing.T) {
	for _, text := range []string{
		"node", "node.go", "node.go:", "node.go:x", "node.go:0", "node:12", "a/node.go:12", "x.go:1:2",
	} {
		if p, err := ParsePlace(text); err == nil || p != (Place{}) {
			t.Errorf("%s: have %v, %v", text, p, err)
		}
	}
	if p, err := ParsePlace(""); err != nil || p != (Place{}) {
		t.Errorf("nothing: have %v, %v", p, err)
	}
}

// hit logs a line, and gives its number.
func hit(log logrus.FieldLogger) int {
	_, _, before, _ := runtime.Caller(0)
	log.WithField("a", "b").Info("hit")
	return before + 1
}

func TestStackAtOnePlace(t *testing.T) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	line := hit(quiet)
	for name, c := range map[string]struct {
		file  string
		line  int
		stack bool
	}{
		"this line":                {"klog_test.go", line, true},
		"the line after":           {"klog_test.go", line + 1, false},
		"the line in another file": {"node.go", line, false},
	} {
		t.Run(name, func(t *testing.T) {
			place, err := ParsePlace(fmt.Sprintf("%s:%d", c.file, c.line))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			log, err := New(&out, Options{Level: "info", TraceAt: place})
			if err != nil {
				t.Fatal(err)
			}
			hit(log)
			log.Debug("not written")
			text := out.String()
			if strings.Contains(text, "stack=") != c.stack || strings.Contains(text, "TestStackAtOnePlace") != c.stack {
				t.Errorf("want a stack: %v, have:\n%s", c.stack, text)
			}
			if !strings.Contains(text, fmt.Sprintf(`file="klog_test.go:%d"`, line)) || strings.Contains(text, "not written") {
				t.Errorf("want one line, with its place:\n%s", text)
			}
		})
	}
}
