// Package etcd keeps the cluster's configuration and leases in etcd v3, under
// the keys and in the form that flannel uses, so that both kinds of node work
// side by side.
//
//	PREFIX/config           the network configuration
//	PREFIX/subnets/KEY      one lease, attached to an etcd lease of a day; a
//	                        reservation has none, and stays until it is deleted
//
// It owns the wire form (codec.go), the watch that survives what happens to a
// store, and the ways in which a lease is won, announced and kept. It refuses
// to judge a lease: that is subnet.Admit's business, and what was ours,
// subnet.Mine's. How an etcd is run inside of the daemon is embedded's.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/weftnet/weft/pkg/tlsfile"
	"github.com/weftnet/weft/subnet"
)

const (
	defaultPrefix = "/coreos.com/network"
	defaultTTL    = 24 * time.Hour
)

// Options say where the store is and who we are to it.
type Options struct {
	Endpoints []string // URLs, all http or all https, or HOST:PORT
	// Prefix of all keys; empty: /coreos.com/network. Slashes are as in flannel:
	// one at the end has no meaning, one at the beginning is part of the keys.
	Prefix string
	// CAFile alone makes TLS with that authority; CertFile and KeyFile, which
	// go together, add a client certificate. All are PEM. An https endpoint
	// without them trusts the system's authorities.
	CertFile, KeyFile, CAFile string
	Username, Password        string
	PasswordFile              string        // holds the password on one line, in place of Password
	TTL                       time.Duration // of a lease that we make, whole seconds; 0: 24 h
	// RenewMargin is how much of its life our lease has left at the least, as
	// long as etcd answers; a warning is logged when it has less. Up to two
	// thirds of its life that is so by itself.
	RenewMargin time.Duration
	// Took hears of each request that ended: what it asked for, in one of a few
	// words, how long it took, and whether it failed. It must not block, and be
	// safe for concurrent use; nil: nobody hears.
	Took func(op string, took time.Duration, err error)
	Log  logrus.FieldLogger
}

// Store is subnet.Store on etcd.
type Store struct {
	opts   Options
	log    logrus.FieldLogger
	config clientv3.Config

	onOutage         func(error)
	renewed, expires atomic.Int64 // Unix seconds, of the lease that is held; 0: none is, or it has no end

	life    context.Context // ends with Close
	close   context.CancelFunc
	dialing mutex // guards client
	client  *clientv3.Client

	// viewing guards followed, the view that a Watch keeps current, and what is
	// in it; nil while there is none.
	viewing  sync.Mutex
	followed *view

	// publishing guards written: what this Store has published under an ID,
	// and what it perhaps has, as the answer was lost.
	publishing mutex
	written    map[string][]subnet.Lease
}

var _ subnet.Store = (*Store)(nil)

// LeaseLife gives when the lease that is held was renewed last and when it ends;
// zero times if none is, and for a reservation.
func (s *Store) LeaseLife() (renewed, expires time.Time) {
	if at := s.expires.Load(); at != 0 {
		return time.Unix(s.renewed.Load(), 0), time.Unix(at, 0)
	}
	return renewed, expires
}

// OnOutage has somebody told when etcd can't be followed, and with nil when it
// can again. The function must not block. It must be called before Watch.
func (s *Store) OnOutage(tell func(error)) { s.onOutage = tell }

// errClosed is what a call gives after Close.
var errClosed = errors.New("the connection to etcd was closed by this process")

// New checks the options and reads the certificates. It does not wait for
// etcd, nor need it: every call does so itself.
func New(o Options) (*Store, error) {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	given := o.Prefix
	o.Prefix = path.Clean(given)
	if o.Prefix == "." || strings.HasPrefix(o.Prefix, "..") {
		return nil, fmt.Errorf("etcd prefix %q names no key; use one such as %s", given, defaultPrefix)
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.TTL < time.Second {
		return nil, fmt.Errorf("etcd lease TTL %s is below one second", o.TTL)
	}
	if err := checkEndpoints(o.Endpoints); err != nil {
		return nil, err
	}
	if o.PasswordFile != "" {
		var err error
		if o.Password, err = readPassword(o); err != nil {
			return nil, err
		}
	}
	s := &Store{
		opts: o, log: o.Log,
		dialing: make(mutex, 1), publishing: make(mutex, 1), written: map[string][]subnet.Lease{},
	}
	s.life, s.close = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = quiet()
	}
	if err := tlsfile.Exposed(o.PasswordFile); err != nil {
		s.log.WithError(err).Warn("etcd's password is open to read")
	}
	secure, err := s.transport(tlsfile.Files{CA: o.CAFile, Cert: o.CertFile, Key: o.KeyFile})
	if err != nil {
		return nil, err
	}
	s.config = clientv3.Config{
		Endpoints: slices.Clone(o.Endpoints),
		Username:  o.Username,
		Password:  o.Password,
		// DialTimeout bounds the login, which New of clientv3 waits for.
		DialTimeout: requestTimeout,
		// A peer that vanished without a word is found out in 30 s.
		DialKeepAliveTime:    20 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(), // one line for each try of each request; what matters we log ourselves
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(secure), // in place of clientv3's, which reads a CA file only once
			grpc.WithChainUnaryInterceptor(rememberCause),
			grpc.WithChainStreamInterceptor(announceStream),
			// gRPC's own would wait up to two minutes.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay: waitFirst, Multiplier: 2, Jitter: 0.3, MaxDelay: waitLongest,
				},
				MinConnectTimeout: connectTimeout,
			}),
		},
	}
	if o.Took != nil {
		s.config.DialOptions = append(s.config.DialOptions, grpc.WithStatsHandler(timer{o.Took}))
	}
	return s, nil
}

// Close ends the connection; calls that are under way fail.
func (s *Store) Close() error {
	s.close()
	s.dialing <- struct{}{}
	defer s.dialing.unlock()
	if s.client == nil {
		return nil
	}
	err := s.client.Close()
	s.client = nil
	if errors.Is(err, context.Canceled) { // its way to say that it is done
		return nil
	}
	return err
}

// Moved says that an address of this host is gone. A connection from it would
// get no answer and not know it for long, so all are made anew. What is under
// way fails, and is tried again.
func (s *Store) Moved() {
	select {
	case s.dialing <- struct{}{}:
		defer s.dialing.unlock()
	default:
		return // one is just being made
	}
	if s.client != nil {
		_ = s.client.Close() // nothing is left to do about it
		s.client = nil
	}
}

// dial gives the client. With a user name the client logs in while it is
// made, and can't be made while etcd is away: hence here and not in New.
func (s *Store) dial(ctx context.Context) (*clientv3.Client, error) {
	if err := s.dialing.lock(ctx); err != nil {
		return nil, err
	}
	defer s.dialing.unlock()
	if s.life.Err() != nil {
		return nil, errClosed
	}
	if s.client != nil {
		return s.client, nil
	}
	// The client lives as long as the context that it is made with: the
	// caller's ends the making of it, and nothing later.
	config := s.config
	life, cancel := context.WithCancel(s.life)
	config.Context = life
	keep := context.AfterFunc(ctx, cancel)
	c, err := clientv3.New(config)
	switch {
	case err != nil:
		keep()
		cancel()
		return nil, err
	case !keep():
		return nil, errors.Join(ctx.Err(), c.Close())
	}
	s.client = c
	return c, nil
}

// follow replaces a view that a Watch kept current; next is nil if it does no more.
func (s *Store) follow(was, next *view) {
	s.viewing.Lock()
	defer s.viewing.Unlock()
	if next != nil || s.followed == was {
		s.followed = next
	}
}

// lately is what a Watch saw last, or nil.
func (s *Store) lately() *view {
	s.viewing.Lock()
	defer s.viewing.Unlock()
	if s.followed == nil {
		return nil
	}
	return s.followed.clone()
}

func (s *Store) configKey() string    { return path.Join(s.opts.Prefix, "config") }
func (s *Store) leasesKey() string    { return path.Join(s.opts.Prefix, "subnets") + "/" }
func (s *Store) rootKey() string      { return strings.TrimSuffix(s.opts.Prefix, "/") + "/" }
func (s *Store) ttlSeconds() int64    { return int64(s.opts.TTL / time.Second) }
func (s *Store) endpoints() string    { return strings.Join(s.opts.Endpoints, ", ") }
func (s *Store) newView() *view       { return newView(s.configKey(), s.leasesKey()) }
func (s *Store) key(id string) string { return s.leasesKey() + id }

// readPassword reads the password's file. No error says what is in it.
func readPassword(o Options) (string, error) {
	if o.Password != "" {
		return "", errors.New("an etcd password and a file with one are given: one of them is too many")
	}
	raw, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the etcd password: %w", err)
	}
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("read the etcd password: %s must hold it on one line", o.PasswordFile)
	}
	return password, nil
}
