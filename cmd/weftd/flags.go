package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// settings are the values of all flags.
type settings struct {
	etcdEndpoints, etcdPrefix      string
	etcdKey, etcdCert, etcdCA      string
	etcdUser, etcdPassword         string
	iface                          list
	publicIP, publicIPv6           address
	subnetFile, stateDir, socket   string
	ipMasq, forwardRules, noRandom bool
	healthzIP                      string
	healthzPort                    int
	embedded, embeddedPlain        bool
	embeddedDir, embeddedListen    string
	network, network6              prefix
	logLevel, logFormat            string
	version                        bool
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// address is an IP address, or none.
type address struct{ netip.Addr }

func (a *address) String() string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr.String()
}

func (a *address) Set(s string) (err error) {
	if s == "" {
		a.Addr = netip.Addr{}
		return nil
	}
	a.Addr, err = netip.ParseAddr(s)
	return err
}

// prefix is a network in CIDR form, or none.
type prefix struct{ netip.Prefix }

func (p *prefix) String() string {
	if !p.IsValid() {
		return ""
	}
	return p.Prefix.String()
}

func (p *prefix) Set(s string) (err error) {
	if s == "" {
		p.Prefix = netip.Prefix{}
		return nil
	}
	p.Prefix, err = netip.ParsePrefix(s)
	return err
}

// usageError is a command line that can't be understood: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// group is a heading of the help text and the flags under it.
type group struct {
	title string
	flags []string
}

func groups() []group {
	return []group{
		{"Store: where the leases are kept", []string{
			"etcd-endpoints", "etcd-prefix", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "etcd-username", "etcd-password",
		}},
		{"Embedded store: this node runs the etcd server itself, the others point --etcd-endpoints at it", []string{
			"embedded-etcd", "embedded-etcd-data", "embedded-etcd-listen", "embedded-etcd-insecure", "network", "ipv6-network",
		}},
		{"Underlay: the interface and address that carry the tunnel", []string{"iface", "public-ip", "public-ipv6"}},
		{"Pods: what they get", []string{
			"subnet-file", "ip-masq", "ip-masq-fully-random-disable", "iptables-forward-rules",
		}},
		{"Running", []string{
			"state-dir", "socket", "healthz-ip", "healthz-port", "log-level", "log-format", "version",
		}},
	}
}

func (s *settings) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet("weftd", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned, and printed once
	fs.StringVar(&s.etcdEndpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379",
		"comma-separated `URLs` of etcd")
	fs.StringVar(&s.etcdPrefix, "etcd-prefix", "/coreos.com/network", "`key` under which configuration and leases lie")
	fs.StringVar(&s.etcdCA, "etcd-cafile", "", "`file` with the CA certificates to check etcd's certificate against")
	fs.StringVar(&s.etcdCert, "etcd-certfile", "", "`file` with our client certificate for etcd")
	fs.StringVar(&s.etcdKey, "etcd-keyfile", "", "`file` with the key of our client certificate")
	fs.StringVar(&s.etcdUser, "etcd-username", "", "etcd user `name`")
	fs.StringVar(&s.etcdPassword, "etcd-password", "", "its `password`; better given as WEFTD_ETCD_PASSWORD")
	fs.BoolVar(&s.embedded, "embedded-etcd", false, "run an etcd server in this process and use it")
	fs.StringVar(&s.embeddedDir, "embedded-etcd-data", "/var/lib/weft/etcd", "its data `directory`")
	fs.StringVar(&s.embeddedListen, "embedded-etcd-listen", "http://127.0.0.1:2379",
		"comma-separated `URLs` at which it serves clients")
	fs.BoolVar(&s.embeddedPlain, "embedded-etcd-insecure", false,
		"let it serve other machines without TLS: whoever reaches the port can rewrite the overlay")
	fs.Var(&s.network, "network", "with --embedded-etcd: IPv4 `CIDR` of a configuration to create if there is none")
	fs.Var(&s.network6, "ipv6-network", "the same for IPv6; both give dual stack")
	fs.Var(&s.iface, "iface", "`name or address` of the underlay interface, first match wins; may be repeated "+
		"(default: the interface of the best default route)")
	fs.Var(&s.publicIP, "public-ip", "IPv4 `address` that peers shall use for this node (default: that of the interface)")
	fs.Var(&s.publicIPv6, "public-ipv6", "IPv6 `address` that peers shall use for this node")
	fs.StringVar(&s.subnetFile, "subnet-file", "/run/flannel/subnet.env",
		"`file` for the CNI plugin, written when pods can be served")
	fs.BoolVar(&s.ipMasq, "ip-masq", false, "masquerade what pods send to outside of the overlay")
	fs.BoolVar(&s.noRandom, "ip-masq-fully-random-disable", false, "masquerade without random source ports")
	fs.BoolVar(&s.forwardRules, "iptables-forward-rules", true, "accept forwarded pod traffic in our own chain")
	fs.StringVar(&s.stateDir, "state-dir", "/var/lib/weft",
		"`directory` where our lease and the last snapshot outlive a reboot")
	fs.StringVar(&s.socket, "socket", "/run/weft/weftd.sock", "unix `socket` for weftctl; empty for none")
	fs.StringVar(&s.healthzIP, "healthz-ip", "0.0.0.0", "`address` of the health server")
	fs.IntVar(&s.healthzPort, "healthz-port", 0, "`port` of the health server with /healthz and /readyz; 0 for none")
	fs.StringVar(&s.logLevel, "log-level", "info", "`level`: error, warn, info or debug (each kernel write)")
	fs.StringVar(&s.logFormat, "log-format", "text", "`format`: text or json")
	fs.BoolVar(&s.version, "version", false, "print the version and exit")
	return fs
}

// parse reads the command line, then the environment for what it does not
// name: WEFTD_IFACE before FLANNELD_IFACE for --iface.
func parse(args []string, env func(string) (string, bool)) (settings, *flag.FlagSet, error) {
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
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		if given[f.Name] {
			return
		}
		for _, name := range envNames(f.Name) {
			if value, ok := env(name); ok {
				if err := fs.Set(f.Name, value); err != nil {
					errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, value, err))
				}
				return
			}
		}
	})
	errs = append(errs, s.check())
	if err := errors.Join(errs...); err != nil {
		return s, fs, &usageError{err}
	}
	return s, fs, nil
}

func envNames(flagName string) []string {
	name := strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
	return []string{"WEFTD_" + name, "FLANNELD_" + name}
}

// check finds what no waiting can heal.
func (s *settings) check() error {
	var errs []error
	if !s.embedded && (s.network.IsValid() || s.network6.IsValid()) {
		errs = append(errs, errors.New("--network and --ipv6-network go with --embedded-etcd; "+
			"for another etcd use: weftctl config set"))
	}
	if (s.etcdCert == "") != (s.etcdKey == "") {
		errs = append(errs, errors.New("--etcd-certfile and --etcd-keyfile go together: give both or none"))
	}
	if s.publicIP.IsValid() && !s.publicIP.Is4() {
		errs = append(errs, fmt.Errorf("--public-ip %s: not an IPv4 address; use --public-ipv6", s.publicIP.Addr))
	}
	if s.publicIPv6.IsValid() && !s.publicIPv6.Is6() {
		errs = append(errs, fmt.Errorf("--public-ipv6 %s: not an IPv6 address; use --public-ip", s.publicIPv6.Addr))
	}
	if s.healthzPort < 0 || s.healthzPort > 65535 {
		errs = append(errs, fmt.Errorf("--healthz-port %d: a port is 0 to 65535", s.healthzPort))
	}
	return errors.Join(errs...)
}

const intro = `weftd joins this machine to a VXLAN overlay: it leases a pod subnet, programs the
kernel so that pods on all nodes reach each other by their own addresses, and writes
the subnet file that the CNI plugin reads.

  weftd --etcd-endpoints http://10.0.0.1:2379 --iface eth0 --ip-masq

The first node can be the store as well:

  weftd --embedded-etcd --embedded-etcd-listen http://10.0.0.1:2379 \
        --embedded-etcd-insecure --network 10.42.0.0/16 --iface eth0 --ip-masq

Each flag can be given in the environment: --iface as WEFTD_IFACE or FLANNELD_IFACE.
One dash or two are the same. Stopping weftd leaves the kernel as it is: packets go on.
`

// usage prints the help text; every flag is in one group.
func usage(out io.Writer, fs *flag.FlagSet) {
	_, _ = fmt.Fprint(out, intro)
	for _, g := range groups() {
		_, _ = fmt.Fprintf(out, "\n%s\n", g.title)
		for _, name := range g.flags {
			f := fs.Lookup(name)
			value, text := flag.UnquoteUsage(f)
			head := "--" + name
			if value != "" {
				head += " " + value
			}
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
				text += " (default " + f.DefValue + ")"
			}
			_, _ = fmt.Fprintf(out, "  %s\n        %s\n", head, text)
		}
	}
}
