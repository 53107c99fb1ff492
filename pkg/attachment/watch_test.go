package attachment_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/attachment"
)

func TestWatchTellsOfRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not", "yet")
	dir := attachment.Dir(path)
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- dir.Watch(ctx, changed) }()
	told := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case err := <-ended:
			t.Fatalf("%s: %v", what, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not told of", what)
		}
	}
	told("that it listens")
	done, err := dir.Begin(ptp("pod-1"))
	if err != nil {
		t.Fatal(err)
	}
	told("a record that is begun")
	done()
	told("one that is finished")
	if err := dir.Remove(ptp("pod-1").Key); err != nil {
		t.Fatal(err)
	}
	told("one that goes")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a directory that is gone is watched no longer")
	}
	go func() { ended <- dir.Watch(ctx, changed) }()
	told("that it listens again")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}
