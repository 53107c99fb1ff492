package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/weftnet/weft/subnet"
)

const (
	// configPoll is how often the configuration's file is read. The kubelet
	// replaces it by a symbolic link to another directory, a minute after the
	// ConfigMap was edited: reading a few hundred bytes is cheaper than to
	// follow that.
	configPoll = 500 * time.Millisecond
	maxConfig  = 64<<10 + 1 // bytes that are read, one more than is valid
)

// Watch implements subnet.Store. It begins with all Nodes and goes on over
// whatever happens to the API server; it ends with ctx only.
func (s *Store) Watch(ctx context.Context, to chan<- subnet.Snapshot) error {
	if _, err := s.nodeName(ctx); err != nil && ctx.Err() == nil {
		s.log.WithError(err).Warn("which Node is ours is not known yet; set NODE_NAME, or mend this")
	}
	s.nodes.join()
	defer s.nodes.leave()
	tick := time.NewTicker(configPoll)
	defer tick.Stop()
	file := configFile{s: s}
	file.read()
	var (
		next subnet.Snapshot
		sent int64 = -1 // generation of next, or of what was sent last
		out  chan<- subnet.Snapshot
	)
	for stale := false; ; stale = false {
		changed := s.nodes.look(func(v *view) {
			if v.synced && (v.generation != sent || file.changed) {
				next, sent, stale = v.snapshot(), v.generation, true
			}
		})
		if stale {
			file.changed = false
			next.Epoch, next.Config = s.epoch, file.config
			if file.bad != nil {
				next.Malformed = append([]subnet.Skipped{*file.bad}, next.Malformed...)
			}
			out = to
		}
		select {
		case out <- next:
			out, next = nil, subnet.Snapshot{}
		case <-changed:
		case <-tick.C:
			file.read()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// configFile is the network configuration as it stands in its file.
type configFile struct {
	s       *Store
	raw     []byte
	err     string // of the last read
	config  subnet.Config
	bad     *subnet.Skipped // nil: the file is good, or there is none
	changed bool
}

// read looks at the file again. One that isn't there is not there yet.
func (c *configFile) read() {
	raw, err := readSome(c.s.opts.ConfigFile)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if c.err == text && bytes.Equal(c.raw, raw) {
		return
	}
	c.raw, c.err, c.changed = raw, text, true
	c.config, c.bad = subnet.Config{}, nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.s.log.WithError(err).Warn("there is no network configuration; put it there, by a ConfigMap or --net-config-path")
		return
	case err == nil:
		c.config, err = parseConfig(raw)
	}
	if err != nil {
		c.bad = &subnet.Skipped{ID: c.s.opts.ConfigFile, Field: "configuration", Reason: err.Error()}
	}
}

func parseConfig(raw []byte) (subnet.Config, error) {
	if len(raw) == 0 {
		return subnet.Config{}, errors.New("the file is empty")
	}
	return subnet.ParseConfig(raw)
}

func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxConfig))
}
