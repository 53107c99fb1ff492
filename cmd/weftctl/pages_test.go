package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/test/reference"
)

// TestCommandsOnPagesAreThere parses them, and runs none.
func TestCommandsOnPagesAreThere(t *testing.T) {
	seen := 0
	for _, c := range reference.Commands(t) {
		if c.Words[0] != "weftctl" {
			continue
		}
		seen++
		if err := understood(c.Words[1:], c.Block); err != nil {
			t.Errorf("%s:%d: %s: %v", c.Page, c.Line, c.Text, err)
		}
	}
	if seen < 40 {
		t.Errorf("only %d commands found", seen)
	}
}

// understood parses arguments as cobra does before it runs a command. Only a
// whole command has to have all arguments that it needs.
func understood(args []string, whole bool) error {
	if len(args) > 0 && args[0] == "COMMAND" {
		return nil
	}
	root := newRootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	rest = cmd.Flags().Args()
	switch {
	case !whole && len(rest) == 0:
		return nil
	case !cmd.Runnable() && len(rest) > 0:
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
	case !cmd.Runnable():
		return fmt.Errorf("%s wants a command", cmd.CommandPath())
	}
	return cmd.ValidateArgs(rest)
}

func TestUnderstood(t *testing.T) {
	for args, want := range map[string]string{
		"status -o json": "", "cni list": "", "trace a b": "", "diff": "", "status --help": "", "COMMAND --help": "",
		"completion bash": "",
		"statu":           "unknown command", "cni lst": `no command "lst"`, "status --nope": "unknown flag", "trace a": "accepts 2",
		"trace": "accepts 2", "cni": "wants a command", "doctor --peers many": "invalid argument",
	} {
		err := understood(strings.Fields(args), true)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for _, args := range []string{"trace", "config", "config set"} {
		if err := understood(strings.Fields(args), false); err != nil {
			t.Errorf("%s in running text: %v", args, err)
		}
	}
}

// TestThePageHasEveryCommand: those of the table are those of the program.
func TestThePageHasEveryCommand(t *testing.T) {
	page, err := os.ReadFile("../../Documentation/weftctl.md")
	if err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(
		strings.SplitN(string(page), "\n## ", 2)[0], -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			have = append(have, m[1])
		}
	}
	for _, c := range runnable(newRootCommand()) {
		want = append(want, strings.TrimPrefix(c.CommandPath(), "weftctl "))
		want = append(want, c.Aliases...)
	}
	slices.Sort(have)
	slices.Sort(want)
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("(-weftctl +Documentation/weftctl.md):\n%s", d)
	}
}
