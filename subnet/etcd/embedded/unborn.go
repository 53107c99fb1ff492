package embedded

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// removeUnborn removes what a single member left that was killed in its very
// first moments: a write-ahead log without an entry. On such a one etcd waits
// for ever, as the first entries say who the members are. It never served
// anybody, so nothing is lost.
func removeUnborn(dir string, lg *zap.Logger) error {
	member := filepath.Join(dir, "member")
	segments, err := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
	if err != nil || len(segments) != 1 {
		return nil // errors are etcd's to tell, here and below: it will meet them, too
	}
	w, err := wal.OpenForRead(lg, filepath.Join(member, "wal"), &walpb.Snapshot{})
	if err != nil {
		return nil
	}
	defer func() { _ = w.Close() }()
	_, _, entries, err := w.ReadAll()
	if err != nil || len(entries) > 0 {
		return nil
	}
	if err := os.RemoveAll(member); err != nil {
		return fmt.Errorf("remove a member that never began: %w", err)
	}
	return nil
}
