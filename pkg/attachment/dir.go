package attachment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dir is a directory of records. Several processes may write it at once: each
// writes its own attachments, and every file appears and goes whole.
type Dir string

const (
	dirMode = 0o700
	// newPrefix is how a file begins that is not yet, or never was, a record.
	newPrefix = "."
)

// DamagedError says that a file of the directory is no record that can be read.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *DamagedError) Unwrap() error { return e.Err }

// Put writes a record in place of an older one of the same key. It is not
// synced to the disk: a power cut ends the boot that the record is of.
func (d Dir) Put(a Attachment) error {
	done, err := d.Begin(a)
	if err != nil {
		return err
	}
	done()
	return nil
}

// Begin is Put by who is about to act: until done is called, or the process
// ends in any way, others find the record Busy.
func (d Dir) Begin(a Attachment) (done func(), err error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("record %s: %w", a.Key, err)
	}
	// Of this key, so that a process that died here is cleaned up after by the
	// next Begin or Remove of the key.
	tmp := d.newPath(a.Key)
	f, err := create(tmp)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(string(d), dirMode); err == nil {
			f, err = create(tmp)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", a.Key, err)
	}
	_, err = f.Write(Encode(a))
	if err == nil {
		err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(tmp, d.path(a.Key))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record %s: %w", a.Key, err), f.Close(), removeFile(tmp))
	}
	return func() { _ = f.Close() }, nil // closing the only descriptor unlocks
}

// create never takes up a file of before, whose lock somebody may have.
func create(path string) (*os.File, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Get reads one record. Errors: fs.ErrNotExist, *DamagedError, or the file
// system's.
func (d Dir) Get(k Key) (Attachment, error) { return read(d.path(k), k.String()) }

// Remove takes a record away. Nothing there is no error.
func (d Dir) Remove(k Key) error {
	if err := errors.Join(removeFile(d.newPath(k)), removeFile(d.path(k))); err != nil {
		return fmt.Errorf("forget %s: %w", k, err)
	}
	return nil
}

// Load reads all records, in the order of their keys. What can't be read is
// told in the error, one *DamagedError per file, and the others are given all
// the same. No directory is no records.
func (d Dir) Load() ([]Attachment, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the attachments: %w", err)
	}
	var out []Attachment
	var errs []error
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), newPrefix) {
			continue
		}
		a, err := read(filepath.Join(string(d), e.Name()), e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since we listed
		case err != nil:
			errs = append(errs, err)
		default:
			out = append(out, a)
		}
	}
	return out, errors.Join(errs...)
}

// Keys lists the attachments that have a record, also one that can't be read.
// No directory is none.
func (d Dir) Keys() ([]Key, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the attachments: %w", err)
	}
	var out []Key
	for _, e := range entries {
		network, rest, _ := strings.Cut(e.Name(), ":")
		container, ifName, _ := strings.Cut(rest, ":")
		k := Key{network, container, ifName}
		if !e.IsDir() && k.String() == e.Name() && isName(network) && isName(container) && isName(ifName) {
			out = append(out, k)
		}
	}
	return out, nil
}

// read reads a file, which must be the record of that name.
func read(path, name string) (Attachment, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Attachment{}, err
	}
	a, err := Parse(b)
	if err == nil && a.Key.String() != name {
		err = fmt.Errorf("the record is of %s", a.Key)
	}
	if err != nil {
		return Attachment{}, &DamagedError{path, err}
	}
	return a, nil
}

func (d Dir) path(k Key) string    { return filepath.Join(string(d), k.String()) }
func (d Dir) newPath(k Key) string { return filepath.Join(string(d), newPrefix+k.String()) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
