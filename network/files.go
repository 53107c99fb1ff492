package network

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/subnet"
)

// files are what outlives the process: our lease, so that we know it again
// whatever became of our address, and the last snapshot, so that a start with
// the store away serves at once. Each is one line of SHA-256 in hex over the
// rest, and then JSON; it is replaced atomically.
type files struct{ dir string }

const (
	leaseFile    = "lease.json"
	snapshotFile = "snapshot.json"
	tornFiles    = ".weft-*" // what was not renamed yet when a process died
)

// savedSnapshot keeps the configuration as it was written: it is parsed again.
type savedSnapshot struct {
	Epoch    string
	Revision int64
	Config   json.RawMessage
	Leases   []subnet.Lease
	Doubted  bool `json:",omitempty"` // the store was not believed: a restart goes on with that
}

func (f files) saveLease(l subnet.Lease, from origin) error {
	return f.save(leaseFile, func() ([]byte, error) { return json.Marshal(savedLease{l, from}) })
}

func (f files) saveSnapshot(s subnet.Snapshot, doubted bool) error {
	return f.save(snapshotFile, func() ([]byte, error) {
		return encodeSnapshot(savedSnapshot{s.Epoch, s.Revision, s.Config.Raw, s.Leases, doubted})
	})
}

// load gives what was saved, and whether the store was not believed then. What is
// absent is zero without an error.
func (f files) load() (l subnet.Lease, s subnet.Snapshot, doubted bool, err error) {
	if f.dir == "" {
		return l, s, false, nil
	}
	errLease := f.read(leaseFile, func(body []byte) error { return json.Unmarshal(body, &l) })
	var saved savedSnapshot
	errSnap := f.read(snapshotFile, func(body []byte) error {
		var exact bool
		if saved, exact = decodeSnapshot(body); exact {
			return nil
		}
		saved = savedSnapshot{}
		return json.Unmarshal(body, &saved)
	})
	if errSnap == nil && len(saved.Config) > 0 {
		cfg, err := subnet.ParseConfig(saved.Config)
		if err != nil {
			errSnap = fmt.Errorf("read %s: %w", f.path(snapshotFile), err)
		} else {
			s = subnet.Snapshot{Epoch: saved.Epoch, Revision: saved.Revision, Config: cfg, Leases: saved.Leases}
		}
	}
	return l, s, saved.Doubted, errors.Join(errLease, errSnap)
}

// origin is where the lease was saved.
func (f files) origin() origin {
	var saved savedLease
	if f.dir == "" || f.read(leaseFile, func(body []byte) error { return json.Unmarshal(body, &saved) }) != nil {
		return origin{}
	}
	return saved.Origin
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

func (f files) save(name string, encode func() ([]byte, error)) error {
	if f.dir == "" {
		return nil
	}
	body, err := encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", f.path(name), err)
	}
	sum := sha256.Sum256(body)
	content := slices.Concat([]byte(hex.EncodeToString(sum[:])+"\n"), body)
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	return replaceFile(f.path(name), content)
}

// replaceFile writes a whole file or leaves the old one.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), tornFiles)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already after the rename
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (f files) read(name string, decode func(body []byte) error) error {
	content, err := os.ReadFile(f.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read saved state: %w", err)
	}
	head, body, ok := bytes.Cut(content, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(head) != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("read saved state: %s is damaged (its checksum does not match) and is left out", f.path(name))
	}
	if err := decode(body); err != nil {
		return fmt.Errorf("read saved state: %s: %w", f.path(name), err)
	}
	return nil
}

// restore begins with what the disk remembers. Nothing is deleted by it: the
// store has not confirmed it yet.
func (n *Node) restore() {
	lease, snapshot, doubted, err := n.files.load()
	if err != nil {
		n.opts.Log.WithError(err).Warn("saved state is left out; the store will tell")
	}
	n.view.lease, n.view.saved = lease, n.files.origin()
	if lease.ID == "" || len(snapshot.Config.Networks) == 0 || !n.fits(snapshot.Config, lease) {
		return
	}
	n.view.believed, n.view.changed = snapshot, true
	if doubted {
		n.view.doubted = time.Now().Add(-time.Nanosecond) // an age of 0 is none
	}
	n.opts.Health.Set(conditionLease, nil)
	n.opts.Log.WithFields(logrus.Fields{"lease": lease.ID, "peers": max(len(snapshot.Leases)-1, 0)}).
		Info("starting from the saved snapshot until the store answers")
}

// saver writes believed snapshots, not more often than every saveDelay. With
// 10,000 leases that takes a tenth of a second, and a disk that syncs may take any
// time: no change of a peer shall wait for it, so that steer goes on meanwhile.
type saver struct {
	files   files
	log     logrus.FieldLogger
	pending *subnet.Snapshot
	doubted bool      // as pending was noted
	began   time.Time // when there was one to write for the first time
	last    time.Time
	failed  bool
	writing chan error // gives what became of the one that is being written; nil: none is
}

// note has a snapshot saved. One without a configuration is of no use at a start.
// A doubt that begins is saved at once: who is killed soon after shall know it.
func (s *saver) note(snapshot subnet.Snapshot, doubted bool) {
	if len(snapshot.Config.Networks) == 0 {
		return
	}
	begins := doubted && !s.doubted
	s.pending, s.doubted = &snapshot, doubted
	if begins {
		s.flush()
	}
}

// maybeSave does not keep a start waiting: the first snapshot is saved when pods
// are served, or a while later.
func (s *saver) maybeSave(ready bool) {
	if s.pending == nil {
		return
	}
	if s.began.IsZero() {
		s.began = time.Now()
	}
	due := s.last.IsZero() && ready || time.Since(s.last) >= saveDelay && time.Since(s.began) >= saveDelay
	if due && s.idle() {
		s.write()
	}
}

// idle tells whether nothing is being written.
func (s *saver) idle() bool {
	select {
	case err := <-s.writing: // a nil channel gives nothing
		s.wrote(err)
	default:
	}
	return s.writing == nil
}

// write begins to write what is pending.
func (s *saver) write() {
	files, snapshot, doubted, done := s.files, *s.pending, s.doubted, make(chan error, 1)
	s.pending, s.last, s.writing = nil, time.Now(), done
	go func() { done <- files.saveSnapshot(snapshot, doubted) }()
}

func (s *saver) wrote(err error) {
	s.writing = nil
	if err != nil && !s.failed {
		s.log.WithError(err).Warn("the snapshot is not saved; a start without the store will not know the peers")
	}
	s.failed = err != nil
}

// flush returns when everything is written, and leaves no goroutine behind.
func (s *saver) flush() {
	if s.writing != nil {
		s.wrote(<-s.writing)
	}
	if s.pending != nil {
		s.write()
		s.wrote(<-s.writing)
	}
}

func readEnv(path string) (subnetenv.Env, error) { return subnetenv.Read(path) }

// previous is what subnet.env says that this node had.
func (n *Node) previous() []netip.Prefix {
	env, err := readEnv(n.opts.SubnetFile)
	switch {
	case err == nil:
		return env.Subnets
	case !errors.Is(err, os.ErrNotExist):
		n.once("subnet.env "+err.Error(), func(log logrus.FieldLogger) {
			log.WithError(err).WithField("file", n.opts.SubnetFile).
				Warn("the old subnet file is damaged or can't be read, and is left out; it is written anew when this node is ready")
		})
	}
	return nil
}
