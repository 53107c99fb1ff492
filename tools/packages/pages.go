package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// document writes man pages and completions from what the programs in a
// directory say of themselves, below the directory of pages.
func (o options) document(ctx context.Context, programs string) error {
	if err := os.RemoveAll(o.pages()); err != nil {
		return err
	}
	weftd, err := ask(ctx, programs, "weftd", "--help")
	if err != nil {
		return err
	}
	if err := o.page("weftd", "8", "join this machine to an overlay network", weftd); err != nil {
		return err
	}
	if err := o.command(ctx, programs, nil, "look at an overlay network and configure it"); err != nil {
		return err
	}
	for to, shell := range map[string]string{
		"bash-completion/completions/weftctl":    "bash",
		"zsh/vendor-completions/_weftctl":        "zsh", // Debian
		"zsh/site-functions/_weftctl":            "zsh", // others
		"fish/vendor_completions.d/weftctl.fish": "fish",
	} {
		text, err := ask(ctx, programs, "weftctl", "completion", shell)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(o.pages(), to), text); err != nil {
			return err
		}
	}
	return nil
}

func ask(ctx context.Context, dir, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, name), args...).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// command writes the page of a command of weftctl and of those below it.
func (o options) command(ctx context.Context, programs string, words []string, short string) error {
	help, err := ask(ctx, programs, "weftctl", append(words, "--help")...)
	if err != nil {
		return err
	}
	name := strings.Join(append([]string{"weftctl"}, words...), "-")
	if err := o.page(name, "1", short, help); err != nil {
		return err
	}
	_, list, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		fields := regexp.MustCompile(`\s{2,}|\s+`).Split(strings.TrimSpace(line), 2)
		if len(fields) < 2 || fields[0] == "completion" || fields[0] == "help" {
			continue
		}
		below := append(append([]string{}, words...), fields[0])
		if err := o.command(ctx, programs, below, strings.TrimSpace(fields[1])); err != nil {
			return err
		}
	}
	return nil
}

// page writes a help text as a man page: its words, as they are set there.
func (o options) page(name, section, short, help string) error {
	var out strings.Builder
	fmt.Fprintf(&out, ".TH %s %s \"\" weft\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n",
		strings.ToUpper(name), section, name, roff(short))
	for line := range strings.Lines(help) {
		out.WriteString(roff(strings.TrimRight(line, "\n")) + "\n")
	}
	fmt.Fprintf(&out, ".fi\n.SH SEE ALSO\nweftd(8), weftctl(1), /usr/share/doc/weft\n")
	return write(filepath.Join(o.pages(), "man", "man"+section, name+"."+section), out.String())
}

// roff takes a line's own characters from being requests and escapes, man(7).
func roff(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	return line
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // for everybody to read
}
