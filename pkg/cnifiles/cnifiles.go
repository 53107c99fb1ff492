// Package cnifiles keeps the two files in place by which a container runtime
// finds weft: the plugin's program and a network configuration list.
//
//	our own program  ──→ <BinDir>/<type>  for each type of the list that we answer to
//	Source, the list ──→ Target           after the programs: it is what makes a node take pods
//
// Each is replaced in one step, only if it differs, and again when somebody
// removes or changes it. It refuses to touch what is another's: a program
// under flannel's name that is not ours, a configuration that names neither
// weft nor flannel, all other files. It decides nothing about when a node may
// have pods: who calls it does.
package cnifiles

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Options say what goes where.
type Options struct {
	BinDir string // where the container runtime looks for plugins
	Plugin string // our program
	Source string // the list, as from a ConfigMap
	List   []byte // the list itself, where there is no Source
	Target string // its place, as /etc/cni/net.d/10-weft.conflist
}

// Installer keeps the files of one node.
type Installer struct {
	opts  Options
	known map[string]identity // programs whose content was compared, as they were then
	made  map[string]bool     // programs that we have put there
}

// New makes an Installer; it looks at nothing yet.
func New(o Options) *Installer {
	return &Installer{opts: o, known: map[string]identity{}, made: map[string]bool{}}
}

// Report is what one look has come to.
type Report struct {
	// Wrote are the files that were put in place.
	Wrote []string
	// Err is why pods can't be attached by weft; nil if they can.
	Err error
	// Notes are what an operator should know, though pods can be attached.
	Notes []string
}

const (
	typeWeft    = "weft"
	typeFlannel = "flannel" // our program answers to this name, too

	programMode = 0o755
	listMode    = 0o644
	dirMode     = 0o755

	ourModule = "github.com/weftnet/weft" // as it is in our programs
)

// Install looks once, and writes what is not as it should be.
func (i *Installer) Install() Report {
	var r Report
	content, list, err := i.wanted()
	if err != nil {
		// What is in place works, until we know better.
		if _, _, standing := readList(i.opts.Target); standing == nil {
			r.Notes = append(r.Notes, err.Error()+"; what is installed stays")
		} else {
			r.Err = err
		}
		return r
	}
	for _, name := range list.ours() {
		r.Err = errors.Join(r.Err, i.program(&r, name))
	}
	if r.Err == nil {
		r.Err = i.list(&r, content)
	}
	r.Notes = append(r.Notes, i.before()...)
	return r
}

// wanted is the list that shall stand.
func (i *Installer) wanted() ([]byte, netList, error) {
	if i.opts.Source != "" {
		return readList(i.opts.Source)
	}
	list, err := parseList(i.opts.List)
	if err != nil {
		return nil, list, fmt.Errorf("the CNI configuration %w", err)
	}
	return i.opts.List, list, nil
}

// program puts our program under a name.
func (i *Installer) program(r *Report, name string) error {
	target := filepath.Join(i.opts.BinDir, name)
	have, errHave := identify(target)
	if errHave == nil && i.known[target] == have {
		return nil
	}
	content, err := os.ReadFile(i.opts.Plugin)
	if err != nil {
		return fmt.Errorf("read our CNI plugin: %w; it belongs beside the program that installs it", err)
	}
	standing, err := os.ReadFile(target)
	switch {
	case err == nil && bytes.Equal(standing, content) && have.mode.Perm() == programMode:
		i.known[target] = have
		return nil
	case err == nil && name != typeWeft && !i.made[target] && !isOurs(target):
		r.Notes = append(r.Notes, fmt.Sprintf("%s is another's program: it is left as it is, and attaches the pods", target))
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return explain(fmt.Errorf("read %s: %w", target, bare(err)))
	}
	if err := replace(target, content, programMode); err != nil {
		return err
	}
	r.Wrote, i.made[target] = append(r.Wrote, target), true
	if have, err = identify(target); err == nil {
		i.known[target] = have
	}
	return nil
}

// isOurs tells by what the Go linker leaves in each program.
func isOurs(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Main.Path == ourModule
}

// list puts the configuration in place.
func (i *Installer) list(r *Report, content []byte) error {
	standing, err := os.ReadFile(i.opts.Target)
	switch {
	case err == nil && bytes.Equal(standing, content):
		return nil
	case err == nil && foreign(standing):
		return fmt.Errorf("%s is another network's CNI configuration and is left alone; remove it, "+
			"or choose another name for ours", i.opts.Target)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return explain(fmt.Errorf("read %s: %w", i.opts.Target, bare(err)))
	}
	if err := replace(i.opts.Target, content, listMode); err != nil {
		return err
	}
	r.Wrote = append(r.Wrote, i.opts.Target)
	return nil
}

// before names the configurations that the container runtime takes in place of
// ours: the first by name counts (containerd, CRI-O).
func (i *Installer) before() (notes []string) {
	dir, ours := filepath.Split(i.opts.Target)
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil // said where we write
	}
	for _, e := range entries {
		known := slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name()))
		if known && !e.IsDir() && e.Name() < ours {
			notes = append(notes, fmt.Sprintf("the CNI configuration %s goes before %s: container runtimes use it, "+
				"and not ours; remove it unless you want that", filepath.Join(dir, e.Name()), ours))
		}
	}
	return notes
}

// netList is what we read of a network configuration list.
type netList struct {
	Name    string
	Plugins []struct{ Type string }
}

// ours are the names in it that our program answers to, each once.
func (l netList) ours() (names []string) {
	for _, p := range l.Plugins {
		if (p.Type == typeWeft || p.Type == typeFlannel) && !slices.Contains(names, p.Type) {
			names = append(names, p.Type)
		}
	}
	return names
}

func readList(path string) ([]byte, netList, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, netList{}, fmt.Errorf("read the CNI configuration: %w", err)
	}
	l, err := parseList(content)
	if err != nil {
		return nil, netList{}, fmt.Errorf("the CNI configuration %s: %w", path, err)
	}
	return content, l, nil
}

func parseList(content []byte) (netList, error) {
	var l netList
	switch err := json.Unmarshal(content, &l); {
	case err != nil:
		return l, fmt.Errorf("is not JSON of the form {\"name\": …, \"plugins\": […]}: %w", err)
	case l.Name == "" || len(l.Plugins) == 0:
		return l, errors.New("has no name, or no plugins; it is a list, as in dist/cni/10-weft.conflist")
	case len(l.ours()) == 0:
		return l, errors.New("has no plugin of type weft or flannel")
	}
	return l, nil
}

// foreign tells of a whole configuration that none of our plugins is in. A
// damaged one under our name is ours.
func foreign(content []byte) bool {
	var l struct {
		netList
		Type string // of a single plugin's
	}
	if json.Unmarshal(content, &l) != nil {
		return false
	}
	return len(l.ours()) == 0 && (len(l.Plugins) > 0 || l.Type != "" && l.Type != typeWeft && l.Type != typeFlannel)
}

// identity changes with a file's content, as far as that can be told without
// reading it.
type identity struct {
	size, changed, inode int64
	mode                 fs.FileMode
}

const tempPrefix = ".weft-cni-"

// replace writes a whole file, or leaves the old one.
func replace(target string, content []byte, mode fs.FileMode) error {
	if err := write(target, content, mode); err != nil {
		return explain(fmt.Errorf("install %s: %w", target, bare(err)))
	}
	return nil
}

func write(target string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(target)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	_, errWrite := f.Write(content)
	err = errors.Join(errWrite, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir) // makes the rename itself durable
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes what a crash in the middle of replace has left.
func (i *Installer) sweep() {
	for _, dir := range []string{i.opts.BinDir, filepath.Dir(i.opts.Target)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // said where we write
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempPrefix) {
				_ = os.Remove(filepath.Join(dir, e.Name())) // harmless where it stays
			}
		}
	}
}
