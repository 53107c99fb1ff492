package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/weftnet/weft/pkg/cnifiles"
	"github.com/weftnet/weft/pkg/health"
)

// told is a store that keeps what is said about the node.
type told struct{ events chan string }

func (s told) Warn(_ context.Context, reason, message string) error {
	s.events <- reason + ": " + message
	return errors.New("nobody listens")
}

// The files come when all else is ready, and readiness with them; what is in
// their way is said once, to the log and on the Node.
func TestTheCNIFilesAreTheLast(t *testing.T) {
	dir := t.TempDir()
	o := cnifiles.Options{
		BinDir: filepath.Join(dir, "bin"), Plugin: filepath.Join(dir, "weft"),
		Source: filepath.Join(dir, "config", "cni.json"), Target: filepath.Join(dir, "net.d", "10-weft.conflist"),
	}
	put(t, o.Plugin, "plugin")
	put(t, o.Source, `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"weft"}]}`)
	put(t, filepath.Join(dir, "net.d", "05-other.conf"), "{}")
	put(t, o.BinDir, "in the way")

	state, store := health.New(), told{make(chan string, 100)}
	log, said := logtest.NewNullLogger()
	looks := make(chan struct{}, 100)
	c := newCNIKeeper(state, store, func() { looks <- struct{}{} }, log)
	if err := state.Ready(); err == nil {
		t.Error("ready from the start")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx, o) }()
	state.Set("lease", errors.New("none"))
	if _, err := os.Stat(o.Target); err == nil {
		t.Error("installed before all else is ready")
	}
	state.Set("lease", nil)
	for _, want := range []string{
		"WeftCannotInstallCNI: read " + o.BinDir + "/weft: not a directory",
		"WeftCNINotice: the CNI configuration " + dir + "/net.d/05-other.conf",
	} {
		if event := <-store.events; !strings.HasPrefix(event, want) {
			t.Errorf("event %q, want %q", event, want)
		}
	}
	if err := state.Ready(); err == nil || !strings.Contains(err.Error(), conditionCNI) {
		t.Errorf("readiness: %v", err)
	}
	if err := os.Remove(o.BinDir); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	for state.Ready() != nil {
		select {
		case <-looks:
		case <-deadline:
			t.Fatalf("not ready: %v", state.Ready())
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("run ended by %v", err)
	}
	var lines []string
	for _, e := range said.AllEntries() {
		if e.Message != "no Event says so" {
			lines = append(lines, e.Message)
		}
	}
	slices.Sort(lines)
	if len(lines) != 3 || lines[0] != "CNI files installed" {
		t.Errorf("want each said once, have %q", lines)
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
