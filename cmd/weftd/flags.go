package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cnifiles"
	"github.com/weftnet/weft/subnet/etcd/embedded"
	"github.com/weftnet/weft/subnet/kube"
)

// settings are the values of all flags.
type settings struct {
	config                         string
	etcdEndpoints                  urls
	etcdPrefix                     string
	etcdKey, etcdCert, etcdCA      string
	etcdUser, etcdPassword         string
	etcdPasswordFile               string
	renewMargin                    int
	iface                          list
	ifaceRegex                     patterns
	ifaceCanReach                  address
	publicIP, publicIPv6           address
	subnetFile, stateDir, socket   string
	attachments                    string
	sysctlDir                      string
	ipMasq, forwardRules, noRandom bool
	blackhole                      bool
	extension                      bool
	resync                         int
	filter                         string
	notrack                        bool
	checksums                      string
	healthzIP                      string
	healthzPort                    int
	metricsAddr                    hostPort
	uiAddr                         localPort
	probeInterval                  time.Duration
	embedded                       bool
	server                         embedded.Options
	kube                           bool
	kubeOptions                    kube.Options
	cni                            cnifiles.Options
	network, network6              prefix
	logLevel, logFormat            string
	verbosity                      int
	modules                        modules
	traceAt                        place
	version                        bool

	ignored []string // environment variables that are no settings, though named like one
}

// group is a heading of the help text and the flags under it.
type group struct {
	title string
	flags []string
}

func groups() []group {
	return []group{
		{"Store: where the leases are kept", []string{
			"etcd-endpoints", "etcd-prefix", "etcd-cafile", "etcd-certfile", "etcd-keyfile",
			"etcd-username", "etcd-password", "etcd-password-file", "subnet-lease-renew-margin",
		}},
		{"Embedded store: this node runs the etcd server itself, the others point --etcd-endpoints at it", []string{
			"embedded-etcd", "embedded-etcd-data", "embedded-etcd-listen",
			"embedded-etcd-cafile", "embedded-etcd-certfile", "embedded-etcd-keyfile", "embedded-etcd-insecure",
			"embedded-etcd-peers", "embedded-etcd-name", "network", "ipv6-network",
		}},
		{"Kubernetes: the leases are in its Nodes, the network configuration is in a file", []string{
			"kube-subnet-mgr", "kube-api-url", "kubeconfig-file", "kube-annotation-prefix", "net-config-path",
			"set-node-network-unavailable",
		}},
		{"Underlay: the interface and address that carry the tunnel", []string{
			"iface", "iface-regex", "iface-can-reach", "public-ip", "public-ipv6",
		}},
		{"Pods: what they get", []string{
			"subnet-file", "ip-masq", "ip-masq-fully-random-disable", "iptables-forward-rules", "iptables-resync",
			"ip-blackhole-route", "attachments-dir", "extension-commands",
		}},
		{"Tunnel: its own packets, on the underlay", []string{"vxlan-filter", "vxlan-notrack", "vxlan-checksum-offload"}},
		{"CNI files: installed once pods can be served, and again when somebody removes them", []string{
			"cni-conf", "cni-conf-file", "cni-bin-dir", "cni-plugin",
		}},
		{"Running", []string{
			"config", "state-dir", "socket", "sysctl-dir", "healthz-ip", "healthz-port",
			"metrics-addr", "ui-addr", "probe-interval", "log-level", "log-format",
			"v", "vmodule", "log_backtrace_at", "version",
		}},
	}
}

func (s *settings) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet("weftd", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned, and printed once
	s.storeFlags(fs)
	s.kubeFlags(fs)
	s.embeddedFlags(fs)
	s.nodeFlags(fs)
	s.cniFlags(fs)
	s.runningFlags(fs)
	return fs
}

func (s *settings) storeFlags(fs *flag.FlagSet) {
	s.etcdEndpoints = urls{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}
	fs.Var(&s.etcdEndpoints, "etcd-endpoints", "comma-separated `URLs` of etcd")
	fs.StringVar(&s.etcdPrefix, "etcd-prefix", "/coreos.com/network", "`key` under which configuration and leases lie")
	fs.StringVar(&s.etcdCA, "etcd-cafile", "", "`file` with the CA certificates to check etcd's certificate against")
	fs.StringVar(&s.etcdCert, "etcd-certfile", "", "`file` with our client certificate for etcd")
	fs.StringVar(&s.etcdKey, "etcd-keyfile", "", "`file` with the key of our client certificate")
	fs.StringVar(&s.etcdUser, "etcd-username", "", "etcd user `name`")
	fs.StringVar(&s.etcdPassword, "etcd-password", "",
		"its `password`; a command line is public, better is WEFTD_ETCD_PASSWORD or --etcd-password-file")
	fs.StringVar(&s.etcdPasswordFile, "etcd-password-file", "", "`file` with the password, on one line")
	fs.IntVar(&s.renewMargin, "subnet-lease-renew-margin", 60,
		"our lease is renewed when `minutes` of its 24 hours are left, or earlier: 1 to 1439")
}

func (s *settings) nodeFlags(fs *flag.FlagSet) {
	fs.Var(&s.iface, "iface", "`name or address` of the underlay interface, first match wins; may be repeated "+
		"(default: the interface of the best default route)")
	fs.Var(&s.ifaceRegex, "iface-regex", "`regular expression` for it, matched against addresses, then against names; "+
		"tried after --iface; may be repeated")
	fs.Var(&s.ifaceCanReach, "iface-can-reach", "`address`: take the interface of the path to it; tried last")
	fs.Var(&s.publicIP, "public-ip", "IPv4 `address` that peers shall use for this node (default: that of the interface)")
	fs.Var(&s.publicIPv6, "public-ipv6", "IPv6 `address` that peers shall use for this node")
	fs.StringVar(&s.subnetFile, "subnet-file", "/run/flannel/subnet.env",
		"`file` for the CNI plugin, written when pods can be served")
	fs.BoolVar(&s.ipMasq, "ip-masq", false, "masquerade what pods send to outside of the overlay")
	fs.BoolVar(&s.noRandom, "ip-masq-fully-random-disable", false, "masquerade without random source ports")
	fs.BoolVar(&s.forwardRules, "iptables-forward-rules", true, "accept forwarded pod traffic in our own chain")
	fs.IntVar(&s.resync, "iptables-resync", 5,
		"`seconds` between looks at iptables-legacy, where changes are not notified; elsewhere they are")
	fs.BoolVar(&s.extension, "extension-commands", false,
		"run the commands of a network configuration with the backend extension, as weftd's user and with its rights: "+
			"whoever writes the configuration may then run programs on this node")
	fs.StringVar(&s.attachments, "attachments-dir", attachment.DefaultDir,
		"`directory` where the CNI plugin records pods' attachments, by which they are mended; empty: they are left alone")
	fs.BoolVar(&s.blackhole, "ip-blackhole-route", false,
		"drop what is for an address of our own subnet that no pod has, instead of sending it elsewhere")
	fs.StringVar(&s.filter, "vxlan-filter", string(tunnel.Strict),
		"whose `packets` come in: strict: of known nodes, with a source that is theirs; "+
			"vtep-only: of known nodes; off: everyone's")
	fs.BoolVar(&s.notrack, "vxlan-notrack", true,
		"leave the tunnel's packets out of connection tracking, where no firewall of the host would mind")
	fs.StringVar(&s.checksums, "vxlan-checksum-offload", string(checksum.Auto),
		"whether checksums inside the `tunnel` are left to the network card: auto: as the device is, "+
			"off while probes prove that the card breaks them; on; off")
}

func (s *settings) runningFlags(fs *flag.FlagSet) {
	fs.StringVar(&s.config, "config", "",
		"YAML `file` with these settings by the same names, for what neither flags nor environment say")
	fs.StringVar(&s.stateDir, "state-dir", "/var/lib/weft",
		"`directory` where our lease and the last snapshot outlive a reboot")
	fs.StringVar(&s.socket, "socket", "/run/weft/weftd.sock", "unix `socket` for weftctl; empty for none")
	fs.StringVar(&s.sysctlDir, "sysctl-dir", "/proc/sys",
		"`directory` of the sysctls; in a container, where the host's /proc/sys is mounted")
	fs.StringVar(&s.healthzIP, "healthz-ip", "0.0.0.0", "`address` of the health server")
	fs.IntVar(&s.healthzPort, "healthz-port", 0,
		"`port` of the health server with /healthz, /livez and /readyz; 0 for none")
	fs.Var(&s.metricsAddr, "metrics-addr",
		"`HOST:PORT` where Prometheus finds /metrics, as 127.0.0.1:9101; empty for none")
	fs.Var(&s.uiAddr, "ui-addr",
		"`HOST:PORT` where a browser on this machine finds the status page, as 127.0.0.1:9102; empty for none")
	fs.DurationVar(&s.probeInterval, "probe-interval", 100*time.Millisecond,
		"`time` between two probes of the paths to peers, whatever their number; 0 for none")
	fs.StringVar(&s.logLevel, "log-level", "info", "`level`: error, warn, info or debug (each kernel write)")
	fs.StringVar(&s.logFormat, "log-format", "text", "`format`: text or json")
	fs.IntVar(&s.verbosity, "v", 0, "as flannel has it: a `number` of 4 or more is --log-level debug, less is nothing")
	fs.Var(&s.modules, "vmodule", "the same for single source files of weft: `pattern=N`,…")
	fs.Var(&s.traceAt, "log_backtrace_at", "`file.go:line`: what is logged there comes with its stack")
	fs.BoolVar(&s.version, "version", false, "print the version and exit")
}

const intro = `weftd joins this machine to a VXLAN overlay: it leases a pod subnet, programs the
kernel so that pods on all nodes reach each other by their own addresses, and writes
the subnet file that the CNI plugin reads.

  weftd --etcd-endpoints http://10.0.0.1:2379 --iface eth0 --ip-masq

The first node can be the store as well:

  weftd --embedded-etcd --embedded-etcd-listen http://10.0.0.1:2379 \
        --embedded-etcd-insecure --network 10.42.0.0/16 --iface eth0 --ip-masq

Each flag can be given in the environment, --iface as WEFTD_IFACE or FLANNELD_IFACE,
and in a YAML file that --config names, as iface. The command line goes first.
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

func envNames(flagName string) []string {
	name := strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
	return []string{"WEFTD_" + name, "FLANNELD_" + name}
}
