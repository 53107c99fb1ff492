package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
	"github.com/weftnet/weft/subnet/etcd/embedded"
)

func (s *settings) embeddedFlags(fs *flag.FlagSet) {
	fs.BoolVar(&s.embedded, "embedded-etcd", false, "run an etcd server in this process and use it")
	fs.StringVar(&s.server.Dir, "embedded-etcd-data", "/var/lib/weft/etcd", "its data `directory`")
	fs.StringVar(&s.server.Listen, "embedded-etcd-listen", "127.0.0.1:2379",
		"comma-separated `addresses` with port, or URLs, at which it serves clients")
	fs.StringVar(&s.server.CertFile, "embedded-etcd-certfile", "",
		"`file` with its certificate: it speaks TLS, to clients and to members with https URLs")
	fs.StringVar(&s.server.KeyFile, "embedded-etcd-keyfile", "", "`file` with the key of its certificate")
	fs.StringVar(&s.server.CAFile, "embedded-etcd-cafile", "",
		"`file` with CA certificates: clients and members must show a certificate by one of them")
	fs.BoolVar(&s.server.AllowPlaintext, "embedded-etcd-insecure", false,
		"let it serve other machines without TLS: whoever reaches the port can rewrite the overlay")
	fs.StringVar(&s.server.Peers, "embedded-etcd-peers", "",
		"`NAME=URL,…` of all members, the same on each: it is one of several, such as three, of which one may be lost")
	fs.StringVar(&s.server.Name, "embedded-etcd-name", "", "`name` of this member in it (default: weft)")
	fs.Var(&s.network, "network", "with --embedded-etcd: IPv4 `CIDR` of a configuration to create if there is none")
	fs.Var(&s.network6, "ipv6-network", "the same for IPv6, an IPv6 `CIDR`; both give dual stack")
}

func startEmbedded(ctx context.Context, s settings, log logrus.FieldLogger) (*embedded.Server, error) {
	if raw := s.networkConfig(); raw != nil {
		if _, err := subnet.ParseConfig(raw); err != nil { // no waiting heals this
			return nil, &usageError{fmt.Errorf("--network: %w", err)}
		}
	}
	s.server.Log = log
	return embedded.Start(ctx, s.server)
}

// useServer makes the server of this process our store. Its own certificate is
// known to us: it needs no authority, and where clients must show one, it is
// ours as well.
func (s *settings) useServer(endpoint string) {
	s.etcdEndpoints = urls{endpoint}
	if s.server.CertFile == "" {
		return
	}
	if s.etcdCA == "" {
		s.etcdCA = s.server.CAFile
	}
	if s.etcdCA == "" {
		s.etcdCA = s.server.CertFile
	}
	if s.etcdCert == "" && s.server.CAFile != "" {
		s.etcdCert, s.etcdKey = s.server.CertFile, s.server.KeyFile
	}
}

// createConfig writes what --network asks for if the store has none yet. It
// tries until it knows: a server may have to wait for other members.
func (s *settings) createConfig(ctx context.Context, store *etcd.Store, log logrus.FieldLogger) error {
	raw := s.networkConfig()
	if raw == nil {
		return nil
	}
	const pause = time.Second
	for said := false; ; said = true {
		created, err := store.SetConfig(ctx, raw, true)
		if created {
			log.WithField("config", string(raw)).Info("network configuration created")
		}
		if err == nil {
			return nil
		}
		if !said && ctx.Err() == nil {
			log.WithError(err).Warn("the network configuration of --network is not created yet; trying again")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
