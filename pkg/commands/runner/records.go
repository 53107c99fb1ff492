package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/pkg/commands"
)

// records are the files of what was run, one for each task. They are good for
// one boot, so nothing is lost if a crash of the machine loses them.
type records struct{ dir, boot string }

// file is the content: a record, and which task of which boot it is of.
type file struct {
	Name, Boot string
	commands.Record
}

const suffix = ".json"

func (r records) path(name string) string {
	return filepath.Join(r.dir, url.PathEscape(name)+suffix)
}

// save replaces the record of a task as a whole; nil removes it.
func (r records) save(name string, record *commands.Record) error {
	if r.dir == "" {
		return nil
	}
	path := r.path(name)
	if record == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("record what was run: %w", err)
		}
		return nil
	}
	body, err := json.Marshal(file{name, r.boot, *record})
	if err != nil {
		return fmt.Errorf("record what was run: %w", err)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("record what was run: %w", err)
	}
	if err := os.WriteFile(path+".new", body, 0o600); err != nil {
		return fmt.Errorf("record what was run: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record what was run: %w", err)
	}
	return nil
}

// load gives the records of this boot, and the files that say nothing: of another
// boot, or torn. What can't be read is left out, and named.
func (r records) load() (_ map[string]commands.Record, stale []string, _ error) {
	out := map[string]commands.Record{}
	if r.dir == "" {
		return out, nil, nil
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return out, nil, fmt.Errorf("read what was run: %w", err)
	}
	var bad []error
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		var f file
		body, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(path, suffix) {
			err = json.Unmarshal(body, &f)
		}
		switch {
		case err != nil:
			bad = append(bad, fmt.Errorf("read what was run: %s: %w", path, err))
		case f.Boot != r.boot || path != r.path(f.Name):
			stale = append(stale, path)
		default:
			out[f.Name] = f.Record
		}
	}
	return out, stale, errors.Join(bad...)
}

// Leftovers are the tasks that the records in a directory say were done in this
// boot, for who takes the host down.
func Leftovers(dir, boot string) (map[string]commands.Record, error) {
	was, _, err := records{dir, boot}.load()
	return was, err
}

// BootID is which boot of the machine this is (random(4)).
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("which boot is this? %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
