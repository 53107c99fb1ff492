package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is one setting of a configuration file.
type entry struct {
	name   string
	values []string // one, unless the flag may be repeated
	line   int
}

// fromFile sets the flags that are not given from the file of --config. What
// is wrong in it is told even where a flag goes before it.
func (s *settings) fromFile(fs *flag.FlagSet, given map[string]bool) error {
	if s.config == "" {
		return nil
	}
	raw, err := os.ReadFile(s.config)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	entries, err := decode(raw)
	if err != nil {
		return inFile(s.config, err)
	}
	var errs []error
	var scratch settings
	try := scratch.flagSet()
	for _, e := range entries {
		if err := e.set(try); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %s: %w", s.config, e.line, e.name, err))
			continue
		}
		if !given[e.name] {
			errs = append(errs, e.set(fs))
		}
	}
	return errors.Join(errs...)
}

func (e entry) set(fs *flag.FlagSet) error {
	f := fs.Lookup(e.name)
	if kindOf(f) != several {
		return set(f, e.values[0])
	}
	if _, ok := f.Value.(*urls); ok {
		return set(f, strings.Join(e.values, ","))
	}
	for _, v := range e.values {
		if err := set(f, v); err != nil {
			return err
		}
	}
	return nil
}

// lineError is what is wrong at a line of a file.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// inFile puts the file's name in front of each error, the way compilers do.
func inFile(path string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		var at *lineError
		if errors.As(e, &at) {
			e = fmt.Errorf("%s:%d: %w", path, at.line, at.err)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// decode reads a configuration file: a mapping of names of flags to values of
// their types, no name twice.
func decode(raw []byte) ([]entry, error) {
	var doc yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(raw))
	if err := reader.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) { // nothing, or comments only
			return nil, nil
		}
		return nil, err
	}
	if err := reader.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one document, or something that is not YAML after the first")
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
			return nil, nil
		}
		return nil, errors.Join(&lineError{root.Line, errors.New("want lines of the form NAME: VALUE")})
	}
	var scratch settings
	fs := scratch.flagSet()
	var entries []entry
	var errs []error
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := key.Value
		if at, ok := seen[name]; ok {
			errs = append(errs, &lineError{key.Line, fmt.Errorf("%s: is given twice, first in line %d", name, at)})
			continue
		}
		seen[name] = key.Line
		values, err := valuesOf(fs, key, value)
		if err != nil {
			errs = append(errs, &lineError{key.Line, fmt.Errorf("%s: %w", name, err)})
			continue
		}
		entries = append(entries, entry{name, values, key.Line})
	}
	return entries, errors.Join(errs...)
}

// valuesOf gives the values of one setting as a command line would have them.
// What is wrong is told without the value, which may be a secret.
func valuesOf(fs *flag.FlagSet, key, value *yaml.Node) ([]string, error) {
	f := fs.Lookup(key.Value)
	switch {
	case key.Kind != yaml.ScalarNode || f == nil:
		return nil, errors.New("no such setting; weftd --help lists them, here they are without the dashes")
	case f.Name == "config" || f.Name == "version":
		return nil, errors.New("belongs on the command line")
	}
	want := kindOf(f)
	if want == several && value.Kind == yaml.SequenceNode {
		var out []string
		for _, v := range value.Content {
			if err := scalar(v, text); err != nil {
				return nil, err
			}
			out = append(out, v.Value)
		}
		if len(out) == 0 {
			return nil, errors.New("the list is empty: leave the line out")
		}
		return out, nil
	}
	if want == several {
		want = text
	}
	return []string{value.Value}, scalar(value, want)
}

// scalar checks a value's type. A number will do as a text, as it was written.
func scalar(n *yaml.Node, want kind) error {
	words := map[kind]string{text: "a text", truth: "true or false", number: "a whole number"}
	have := map[string]string{
		"!!str": "a text", "!!bool": "true or false", "!!int": "a whole number", "!!float": "a number",
		"!!null": "nothing", "!!timestamp": "a date", "!!map": "a mapping", "!!seq": "a list",
	}[n.ShortTag()]
	ok := map[kind][]string{
		text: {"!!str", "!!int", "!!float", "!!timestamp"}, truth: {"!!bool"}, number: {"!!int"},
	}[want]
	switch {
	case n.Kind != yaml.ScalarNode && n.Kind != yaml.MappingNode && n.Kind != yaml.SequenceNode:
		return errors.New("anchors are not understood here")
	case n.Kind == yaml.ScalarNode && slices.Contains(ok, n.ShortTag()):
		return nil
	case have == "":
		have = "something with a tag of its own"
	}
	return fmt.Errorf("want %s, have %s", words[want], have)
}
