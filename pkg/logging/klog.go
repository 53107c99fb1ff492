package logging

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
)

// debugVerbosity is the verbosity of klog that debug stands for. klog has many
// levels, and flannel's are spread from 1 to 6; weft has one below info.
const debugVerbosity = 4

// Modules is klog's -vmodule: how much is logged by single source files.
type Modules []module

type module struct {
	pattern   string // of a file's name, without its .go
	verbosity int
}

// ParseModules reads "PATTERN=N,…". A pattern is the name of a source file of
// weft without its directory and its .go, or has * and ? and [] in it as the
// shell has. Of several that match a file the first counts.
func ParseModules(text string) (Modules, error) {
	var out Modules
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		pattern, number, ok := strings.Cut(part, "=")
		verbosity, err := strconv.Atoi(number)
		if !ok || err != nil || pattern == "" || verbosity < 0 {
			return nil, fmt.Errorf("%q is not of the form PATTERN=N, as in node=4", part)
		}
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			return nil, fmt.Errorf("%q is not a pattern for the name of a source file", pattern)
		}
		out = append(out, module{pattern, verbosity})
	}
	return out, nil
}

// debug tells whether a file's debug lines are wanted.
func (m Modules) debug(file string) bool {
	name := strings.TrimSuffix(path.Base(file), ".go")
	for _, one := range m {
		if ok, _ := path.Match(one.pattern, name); ok { // the pattern is known to be good
			return one.verbosity >= debugVerbosity
		}
	}
	return false
}

// Place is a line of source, klog's -log_backtrace_at. The zero Place is none.
type Place struct {
	file string
	line int
}

// ParsePlace reads "FILE.go:LINE"; "" is none.
func ParsePlace(text string) (Place, error) {
	if text == "" {
		return Place{}, nil
	}
	file, number, ok := strings.Cut(text, ":")
	line, err := strconv.Atoi(number)
	if !ok || err != nil || line < 1 || !strings.HasSuffix(file, ".go") || strings.Contains(file, "/") {
		return Place{}, errors.New("not of the form FILE.go:LINE, as in node.go:123")
	}
	return Place{file, line}, nil
}

// Levels implements logrus.Hook.
func (Place) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook: what is logged at the place gets the stack.
func (p Place) Fire(e *logrus.Entry) error {
	if e.Caller != nil && e.Caller.Line == p.line && path.Base(e.Caller.File) == p.file {
		e.Data["stack"] = string(debug.Stack())
	}
	return nil
}

// picky leaves out the debug lines of files that nobody asked for.
type picky struct {
	logrus.Formatter
	level   logrus.Level // of all files
	modules Modules
}

// Format implements logrus.Formatter.
func (p picky) Format(e *logrus.Entry) ([]byte, error) {
	if e.Level > p.level && (e.Caller == nil || !p.modules.debug(e.Caller.File)) {
		return nil, nil
	}
	return p.Formatter.Format(e)
}

// short tells a source line as klog does, by the file's name: what -vmodule and
// -log_backtrace_at take.
func short(f *runtime.Frame) (function, file string) {
	return "", fmt.Sprintf("%s:%d", path.Base(f.File), f.Line)
}
