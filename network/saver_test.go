package network

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// TestNobodyWaitsForTheDisk notes a snapshot while the one before is being written:
// it waits for its turn, and steer doesn't.
func TestNobodyWaitsForTheDisk(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := saver{files: files{dir: filepath.Join(t.TempDir(), "state")}, log: log}
	first, second := someSnapshot(t), someSnapshot(t)
	second.Revision++

	s.note(first, false)
	s.maybeSave(true)
	if s.pending != nil || s.writing == nil {
		t.Fatal("the first snapshot of a node that is ready is not being written")
	}
	s.note(second, false)
	s.last, s.began = time.Now().Add(-saveDelay), time.Now().Add(-saveDelay)
	slow := make(chan error) // one that is still being written
	done := s.writing
	s.writing = slow
	s.maybeSave(true)
	if s.pending == nil {
		t.Fatal("a second one was begun beside the first")
	}
	go func() { slow <- <-done }()
	s.flush()
	if s.pending != nil || s.writing != nil {
		t.Fatal("flush left something to write")
	}
	if _, have, _, err := s.files.load(); err != nil || have.Revision != second.Revision {
		t.Errorf("saved revision %d, %v; want %d", have.Revision, err, second.Revision)
	}
}

// TestADiskThatFailsIsNoticed, though nobody waited for it.
func TestADiskThatFailsIsNoticed(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := saver{files: files{dir: dir}, log: log}
	s.note(someSnapshot(t), false)
	s.maybeSave(true)
	s.flush()
	if !s.failed {
		t.Error("a directory that can't be one is no failure")
	}
}
