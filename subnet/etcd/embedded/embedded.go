// Package embedded runs an etcd inside of the daemon, so that a cluster needs
// no other software: a single member, or one of a fixed set that survives the
// loss of a minority.
//
// It owns how a member is set up, kept small and ended. It refuses to change
// who is a member: that is for etcdctl, or for an etcd of one's own.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/weftnet/weft/pkg/tlsfile"
)

const (
	defaultListen = "127.0.0.1:2379"
	defaultName   = "weft"

	// quota bounds the database. A lease is some 500 bytes for each of the
	// versions that an hour keeps: 10,000 nodes stay below 50 MiB.
	quota = 512 << 20
	// One member has nobody to wait for: the shortest election that etcd
	// allows at its default heartbeat of 100 ms. Several keep etcd's default.
	electionAlone = 500 // ms
	progressEvery = 5 * time.Second
	giveUpAfter   = 30 * time.Second // a start that was cancelled
	endGently     = 300 * time.Millisecond
)

// The phases of a server.
const (
	starting int32 = iota
	running
	ending
)

// Options say where the server keeps its data and who may reach it.
type Options struct {
	Dir string // data directory; made with mode 0700
	// Listen is a list, parted by commas, of ADDRESS:PORT for clients, or of such
	// URLs. Without TLS loopback is added, with the port of the first, unless it
	// is covered already. Empty: 127.0.0.1:2379. Port 0: any that is free.
	Listen string
	Name   string // of the member; empty: weft
	// Peers is the list NAME=URL,… of all members, this one among them; the same
	// for each. Empty: there is no other. The URL of this one has an address, at
	// which it listens for the others. It matters when a data directory is new.
	Peers string
	// CertFile and KeyFile, which go together, make TLS, for clients and, where
	// their URLs say so, between members. With CAFile, clients must show a
	// certificate by that authority; members always must. The one certificate is
	// then for all three roles. All are PEM, and read anew for each connection,
	// except for CAFile.
	CertFile, KeyFile, CAFile string
	// AllowPlaintext permits addresses that other hosts can reach without TLS.
	// There is neither encryption nor a password: who reaches it, rules the
	// network.
	AllowPlaintext bool
	Log            logrus.FieldLogger
}

func (o Options) secure() bool { return o.CertFile != "" }

func (o Options) files() tlsfile.Files {
	return tlsfile.Files{CA: o.CAFile, Cert: o.CertFile, Key: o.KeyFile}
}

// Server is a running etcd.
type Server struct {
	etcd     *embed.Etcd
	lock     *fileutil.LockedFile
	endpoint string
	log      logrus.FieldLogger
	failed   chan error
	done     chan struct{} // closed when failed has no writer any more
	closed   chan struct{} // by Close, at its end
	phase    *atomic.Int32
	waiting  sync.WaitGroup
}

// Start runs a server. A single member answers when it returns; one of several
// may wait for the others for as long as it takes, and its clients with it. The
// error names the directory, the file or the address, and what to do.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = l
	}
	m, err := plan(o)
	if err != nil {
		return nil, err
	}
	lock, err := takeDir(o.Dir)
	if err != nil {
		return nil, err
	}
	phase := new(atomic.Int32)
	stop := &fatal{phase: phase, news: make(chan string, 1)}
	lg := zap.New(newBridge(o.Log, phase), zap.WithFatalHook(stop), zap.WithPanicHook(stop))
	e, err := launch(ctx, stop, func() (*embed.Etcd, error) {
		if len(m.peers) <= 1 {
			if err := removeUnborn(o.Dir, lg); err != nil {
				return nil, err
			}
		}
		return embed.StartEtcd(m.config(o, lg))
	})
	if err != nil {
		return nil, errors.Join(explain(err, o.Dir, m), lock.Close())
	}
	s := &Server{
		etcd: e, lock: lock, log: o.Log, endpoint: endpointOf(e.Clients, o.secure()), phase: phase,
		failed: make(chan error, 1), done: make(chan struct{}), closed: make(chan struct{}),
	}
	go s.listenForFailure()
	if len(m.peers) > 1 {
		phase.Store(running)
		s.waiting.Go(func() { s.tellReady(o.Dir) })
		return s, nil
	}
	if err := s.waitReady(ctx, o.Dir); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	phase.Store(running)
	return s, nil
}

// Endpoint is a URL at which this host reaches the server.
func (s *Server) Endpoint() string { return s.endpoint }

// Err gives one error if the server stops serving before Close.
func (s *Server) Err() <-chan error { return s.failed }

// Close ends the server after the requests that are under way, and gives the
// data directory free. Clients that don't let go are left to a goroutine that
// ends by itself: etcd would wait 6 s for them, and has been seen to wait for
// minutes when one of them hung. A second call does nothing.
func (s *Server) Close() error {
	if s.phase.Swap(ending) == ending {
		<-s.closed
		return nil
	}
	defer close(s.closed)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		closeEtcd(s.etcd)
	}()
	patience := time.NewTimer(endGently)
	defer patience.Stop()
	select {
	case <-gone:
		<-s.done
	case <-patience.C:
		s.etcd.Server.HardStop() // ends what is on the disk; idempotent
		for _, l := range s.etcd.Clients {
			_ = l.Close() // the port is free for the next one
		}
	}
	s.waiting.Wait()
	return s.lock.Close()
}

// closeEtcd ends a server whatever it is doing. One that is not ready has to be
// stopped first: Close would wait for it to serve.
func closeEtcd(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
	default:
		e.Server.HardStop()
	}
	e.Close()
}

func (s *Server) listenForFailure() {
	defer close(s.done)
	for err := range s.etcd.Err() {
		if err == nil {
			continue
		}
		select {
		case s.failed <- fmt.Errorf("embedded etcd: %w", err):
		default:
		}
	}
}

func (s *Server) waitReady(ctx context.Context, dir string) error {
	begun := time.Now()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.etcd.Server.ReadyNotify():
			return nil
		case err := <-s.failed:
			return err
		case <-s.etcd.Server.StopNotify():
			return fmt.Errorf("embedded etcd in %s stopped while it started", dir)
		case <-tick.C:
			s.log.WithField("dir", dir).WithField("since", time.Since(begun).Round(time.Second)).
				Info("waiting for the embedded etcd to get ready")
		case <-ctx.Done():
			return fmt.Errorf("wait for the embedded etcd in %s: %w", dir, ctx.Err())
		}
	}
}

// tellReady logs what a member of several waits for.
func (s *Server) tellReady(dir string) {
	log := s.log.WithField("dir", dir)
	late := time.NewTimer(progressEvery)
	defer late.Stop()
	for {
		select {
		case <-s.etcd.Server.ReadyNotify():
			log.Info("the embedded etcd is ready")
			return
		case <-s.etcd.Server.StoppingNotify():
			return
		case <-late.C:
			log.Warn("the embedded etcd waits for a majority of its members")
		}
	}
}

// takeDir makes the data directory and locks it: etcd itself would wait
// without end for a database that another process has open.
func takeDir(dir string) (*fileutil.LockedFile, error) {
	if dir == "" {
		return nil, errors.New("embedded etcd: no data directory is given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory of the embedded etcd: %w; choose one that can be written", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, fmt.Errorf("the data directory %s of the embedded etcd is in use by another process; "+
			"stop that, or choose another directory", dir)
	case err != nil:
		return nil, fmt.Errorf("lock the data directory of the embedded etcd: %w; choose one that can be written", err)
	}
	return lock, nil
}

// launch starts etcd. When it meets damaged data its goroutine may never end,
// nor its listeners close: the process is expected to.
func launch(ctx context.Context, stop *fatal, do func() (*embed.Etcd, error)) (*embed.Etcd, error) {
	type result struct {
		e   *embed.Etcd
		err error
	}
	started := make(chan result, 1)
	go func() {
		defer func() { // it follows nil pointers out of a write-ahead log that it can't read
			if r := recover(); r != nil {
				started <- result{err: &damaged{fmt.Sprint(r)}}
			}
		}()
		e, err := do()
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		return r.e, r.err
	case what := <-stop.news:
		return nil, &damaged{what}
	case <-ctx.Done():
	}
	// Nothing shall stay behind, and it ends by itself: asking dead members
	// takes longest.
	late := time.NewTimer(giveUpAfter)
	defer late.Stop()
	select {
	case r := <-started:
		if r.err == nil {
			closeEtcd(r.e)
		}
	case <-stop.news:
	case <-late.C:
	}
	return nil, ctx.Err()
}

// damaged is what etcd said when it could not go on with its data.
type damaged struct{ what string }

func (d *damaged) Error() string { return d.what }

// explain names what failed, and the next step.
func explain(err error, dir string, m member) error {
	var op *net.OpError
	var d *damaged
	switch {
	case errors.As(err, &op) && errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("embedded etcd: %w; stop what listens on %s, or choose another address", err, op.Addr)
	case errors.As(err, &op) && errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("embedded etcd: %w; %s is not an address of this host", err, op.Addr)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("embedded etcd in %s: %w; make the directory writable, or choose another", dir, err)
	case errors.As(err, &d):
		return fmt.Errorf("the data of the embedded etcd in %s can't be used (%w); restore the directory from a "+
			"backup, or move it away to begin anew: nodes that run take their leases again", dir, err)
	case strings.Contains(err.Error(), "already been bootstrapped"): // etcd has no error value for it
		return fmt.Errorf("embedded etcd in %s: the other members know %s as one that has data, and the directory has "+
			"none: %w; give it back its directory, or have an etcd of your own take its place (etcdctl member remove, "+
			"etcdctl member add)", dir, m.name, err)
	}
	return fmt.Errorf("start embedded etcd in %s on %s: %w", dir, join(m.clients), err)
}

func join(addrs []netip.AddrPort) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}
