package main

import (
	"errors"
	"flag"
	"slices"
	"testing"

	"github.com/weftnet/weft/test/reference"
)

// TestCommandsOnPagesAreUnderstood parses them; what only names a flag need not
// be a whole command.
func TestCommandsOnPagesAreUnderstood(t *testing.T) {
	seen := 0
	for _, c := range reference.Commands(t) {
		if c.Words[0] != "weftd" {
			continue
		}
		seen++
		args := slices.DeleteFunc(c.Words[1:], func(w string) bool { return w == reference.Placeholder })
		var err error
		if c.Block {
			_, _, err = parse(args, nil)
		} else {
			err = new(settings).flagSet().Parse(args)
		}
		if err != nil && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s:%d: %s: %v", c.Page, c.Line, c.Text, err)
		}
	}
	if seen < 5 {
		t.Errorf("only %d commands found", seen)
	}
}
