package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/tlsfile"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
)

// storeFlags say where etcd is. Each takes its default from the environment, so
// that weftd's environment file serves weftctl too.
type storeFlags struct {
	endpoints, prefix, ca, cert, key string
	user, password, passwordFile     string
	timeout                          time.Duration
}

func (f *storeFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.endpoints, "etcd-endpoints", setting("ETCD_ENDPOINTS", "http://127.0.0.1:2379"),
		"comma-separated `URLs` of etcd")
	flags.StringVar(&f.prefix, "etcd-prefix", setting("ETCD_PREFIX", "/coreos.com/network"), "`key` of the overlay")
	flags.StringVar(&f.ca, "etcd-cafile", setting("ETCD_CAFILE", ""), "`file` with CA certificates")
	flags.StringVar(&f.cert, "etcd-certfile", setting("ETCD_CERTFILE", ""), "`file` with our certificate")
	flags.StringVar(&f.key, "etcd-keyfile", setting("ETCD_KEYFILE", ""), "`file` with its key")
	flags.StringVar(&f.user, "etcd-username", setting("ETCD_USERNAME", ""), "etcd user `name`")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for the store")
	flags.StringVar(&f.passwordFile, "etcd-password-file", setting("ETCD_PASSWORD_FILE", ""),
		"`file` with its password on one line; without it, WEFTD_ETCD_PASSWORD counts")
	f.password = setting("ETCD_PASSWORD", "") // by the environment only: a command line is public
}

// options say where etcd is. A file with the password goes before the
// environment's.
func (f *storeFlags) options() etcd.Options {
	o := etcd.Options{
		Endpoints: strings.Split(f.endpoints, ","), Prefix: f.prefix,
		CAFile: f.ca, CertFile: f.cert, KeyFile: f.key,
		Username: f.user, Password: f.password, PasswordFile: f.passwordFile,
	}
	if o.PasswordFile != "" {
		o.Password = ""
	}
	return o
}

// secrets are for an HTTPS request to etcd; nil if there are none, or they can't
// be read, of which the store itself complains.
func (f *storeFlags) secrets() *tls.Config {
	files := tlsfile.Files{CA: f.ca, Cert: f.cert, Key: f.key}
	if !files.Given() {
		return nil
	}
	reader, err := tlsfile.Open(files, "etcd", func(error) {})
	if err != nil {
		return nil
	}
	return reader.Config()
}

// with opens the store for one command.
func (f *storeFlags) with(ctx context.Context, do func(context.Context, *etcd.Store) error) error {
	store, err := etcd.New(f.options())
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := do(ctx, store); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("etcd at %s does not answer; is it up, and is --etcd-endpoints right? (%w)", f.endpoints, err)
		}
		return err
	}
	return nil
}

func newConfigCommand() *cobra.Command {
	var store storeFlags
	config := &cobra.Command{Use: "config", Short: "Read or write the overlay's network configuration in etcd"}
	store.register(config.PersistentFlags())
	config.AddCommand(&cobra.Command{
		Use:   "get",
		Short: "Print the network configuration",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return store.with(cmd.Context(), func(ctx context.Context, s *etcd.Store) error {
				raw, err := s.Config(ctx)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(string(raw)))
				return err
			})
		},
	})
	config.AddCommand(&cobra.Command{
		Use:   "set JSON|-",
		Short: "Check a network configuration and write it",
		Long: "Checks a network configuration and writes it. Nothing is written if it is not valid.\n" +
			"Nodes that run follow it, or refuse it whole and say why in their log and in weftctl status.",
		Example: `  weftctl config set '{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}'
  weftctl config set - < net-conf.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw := []byte(args[0])
			if args[0] == "-" {
				var err error
				if raw, err = io.ReadAll(cmd.InOrStdin()); err != nil {
					return fmt.Errorf("read the configuration: %w", err)
				}
			}
			return setConfig(cmd, &store, raw)
		},
	})
	return config
}

// checkBackend finds what every node would refuse.
func checkBackend(cfg subnet.Config) (warnings []string, err error) {
	if err := network.CheckBackend(cfg, "alloc", "host-gw", "vxlan"); err != nil {
		return nil, err
	}
	if cfg.Backend != "vxlan" {
		return nil, nil
	}
	_, warnings, err = vxlan.ParseOptions(cfg.BackendOptions)
	return warnings, err
}

func setConfig(cmd *cobra.Command, flags *storeFlags, raw []byte) error {
	cfg, err := subnet.ParseConfig(raw)
	if err != nil {
		return fmt.Errorf("the configuration is not valid, nothing was written: %w", err)
	}
	warnings, err := checkBackend(cfg)
	if err != nil {
		return fmt.Errorf("the configuration is not valid, nothing was written: %w", err)
	}
	for _, w := range append(cfg.Warnings, warnings...) {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
	}
	return flags.with(cmd.Context(), func(ctx context.Context, s *etcd.Store) error {
		if _, err := s.SetConfig(ctx, raw, false); err != nil {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "written")
		return err
	})
}
