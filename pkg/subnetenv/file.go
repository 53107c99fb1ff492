package subnetenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	fileMode = 0o644 // pods' runtimes and scripts of any user read it
	dirMode  = 0o755
)

// Read parses the file at path. A file that is not there yet is an error that
// is fs.ErrNotExist.
func Read(path string) (Env, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Env{}, fmt.Errorf("read the node's subnet: %w", err)
	}
	e, err := Parse(b)
	if err != nil {
		return Env{}, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// Write puts the file in place in one step: a reader sees the old content or
// the new, and after a crash the file is whole. Nothing is written when the
// content stands there already, so whoever watches the file hears of changes
// only.
func Write(path string, e Env) error {
	content := Encode(e)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	if err := replace(path, content); err != nil {
		return fmt.Errorf("write %s (pods get no address without it; "+
			"free or remount its file system, or choose another place with --subnet-file): %w", path, err)
	}
	return nil
}

func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, errWrite := f.Write(content)
	err = errors.Join(errWrite, f.Chmod(fileMode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// syncDir makes the rename itself durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
