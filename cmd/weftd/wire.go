package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/extension"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/commands/runner"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/health"
	"github.com/weftnet/weft/pkg/logging"
	"github.com/weftnet/weft/pkg/metrics"
	"github.com/weftnet/weft/pkg/ping"
	"github.com/weftnet/weft/pkg/version"
	"github.com/weftnet/weft/subnet/etcd"
	"github.com/weftnet/weft/subnet/etcd/embedded"
)

// run is the whole program: it parses, builds, and runs until ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	s, fs, err := parse(args, environ)
	if errors.Is(err, flag.ErrHelp) {
		usage(stdout, fs)
	}
	if err != nil {
		return err
	}
	if s.version {
		_, err := fmt.Fprintln(stderr, version.String()) // to stderr, as flannel does
		return err
	}
	log, err := logging.New(stderr, logging.Options{
		Level: s.logLevel, JSON: s.logFormat == "json",
		Verbosity: s.verbosity, Modules: s.modules.Modules, TraceAt: s.traceAt.Place,
	})
	if err != nil {
		return &usageError{err}
	}
	log.WithField("version", version.Short()).WithFields(changed(fs)).Info("weftd starts")
	if len(s.ignored) > 0 {
		log.WithField("variables", s.ignored).Warn("these environment variables are no settings of weftd")
	}
	if onCommandLine(args, "etcd-password") {
		log.Warn("the etcd password is on the command line, where ps shows it to everybody on this host: " +
			"use --etcd-password-file or WEFTD_ETCD_PASSWORD")
	}
	if err := s.minutes(); err != nil {
		return err
	}
	return serve(ctx, s, log)
}

// serve builds the parts and runs them.
func serve(ctx context.Context, s settings, log logrus.FieldLogger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	state := health.New()
	g.Go(func() error { return thrift(ctx, state) })
	if s.healthzPort != 0 {
		addr := net.JoinHostPort(s.healthzIP, strconv.Itoa(s.healthzPort))
		g.Go(func() error { return health.Serve(ctx, addr, state) })
	}
	if s.embedded {
		server, err := startEmbedded(ctx, s, log)
		if err != nil {
			return err
		}
		defer server.Close()
		s.useServer(server.Endpoint())
		g.Go(func() error { return served(ctx, server) })
	}
	var took metrics.Meter
	store, err := openStore(s, &took, log)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	if etcdStore, ok := store.(*etcd.Store); ok {
		g.Go(func() error { return s.createConfig(ctx, etcdStore, log) })
	}
	kernel, pods, err := s.kernel()
	if err != nil {
		return err
	}
	o := s.options()
	o.Store, o.Kernel, o.Pods, o.Commands, o.Health, o.Log = store, kernel, pods, s.commands(log), state, log
	o.StoreTook = took.Read
	node := network.New(o)
	if s.cni.Source != "" {
		c := newCNIKeeper(state, store, node.LookAgain, log)
		g.Go(func() error { return c.run(ctx, s.cni) })
	}
	if s.metricsAddr != "" {
		g.Go(func() error { return s.serveMetrics(ctx, node, log) })
	}
	if at := s.uiAddr.String(); at != "" {
		g.Go(func() error { return serveUI(ctx, at, node, log) })
	}
	g.Go(func() error { return node.Run(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// served ends with the embedded etcd, or with ctx.
func served(ctx context.Context, server *embedded.Server) error {
	select {
	case err := <-server.Err():
		return fmt.Errorf("embedded etcd stopped: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// kernel opens that of the namespace which weftd runs in.
func (s *settings) kernel() (*linux.Kernel, *linux.Pods, error) {
	where := linux.Options{Resync: time.Duration(s.resync) * time.Second, SysctlDir: s.sysctlDir}
	kernel, err := linux.New(where)
	if err != nil {
		return nil, nil, err
	}
	pods, err := linux.NewPods(where)
	return kernel, pods, err
}

// options are those that settings alone decide.
func (s *settings) options() network.Options {
	return network.Options{
		Attachments:   attachment.Dir(s.attachments),
		Backends:      s.backends(),
		Wish:          s.wish(),
		Masquerade:    s.ipMasq,
		Forward:       s.forwardRules,
		Blackhole:     s.blackhole,
		FullyRandom:   !s.noRandom,
		Tunnel:        network.TunnelOptions{Filter: tunnel.Filter(s.filter), Untrack: s.notrack},
		Checksums:     checksum.Options{Mode: checksum.Mode(s.checksums), Knock: ping.Knock},
		SubnetFile:    s.subnetFile,
		StateDir:      s.stateDir,
		Socket:        s.socket,
		Pings:         s.pings,
		ProbeInterval: s.probeInterval,
	}
}

// serveMetrics warns where others than this host get them.
func (s *settings) serveMetrics(ctx context.Context, node *network.Node, log logrus.FieldLogger) error {
	addr := s.metricsAddr.String()
	if s.metricsAddr.open() {
		log.WithField("metrics-addr", addr).
			Warn("whoever reaches this host can read its metrics; 127.0.0.1 is for this machine only")
	}
	return metrics.Serve(ctx, addr, node.Metrics)
}

// pings opens the sockets that the paths to peers are probed with.
func (s *settings) pings() (probe.Pinger, error) {
	var cookie [8]byte
	_, _ = rand.Read(cookie[:]) // never fails (crypto/rand, Go 1.24)
	return ping.Open(s.sysctlDir, cookie)
}

// backends are those that a configuration may name.
func (s *settings) backends() map[string]backend.Backend {
	all := map[string]backend.Backend{"vxlan": vxlan.New(), "host-gw": hostgw.New(), "alloc": alloc.New()}
	if s.extension {
		all["extension"] = extension.New()
	}
	return all
}

// commands runs the programs of backends. What was run before is in the state
// directory, also what a backend of before had run.
func (s *settings) commands(log logrus.FieldLogger) *runner.Runner {
	if !s.extension {
		return nil
	}
	boot, errBoot := runner.BootID()
	r, err := runner.New(runner.Options{Dir: network.CommandsDir(s.stateDir), Boot: boot})
	if err = errors.Join(errBoot, err); err != nil {
		log.WithError(err).Warn("not all is known that commands of the network configuration have done")
	}
	return r
}

func openEtcd(s settings, took *metrics.Meter, log logrus.FieldLogger) (*etcd.Store, error) {
	return etcd.New(etcd.Options{
		Endpoints: s.etcdEndpoints,
		Prefix:    s.etcdPrefix,
		CAFile:    s.etcdCA, CertFile: s.etcdCert, KeyFile: s.etcdKey,
		Username: s.etcdUser, Password: s.etcdPassword, PasswordFile: s.etcdPasswordFile,
		RenewMargin: time.Duration(s.renewMargin) * time.Minute,
		Took:        took.Observe,
		Log:         log,
	})
}

// wish is what the flags say of the uplink.
func (s *settings) wish() uplink.Wish {
	w := uplink.Wish{Ifaces: s.iface, Regex: s.ifaceRegex, CanReach: s.ifaceCanReach.Addr}
	for _, a := range []address{s.publicIP, s.publicIPv6} {
		if a.IsValid() {
			w.Public = append(w.Public, a.Addr)
		}
	}
	return w
}

// networkConfig is the network configuration that --network and --ipv6-network ask
// for, or nil.
func (s *settings) networkConfig() []byte {
	if !s.network.IsValid() && !s.network6.IsValid() {
		return nil
	}
	type options struct{ Type string }
	cfg := struct {
		EnableIPv4  *bool  `json:",omitempty"`
		EnableIPv6  bool   `json:",omitempty"`
		Network     string `json:",omitempty"`
		IPv6Network string `json:",omitempty"`
		Backend     options
	}{
		Network: s.network.String(), IPv6Network: s.network6.String(),
		EnableIPv6: s.network6.IsValid(), Backend: options{"vxlan"},
	}
	if !s.network.IsValid() {
		off := false
		cfg.EnableIPv4 = &off
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil // strings and booleans always encode
	}
	return raw
}
