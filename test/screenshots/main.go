// Command screenshots takes pictures of the status page in a headless Chromium:
// 5 and 500 peers, light and dark, a narrow window, no peer, and no weftd; and
// walks through it by keys alone. It ends with status 1 if a page does not show
// what it was given, or does not do what a key asks for.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/ui"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

// shot is one picture, and what has to be on it.
type shot struct {
	name   string
	ask    ui.Ask
	dark   bool
	width  int
	height int            // 0: 1400
	want   []string       // in the page as it stands then
	count  map[string]int // how often
}

func shots() []shot {
	few := map[string]int{`class="edge `: 5, `<tr class=""`: 10}
	many := map[string]int{`<button type="button" title=`: 500, `<tr class=""`: 999} // one has no paths
	return []shot{
		{name: "5-light", ask: overlay(5), width: 1440, count: few, want: []string{">ready<", "0.31 ms", "peer-unheard"}},
		{name: "5-dark", ask: overlay(5), width: 1440, dark: true, count: few},
		{name: "500-light", ask: overlay(500), width: 1440, count: many, want: []string{"overlay-down", "left-out"}},
		{name: "500-dark", ask: overlay(500), width: 1440, dark: true, count: many},
		{name: "page", ask: overlay(5), width: 1180, height: 890, count: few},
		{name: "page-500", ask: overlay(500), width: 1180, height: 890, dark: true, count: many},
		{name: "40-light", ask: overlay(40), width: 1440, count: map[string]int{`class="edge `: 40}},
		{name: "5-narrow", ask: overlay(5), width: 620, height: 1900, count: few},
		{name: "none", ask: overlay(0), width: 1440, want: []string{"No other node has a lease."}},
		{name: "no-weftd", ask: away, width: 1440, want: []string{"weftd doesn't answer", "is it running?"}},
	}
}

func away(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.New("ask weftd at /run/weft/weftd.sock: dial unix: no such file or directory; " +
		"is it running? systemctl status weftd")
}

// run writes into the directory that is its argument.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("name a directory for the pictures")
	}
	out, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	profile, err := os.MkdirTemp("", "weft-screenshots")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(profile) }()
	var failed []error
	for _, s := range shots() {
		if err := s.take(ctx, stdout, profile, filepath.Join(out, s.name+".png")); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	if err := walk(ctx, profile, filepath.Join(out, "keys.png")); err != nil {
		failed = append(failed, fmt.Errorf("by keys alone: %w", err))
	}
	return errors.Join(failed...)
}

// take lets the browser paint, and then tell what it has painted.
func (s shot) take(ctx context.Context, stdout io.Writer, profile, file string) error {
	handler, err := ui.Handler(s.ask)
	if err != nil {
		return err
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	text, err := s.browse(ctx, profile, server, "--screenshot="+file)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	dom, err := s.browse(ctx, profile, server, "--dump-dom")
	if err != nil {
		return err
	}
	dom = withoutScript(dom)
	var wrong []error
	for _, want := range s.want {
		if !strings.Contains(dom, want) {
			wrong = append(wrong, fmt.Errorf("the page does not say %q", want))
		}
	}
	for part, want := range s.count {
		if have := strings.Count(dom, part); have != want {
			wrong = append(wrong, fmt.Errorf("%q is %d times in the page, not %d", part, have, want))
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		return errors.Join(append(wrong, err)...)
	}
	_, err = fmt.Fprintf(stdout, "%s: %d KiB\n", file, info.Size()>>10)
	return errors.Join(append(wrong, err)...)
}

// browse runs the browser for as much of the page's own time as two polls take.
func (s shot) browse(ctx context.Context, profile string, server *httptest.Server, do string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	scheme := "1" // light, as blink::mojom::PreferredColorScheme has it
	if s.dark {
		scheme = "0"
	}
	size := fmt.Sprintf("--window-size=%d,%d", s.width, cmp.Or(s.height, 1400))
	cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size,
		"--run-all-compositor-stages-before-draw", // else what is not painted yet stays empty
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+profile, "--blink-settings=preferredColorScheme="+scheme,
		"--virtual-time-budget=5000", "--enable-logging=stderr", do, server.URL)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stderr.String(), fmt.Errorf("chromium: %w", err)
	}
	for line := range strings.Lines(stderr.String()) {
		if at := strings.Index(line, "CONSOLE"); at >= 0 && !strings.Contains(line, fmt.Sprint(http.StatusBadGateway)) {
			return line, fmt.Errorf("the page complains: %s", strings.TrimSpace(line[at:]))
		}
	}
	return stdout.String(), nil
}

// withoutScript leaves what the page's own source says out of what it shows.
func withoutScript(dom string) string {
	if head, _, ok := strings.Cut(dom, "<script>"); ok {
		return head
	}
	return dom
}
