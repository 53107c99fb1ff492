package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
)

// saved is the file of one attachment in flannel's form: the configuration that
// its delegate was given, which DEL gives it again, whatever the network's
// configuration and subnet.env say by then.
//
//	<state directory>/<container>:<interface>   ours
//	<state directory>/<container>               flannel's, or another name of ours
//
// flannel's plugin goes by the container alone, so two interfaces of one
// container have one file there. Ours are told apart (neither name can have a
// colon in it). The first one of a container gets flannel's name as well, as a
// hard link: a node that goes back to flannel's plugin then frees what we gave.
type saved struct{ dir, ours, flannels, unnamed string }

func savedOf(dir string, req request) saved {
	return saved{
		dir:      dir,
		ours:     filepath.Join(dir, req.containerID+":"+req.ifName),
		flannels: filepath.Join(dir, req.containerID),
		unnamed:  filepath.Join(dir, ".weft-"+req.containerID+":"+req.ifName),
	}
}

const savedDirMode = 0o700

// put saves a configuration in place of one that may be there. durable is for
// a delegate's, which can't be thought out again.
func (s saved) put(content document, durable bool) error {
	err := s.write(content, durable)
	if err != nil {
		return explainSaved(fmt.Errorf("save the delegate's configuration: %w", err))
	}
	return nil
}

func (s saved) write(content document, durable bool) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, savedDirMode); err != nil {
		return err
	}
	if err := s.removeFiles(s.ours); err != nil {
		return err
	}
	// Under the same name each time, so that the next one finds what a crash left.
	if err := removeFile(s.unnamed); err != nil {
		return err
	}
	f, err := os.OpenFile(s.unnamed, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if durable {
		err = errors.Join(err, f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.ours)
	}
	if err != nil {
		return errors.Join(err, removeFile(s.unnamed))
	}
	// For flannel's sake only: the name may be another interface's, and there
	// are file systems without hard links.
	_ = os.Link(s.ours, s.flannels)
	if !durable {
		return nil
	}
	return syncDir(s.dir)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// get reads what was saved for an attachment to a network, by us or by flannel;
// nothing is fs.ErrNotExist. A damaged file is a *damagedError.
func (s saved) get(network string) (document, error) {
	path := s.path()
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var d document
	err = json.Unmarshal(raw, &d)
	name, ok := d.text("name", "")
	if kind, hasType := d.text("type", ""); err != nil || !ok || !hasType || kind == "" {
		return nil, &damagedError{path, err}
	}
	if name != network {
		// flannel's file of the container's interface on another network.
		return nil, fmt.Errorf("%s is of network %s: %w", path, name, fs.ErrNotExist)
	}
	return d, nil
}

// path is the attachment's file, if it has one. flannel's name is that of an
// attachment of flannel's if it is no second name of one of ours.
func (s saved) path() string {
	if _, err := os.Lstat(s.ours); err == nil {
		return s.ours
	}
	info, err := os.Lstat(s.flannels)
	if err != nil {
		return s.flannels
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return s.ours
	}
	return s.flannels
}

// remove takes the file away when DEL is done. Nothing there is no error, and a
// file of another network stays.
func (s saved) remove(network string) error {
	err := removeFile(s.unnamed)
	if _, errGet := s.get(network); !errors.Is(errGet, fs.ErrNotExist) {
		err = errors.Join(err, s.removeFiles(s.path()))
	}
	if err != nil {
		return explainSaved(fmt.Errorf("forget the delegate's configuration: %w", err))
	}
	return nil
}

// removeFiles takes flannel's name first, if it is another one of the file, so
// that a crash in between leaves what the next DEL finds.
func (s saved) removeFiles(path string) error {
	mine, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if second, err := os.Lstat(s.flannels); err == nil && os.SameFile(mine, second) {
		if err := removeFile(s.flannels); err != nil {
			return err
		}
	}
	return removeFile(path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	return nil
}

// damagedError says that a saved file can't be read as a configuration.
type damagedError struct {
	path string
	err  error // nil: it is JSON, and no network configuration
}

func (e *damagedError) Error() string {
	if e.err == nil {
		return e.path + " is not a network configuration"
	}
	return e.path + " is damaged: " + e.err.Error()
}

func (e *damagedError) Unwrap() error { return e.err }

// savedHolders lists the attachments to a network that have a file.
func savedHolders(dir, network string) []hostlocal.Holder {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []hostlocal.Holder
	for _, e := range entries {
		container, ifName, ours := strings.Cut(e.Name(), ":")
		if !ours {
			continue // flannel's: it doesn't say the interface; DEL finds it
		}
		h := hostlocal.Holder{ContainerID: container, IfName: ifName}
		if _, err := savedOf(dir, request{containerID: container, ifName: ifName}).get(network); err == nil {
			out = append(out, h)
		}
	}
	return out
}
