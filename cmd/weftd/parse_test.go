package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/version"
)

type parseCase struct {
	args []string
	env  []string
	file string            // content of the file
	want map[string]string // what is not as by default, but for config; as flags
	err  string            // all of it
}

// settingsOf are a case's settings that are not as by default. A value FILE is
// the path of the file.
func settingsOf(t *testing.T, c parseCase) (map[string]string, settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weftd.yaml")
	if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
		t.Fatal(err)
	}
	place := func(all []string) (out []string) {
		for _, s := range all {
			out = append(out, strings.ReplaceAll(s, "=FILE", "="+path))
		}
		return out
	}
	s, fs, err := parse(place(c.args), place(c.env))
	if err != nil {
		return nil, s, errors.New(strings.ReplaceAll(err.Error(), path, "FILE"))
	}
	have := map[string]string{}
	fs.VisitAll(func(f *flag.Flag) {
		if v := f.Value.String(); v != f.DefValue && f.Name != "config" {
			have[f.Name] = v
		}
	})
	return have, s, nil
}

func fromArguments() map[string]parseCase {
	return map[string]parseCase{
		"nothing":             {},
		"one dash":            {args: []string{"-iface", "eth0"}, want: map[string]string{"iface": "eth0"}},
		"two dashes, with =":  {args: []string{"--iface=eth0"}, want: map[string]string{"iface": "eth0"}},
		"a bare boolean":      {args: []string{"--ip-masq"}, want: map[string]string{"ip-masq": "true"}},
		"a boolean as 1":      {args: []string{"-ip-masq=1"}, want: map[string]string{"ip-masq": "true"}},
		"a boolean that is 0": {args: []string{"-iptables-forward-rules=0"}, want: map[string]string{"iptables-forward-rules": "false"}},
		"an interface several times": {
			args: []string{"--iface=eth0", "--iface=10.0.0.1"}, want: map[string]string{"iface": "eth0,10.0.0.1"},
		},
		"an empty interface is none": {args: []string{"--iface=", "--iface-regex=", "--iface-can-reach=", "--public-ip="}},
		"expressions, in order": {
			args: []string{"--iface-regex=^eth", "--iface-regex=^10\\."}, want: map[string]string{"iface-regex": "^eth,^10\\."},
		},
		"the other ways to the uplink": {
			args: []string{"--iface-can-reach=fd00::1", "--public-ip=192.0.2.1", "--public-ipv6=2001:db8::1"},
			want: map[string]string{"iface-can-reach": "fd00::1", "public-ip": "192.0.2.1", "public-ipv6": "2001:db8::1"},
		},
		"klog's": {
			args: []string{"-v=5", "-vmodule=node=4,a*=2", "-log_backtrace_at=node.go:12"},
			want: map[string]string{"v": "5", "vmodule": "node=4,a*=2", "log_backtrace_at": "node.go:12"},
		},
		"of a flag that is given twice the last": {
			args: []string{"--etcd-endpoints=http://a:1", "--etcd-endpoints=http://b:1,http://c:1"},
			want: map[string]string{"etcd-endpoints": "http://b:1,http://c:1"},
		},
		"the version, whatever else is wrong": {
			args: []string{"--version", "--log-level=loud"}, env: []string{"WEFTD_V=x"}, file: "nonsense",
			want: map[string]string{"version": "true", "log-level": "loud"},
		},
		"login with a password's file": {
			args: []string{"--etcd-username=u", "--etcd-password-file=/p"},
			want: map[string]string{"etcd-username": "u", "etcd-password-file": "/p"},
		},

		"an unknown flag": {args: []string{"--ifcae=eth0"}, err: "flag provided but not defined: -ifcae"},
		"no flag at all": {
			args: []string{"--ip-masq", "true"}, err: `unexpected argument "true": weftd takes flags only`,
		},
		"no value":            {args: []string{"--iface"}, err: "flag needs an argument: -iface"},
		"not a boolean":       {args: []string{"--ip-masq=yes"}, err: `invalid boolean value "yes" for -ip-masq: parse error`},
		"not a number":        {args: []string{"--healthz-port=x"}, err: `invalid value "x" for flag -healthz-port: parse error`},
		"not an address":      {args: []string{"--public-ip=eth0"}, err: `invalid value "eth0" for flag -public-ip: not an IP address`},
		"an address and zone": {args: []string{"--iface-can-reach=fe80::1%eth0"}, err: `invalid value "fe80::1%eth0" for flag -iface-can-reach: not an IP address`},
		"not a network": {
			args: []string{"--embedded-etcd", "--network=10.42.0.0"},
			err:  `invalid value "10.42.0.0" for flag -network: not a network of the form ADDRESS/LENGTH`,
		},
		"not an expression": {
			args: []string{"--iface-regex=eth("},
			err:  "invalid value \"eth(\" for flag -iface-regex: error parsing regexp: missing closing ): `eth(`",
		},
		"not a module": {
			args: []string{"-vmodule=node"},
			err:  `invalid value "node" for flag -vmodule: "node" is not of the form PATTERN=N, as in node=4`,
		},
		"not a place": {
			args: []string{"-log_backtrace_at=node:1"},
			err:  `invalid value "node:1" for flag -log_backtrace_at: not of the form FILE.go:LINE, as in node.go:123`,
		},
	}
}

func fromBoth() map[string]parseCase {
	return map[string]parseCase{
		"flannel's name": {env: []string{"FLANNELD_IFACE=eth0"}, want: map[string]string{"iface": "eth0"}},
		"ours goes before flannel's": {
			env: []string{"FLANNELD_IFACE=eth0", "WEFTD_IFACE=eth1"}, want: map[string]string{"iface": "eth1"},
		},
		"an argument goes before both": {
			args: []string{"--iface=eth2"}, env: []string{"FLANNELD_IFACE=eth0", "WEFTD_IFACE=eth1"},
			want: map[string]string{"iface": "eth2"},
		},
		"an empty argument, too": {args: []string{"--socket="}, env: []string{"WEFTD_SOCKET=/s"}, want: map[string]string{"socket": ""}},
		"an empty variable says nothing": {
			env:  []string{"WEFTD_IFACE=", "FLANNELD_IFACE=eth0", "FLANNELD_HEALTHZ_PORT="},
			want: map[string]string{"iface": "eth0"},
		},
		"one element of what may be repeated": {
			env: []string{"FLANNELD_IFACE_REGEX=^a,b$"}, want: map[string]string{"iface-regex": "^a,b$"},
		},
		"a name with underscores": {
			env:  []string{"FLANNELD_LOG_BACKTRACE_AT=a.go:1", "FLANNELD_V=4"},
			want: map[string]string{"log_backtrace_at": "a.go:1", "v": "4"},
		},
		"not a number, by name": {
			env: []string{"FLANNELD_HEALTHZ_PORT=x"}, err: `environment variable FLANNELD_HEALTHZ_PORT="x": not a whole number`,
		},
		"not a boolean, by name": {
			env: []string{"WEFTD_IP_MASQ=yes"}, err: `environment variable WEFTD_IP_MASQ="yes": not true or false`,
		},
		"not an expression, by name": {
			env: []string{"WEFTD_IFACE_REGEX=["},
			err: "environment variable WEFTD_IFACE_REGEX=\"[\": error parsing regexp: missing closing ]: `[`",
		},
		"a bad one that an argument goes before is not looked at": {
			args: []string{"--healthz-port=1"}, env: []string{"FLANNELD_HEALTHZ_PORT=x"},
			want: map[string]string{"healthz-port": "1"},
		},
		"all mistakes at once": {
			args: []string{"--log-level=loud", "--etcd-keyfile=/k"}, env: []string{"WEFTD_V=x"}, file: "ifcae: eth0\n",
			err: "environment variable WEFTD_V=\"x\": not a whole number\n" +
				"--etcd-certfile and --etcd-keyfile go together: give both or none\n" +
				"--log-level \"loud\": use error, warn, info or debug",
		},
		"a password as an argument goes before its file in the environment": {
			args: []string{"--etcd-password-file=/p"},
			env:  []string{"FLANNELD_ETCD_PASSWORD=sesame", "FLANNELD_ETCD_USERNAME=u"},
			want: map[string]string{"etcd-password-file": "/p", "etcd-username": "u"},
		},
		"a password twice in the environment": {
			env: []string{"WEFTD_ETCD_PASSWORD_FILE=/p", "FLANNELD_ETCD_PASSWORD=sesame", "FLANNELD_ETCD_USERNAME=u"},
			err: "--etcd-password and --etcd-password-file: give one of them",
		},
	}
}

func checks() map[string]parseCase {
	return map[string]parseCase{
		"a network without the embedded store": {
			args: []string{"--network=10.42.0.0/16"},
			err:  "--network and --ipv6-network go with --embedded-etcd; for another etcd use: weftctl config set",
		},
		"a certificate without its key": {
			args: []string{"--etcd-certfile=/c"}, err: "--etcd-certfile and --etcd-keyfile go together: give both or none",
		},
		"a password in an endpoint is not repeated": {
			args: []string{"--etcd-endpoints=http://u:sesame@a:1"},
			err:  "--etcd-endpoints holds a user name or a password: give them as --etcd-username and --etcd-password-file",
		},
		"a user without a password": {
			args: []string{"--etcd-username=u"}, err: "--etcd-username and its password go together: give both or none",
		},
		"a password without a user": {
			env: []string{"FLANNELD_ETCD_PASSWORD=sesame"},
			err: "--etcd-username and its password go together: give both or none",
		},
		"IPv6 as IPv4": {
			args: []string{"--public-ip=fd00::1"}, err: "--public-ip fd00::1: not an IPv4 address; use --public-ipv6",
		},
		"IPv4 as IPv6": {
			args: []string{"--public-ipv6=192.0.2.1"}, err: "--public-ipv6 192.0.2.1: not an IPv6 address; use --public-ip",
		},
		"a CNI list without its places": {
			args: []string{"--cni-conf=/c", "--cni-bin-dir=/b"},
			err:  "--cni-conf, --cni-conf-file and --cni-bin-dir go together: give all or none",
		},
		"a CNI plugin without its place": {
			args: []string{"--cni-plugin=/p"},
			err:  "--cni-plugin goes with --cni-conf, --cni-conf-file and --cni-bin-dir",
		},
		"a resync of 0": {args: []string{"--iptables-resync=0"}, err: "--iptables-resync 0: must be 1 second or more"},
		"not a port":    {args: []string{"--healthz-port=65536"}, err: "--healthz-port 65536: a port is 0 to 65535"},
		"not a filter": {
			args: []string{"--vxlan-filter=on"}, err: `--vxlan-filter "on": use strict, vtep-only or off`,
		},
		"probes too fast": {
			args: []string{"--probe-interval=1us"}, err: "--probe-interval 1µs: must be 1ms or more, or 0 for no probes",
		},
		"not a format":  {args: []string{"--log-format=xml"}, err: `--log-format "xml": use text or json`},
		"a level twice": {args: []string{"--log-level=error", "-v=9"}, want: map[string]string{"log-level": "error", "v": "9"}},
	}
}

func TestParse(t *testing.T) {
	for group, cases := range map[string]map[string]parseCase{
		"arguments": fromArguments(), "environment": fromBoth(), "checks": checks(), "file": fromFile(),
	} {
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			c := cases[name]
			t.Run(group+"/"+name, func(t *testing.T) {
				have, _, err := settingsOf(t, c)
				text := ""
				if err != nil {
					text = err.Error()
				} else if c.want == nil {
					c.want = map[string]string{}
				}
				if d := cmp.Diff(c.err, text); d != "" {
					t.Errorf("error (-want +have):\n%s", d)
				}
				if d := cmp.Diff(c.want, have); d != "" {
					t.Errorf("settings (-want +have):\n%s", d)
				}
			})
		}
	}
}

// sample gives a value for a flag that is not its default.
func sample(f *flag.Flag) string {
	switch f.Name {
	case "public-ip":
		return "192.0.2.1"
	case "iface-can-reach", "public-ipv6":
		return "2001:db8::1"
	case "network", "ipv6-network":
		return "fd00:42::/48"
	case "probe-interval":
		return "1.5s"
	case "ui-addr":
		return "127.0.0.1:9102"
	case "metrics-addr":
		return "127.0.0.1:9101"
	case "vmodule":
		return "node=4"
	case "log_backtrace_at":
		return "node.go:1"
	}
	switch kindOf(f) {
	case truth:
		return map[string]string{"true": "false", "false": "true"}[f.DefValue]
	case number:
		return "17"
	}
	return "something"
}

// Every flag can be said in the environment, under both names, and but for two
// in the file.
func TestEveryFlagHasItsTwins(t *testing.T) {
	var defaults settings
	n := 0
	defaults.flagSet().VisitAll(func(f *flag.Flag) {
		n++
		value := sample(f)
		for _, prefix := range []string{"WEFTD_", "FLANNELD_"} {
			var s settings
			fs := s.flagSet()
			name := prefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			if err := s.fromEnviron(fs, []string{name + "=" + value}, map[string]bool{}); err != nil || len(s.ignored) > 0 {
				t.Errorf("%s: %v, ignored %v", name, err, s.ignored)
			}
			if have := fs.Lookup(f.Name).Value.String(); have != value {
				t.Errorf("%s=%s: have %q", name, value, have)
			}
		}
		var s settings
		fs := s.flagSet()
		s.config = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(s.config, []byte(f.Name+": "+value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		want, path := value, s.config
		if f.Name == "config" || f.Name == "version" {
			want = f.DefValue
		}
		err := s.fromFile(fs, map[string]bool{"config": true})
		if (err != nil) != (want == f.DefValue) {
			t.Errorf("%s in a file: %v", f.Name, err)
		}
		if have := fs.Lookup(f.Name).Value.String(); f.Name != "config" && have != want {
			t.Errorf("%s in the file %s: have %q", f.Name, path, have)
		}
	})
	if n < 30 {
		t.Errorf("only %d flags", n)
	}
}

func TestEveryFlagIsInTheHelp(t *testing.T) {
	var all, grouped []string
	new(settings).flagSet().VisitAll(func(f *flag.Flag) { all = append(all, f.Name) })
	for _, g := range groups() {
		grouped = append(grouped, g.flags...)
	}
	slices.Sort(grouped)
	if d := cmp.Diff(all, grouped); d != "" {
		t.Errorf("(-flags +help):\n%s", d)
	}
}

func TestHelp(t *testing.T) {
	for _, arg := range []string{"-h", "--help"} {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), []string{arg}, []string{"WEFTD_V=x"}, &stdout, &stderr)
		if !errors.Is(err, flag.ErrHelp) || stderr.Len() > 0 {
			t.Errorf("%s: %v, and on stderr %s", arg, err, &stderr)
		}
		golden.Check(t, "help", stdout.String())
	}
}

func TestVersionGoesToStderr(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-version"}, []string{"WEFTD_V=x"}, &stdout, &stderr); err != nil {
		t.Error(err)
	}
	if stdout.Len() > 0 || stderr.String() != version.String()+"\n" {
		t.Errorf("have %q, and on stderr %q", &stdout, &stderr)
	}
}

func TestTheFirstLineTellsTheSettingsButNoSecret(t *testing.T) {
	var stdout, stderr bytes.Buffer
	// The margin ends the program right after that line.
	args := []string{"--log-format=json", "--iface=eth0", "--iface=eth1", "--ip-masq", "--subnet-lease-renew-margin=0"}
	environ := []string{"WEFTD_ETCD_PASSWORD=sesame", "FLANNELD_ETCD_USERNAME=u", "WEFTD_ETCD_PREFIX=/coreos.com/network"}
	err := run(t.Context(), args, append(environ, "WEFTD_IFCAE=x"), &stdout, &stderr)
	const want = "--subnet-lease-renew-margin 0: must be 1 to 1439 minutes, as a lease lives for 24 hours"
	var usage *usageError
	if err == nil || err.Error() != want || errors.As(err, &usage) {
		t.Errorf("want exit status 1 and %q, have %v", want, err)
	}
	if strings.Contains(stderr.String(), "sesame") {
		t.Errorf("the password is in the log:\n%s", &stderr)
	}
	lines := json.NewDecoder(&stderr)
	var first, second map[string]any
	if err := errors.Join(lines.Decode(&first), lines.Decode(&second)); err != nil {
		t.Fatal(err)
	}
	delete(first, "time")
	wantFirst := map[string]any{
		"level": "info", "msg": "weftd starts", "version": first["version"], "log-format": "json", "iface": "eth0,eth1",
		"ip-masq": "true", "subnet-lease-renew-margin": "0", "etcd-password": "set", "etcd-username": "u",
	}
	if d := cmp.Diff(wantFirst, first); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	if d := cmp.Diff([]any{"WEFTD_IFCAE"}, second["variables"]); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestRenewMargins(t *testing.T) {
	for margin, ok := range map[int]bool{-1: false, 0: false, 1: true, 60: true, 1439: true, 1440: false} {
		if err := (&settings{renewMargin: margin}).minutes(); (err == nil) != ok {
			t.Errorf("%d: %v", margin, err)
		}
	}
}

func TestVariablesThatAreNoSettings(t *testing.T) {
	_, s, err := settingsOf(t, parseCase{env: []string{
		"WEFTD_IFCAE=eth0", "FLANNELD_LISTEN=:8888", "FLANNELD_IFACE=eth0", "FLANNEL_MTU=1", "HOME=/", "WEFTD_NONE=",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"FLANNELD_LISTEN", "WEFTD_IFCAE"}, s.ignored); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestWhichNodeIsOurs(t *testing.T) {
	env := []string{"NODE_NAME=node-1", "POD_NAME=weft-abc", "POD_NAMESPACE=kube-flannel"}
	_, s, err := settingsOf(t, parseCase{env: env})
	if err != nil {
		t.Fatal(err)
	}
	if o := s.kubeOptions; o.Node != "node-1" || o.PodName != "weft-abc" || o.PodSpace != "kube-flannel" {
		t.Errorf("have %+v", o)
	}
}
