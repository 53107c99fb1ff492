// Package embedded runs an etcd inside of the daemon, so that a cluster needs
// no other software: a single member, one data directory, on loopback and on
// what else it is told to listen on.
//
// It owns how that member is set up, kept small and ended. It refuses to be
// more than one member: a cluster that must survive the loss of a node runs an
// etcd of its own, and loses nothing by it.
package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	defaultListen = "127.0.0.1:2379"
	defaultName   = "weft"

	// quota bounds the database. A lease is some 500 bytes for each of the
	// versions that an hour keeps: 10,000 nodes stay below 50 MiB.
	quota = 512 << 20
	// One member has nobody to wait for: the shortest election that etcd
	// allows at its default heartbeat of 100 ms.
	electionMs    = 500
	progressEvery = 5 * time.Second
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
	// Listen is a list, parted by commas, of ADDRESS:PORT for clients. Loopback
	// is added, with the port of the first, unless it is covered already.
	// Empty: 127.0.0.1:2379. Port 0: any that is free.
	Listen string
	Name   string // of the member; empty: weft
	// AllowPlaintext permits addresses that other hosts can reach. There is
	// neither encryption nor a password: who reaches it, rules the network.
	AllowPlaintext bool
	Log            logrus.FieldLogger
}

// Server is a running etcd.
type Server struct {
	etcd     *embed.Etcd
	lock     *fileutil.LockedFile
	endpoint string
	log      logrus.FieldLogger
	failed   chan error
	done     chan struct{} // closed when failed has no writer any more
	phase    *atomic.Int32
}

// Start runs a server and waits until it answers. The error names the
// directory or the address, and what to do.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = l
	}
	addrs, err := listenAddrs(o.Listen, o.AllowPlaintext)
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
	e, err := launch(ctx, config(o, addrs, lg), stop)
	if err != nil {
		return nil, errors.Join(explain(err, o.Dir, addrs), lock.Close())
	}
	s := &Server{
		etcd: e, lock: lock, log: o.Log, endpoint: loopbackEndpoint(e.Clients), phase: phase,
		failed: make(chan error, 1), done: make(chan struct{}),
	}
	go s.listenForFailure()
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
// data directory free. A second call does nothing.
func (s *Server) Close() error {
	if s.phase.Swap(ending) == ending {
		<-s.done
		return nil
	}
	s.etcd.Close()
	<-s.done
	return s.lock.Close()
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

func config(o Options, addrs []netip.AddrPort, lg *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Dir, c.Name = o.Dir, o.Name
	if c.Name == "" {
		c.Name = defaultName
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	for _, a := range addrs {
		c.ListenClientUrls = append(c.ListenClientUrls, url.URL{Scheme: "http", Host: a.String()})
		c.AdvertiseClientUrls = append(c.AdvertiseClientUrls, url.URL{Scheme: "http", Host: reachable(a).String()})
	}
	// There are no peers, so nothing listens for them. The URL only goes into
	// the member's identity.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// The cluster's id is made of the member's URL and this token, of which
	// only a first start takes notice: a new one each time, so that clients
	// see a data directory that was begun anew for what it is.
	c.InitialClusterToken = rand.Text()
	c.ElectionMs = electionMs
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(lg)
	return c
}

// launch starts etcd. When it meets damaged data its goroutine may never end,
// nor its listeners close: the process is expected to.
func launch(ctx context.Context, c *embed.Config, stop *fatal) (*embed.Etcd, error) {
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
		e, err := embed.StartEtcd(c)
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		return r.e, r.err
	case what := <-stop.news:
		return nil, &damaged{what}
	case <-ctx.Done():
		go func() {
			if r := <-started; r.err == nil {
				r.e.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// damaged is what etcd said when it could not go on with its data.
type damaged struct{ what string }

func (d *damaged) Error() string { return d.what }

// explain names what failed, and the next step.
func explain(err error, dir string, addrs []netip.AddrPort) error {
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
	}
	return fmt.Errorf("start embedded etcd in %s on %s: %w", dir, join(addrs), err)
}

func join(addrs []netip.AddrPort) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}
