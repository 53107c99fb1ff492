package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/tunnel"
)

// parse reads the command line, then the environment for what that does not
// say, WEFTD_IFACE before FLANNELD_IFACE for --iface, then the file of
// --config for what neither does. An empty variable says nothing, as with
// flannel.
func parse(args, environ []string) (settings, *flag.FlagSet, error) {
	var s settings
	fs := s.flagSet()
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return s, fs, err
		}
		return s, fs, &usageError{err}
	}
	if fs.NArg() > 0 {
		return s, fs, &usageError{fmt.Errorf("unexpected argument %q: weftd takes flags only", fs.Arg(0))}
	}
	if s.version { // says the version, whatever else is wrong
		return s, fs, nil
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	tie(given)
	errEnviron := s.fromEnviron(fs, environ, given)
	tie(given)
	s.nodeFrom(environ)
	err := errors.Join(errEnviron, s.fromFile(fs, given), s.check())
	if err != nil {
		return s, fs, &usageError{err}
	}
	return s, fs, nil
}

// tie makes the two ways to give the password one setting: who says one of them
// goes before whoever comes later and says the other.
func tie(given map[string]bool) {
	const inline, file = "etcd-password", "etcd-password-file"
	if given[inline] || given[file] {
		given[inline], given[file] = true, true
	}
}

// fromEnviron sets the flags that are not given, and notes them as given.
func (s *settings) fromEnviron(fs *flag.FlagSet, environ []string, given map[string]bool) error {
	values := map[string]string{}
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); value != "" {
			values[name] = value
		}
	}
	var errs []error
	known := map[string]bool{}
	fs.VisitAll(func(f *flag.Flag) {
		for _, name := range envNames(f.Name) {
			known[name] = true
			value, ok := values[name]
			if !ok || given[f.Name] {
				continue
			}
			given[f.Name] = true
			if err := set(f, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, value, err))
			}
		}
	})
	for name := range values {
		if (strings.HasPrefix(name, "WEFTD_") || strings.HasPrefix(name, "FLANNELD_")) && !known[name] {
			s.ignored = append(s.ignored, name)
		}
	}
	slices.Sort(s.ignored)
	return errors.Join(errs...)
}

// set sets a flag, and says what is wrong where package flag does not.
func set(f *flag.Flag, value string) error {
	err := f.Value.Set(value)
	if err == nil {
		return nil
	}
	switch kindOf(f) {
	case truth:
		return errors.New("not true or false")
	case number:
		return errors.New("not a whole number")
	}
	return err
}

// kind is what a flag's value is.
type kind int

const (
	text kind = iota
	truth
	number
	several // texts
)

func kindOf(f *flag.Flag) kind {
	switch v := f.Value.(type) {
	case *list, *patterns, *urls:
		return several
	case flag.Getter:
		switch v.Get().(type) {
		case bool:
			return truth
		case int:
			return number
		}
	}
	return text
}

// check finds what no waiting can heal.
func (s *settings) check() error {
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(!s.embedded && (s.network.IsValid() || s.network6.IsValid()),
		"--network and --ipv6-network go with --embedded-etcd; for another etcd use: weftctl config set")
	wrong(!s.embedded && s.server.Peers+s.server.Name+s.server.CertFile+s.server.KeyFile+s.server.CAFile != "",
		"--embedded-etcd-peers, -name, -certfile, -keyfile and -cafile go with --embedded-etcd")
	wrong(s.kube && s.embedded, "--kube-subnet-mgr and --embedded-etcd: the leases are in one of them")
	wrong((s.etcdCert == "") != (s.etcdKey == ""),
		"--etcd-certfile and --etcd-keyfile go together: give both or none")
	wrong(slices.ContainsFunc(s.etcdEndpoints, func(e string) bool { return strings.Contains(e, "@") }),
		"--etcd-endpoints holds a user name or a password: give them as --etcd-username and --etcd-password-file")
	wrong(s.etcdPassword != "" && s.etcdPasswordFile != "",
		"--etcd-password and --etcd-password-file: give one of them")
	wrong((s.etcdUser == "") != (s.etcdPassword == "" && s.etcdPasswordFile == ""),
		"--etcd-username and its password go together: give both or none")
	wrong(s.publicIP.IsValid() && !s.publicIP.Is4(),
		"--public-ip %s: not an IPv4 address; use --public-ipv6", s.publicIP.Addr)
	wrong(s.publicIPv6.IsValid() && !s.publicIPv6.Is6(),
		"--public-ipv6 %s: not an IPv6 address; use --public-ip", s.publicIPv6.Addr)
	wrong((s.cni.Source == "") != (s.cni.Target == "") || (s.cni.Source == "") != (s.cni.BinDir == ""),
		"--cni-conf, --cni-conf-file and --cni-bin-dir go together: give all or none")
	wrong(s.cni.Plugin != "" && s.cni.Source == "", "--cni-plugin goes with --cni-conf, --cni-conf-file and --cni-bin-dir")
	wrong(s.healthzPort < 0 || s.healthzPort > 65535, "--healthz-port %d: a port is 0 to 65535", s.healthzPort)
	wrong(s.probeInterval != 0 && s.probeInterval < time.Millisecond,
		"--probe-interval %s: must be 1ms or more, or 0 for no probes", s.probeInterval)
	wrong(s.resync < 1, "--iptables-resync %d: must be 1 second or more", s.resync)
	wrong(!checksum.Mode(s.checksums).Known(), "--vxlan-checksum-offload %q: use auto, on or off", s.checksums)
	wrong(!tunnel.Filter(s.filter).Known(), "--vxlan-filter %q: use strict, vtep-only or off", s.filter)
	wrong(!slices.Contains([]string{"error", "warn", "info", "debug"}, s.logLevel),
		"--log-level %q: use error, warn, info or debug", s.logLevel)
	wrong(s.logFormat != "text" && s.logFormat != "json", "--log-format %q: use text or json", s.logFormat)
	return errors.Join(errs...)
}

// onCommandLine tells whether a flag was given there, with one dash or two.
func onCommandLine(args []string, name string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		given, _, _ := strings.Cut(arg, "=")
		return given == "-"+name || given == "--"+name
	})
}

// changed are the settings that are not as by default, for the log: a secret
// only as being set.
func changed(fs *flag.FlagSet) map[string]any {
	out := map[string]any{}
	fs.VisitAll(func(f *flag.Flag) {
		switch value := f.Value.String(); {
		case value == f.DefValue:
		case f.Name == "etcd-password":
			out[f.Name] = "set"
		default:
			out[f.Name] = value
		}
	})
	return out
}
