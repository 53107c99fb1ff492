// Package dockeropts holds dist/mk-docker-opts.sh and weftctl docker-opts to
// what flannel's script of that name writes: golden text, byte for byte.
package dockeropts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

// weftctl builds the program that does the same as the script.
func weftctl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weftctl")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/weftctl")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weftctl: %v\n%s", err, out)
	}
	return path
}

const subnetEnv = `FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
`

const each = `DOCKER_OPT_BIP="--bip=10.1.74.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_MTU="--mtu=1472"
`

// run is one run of the script, in a network namespace of its own.
type run struct {
	env    string   // the file's content; empty: no file
	args   []string // besides -f and -d
	vars   []string
	routes []string // arguments of ip
	shell  string
}

func (r run) do(t *testing.T) (content, stderr string, err error) {
	t.Helper()
	script, err := filepath.Abs("../../dist/mk-docker-opts.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "subnet.env"), filepath.Join(dir, "docker opts.env")
	if r.env != "" {
		if err := os.WriteFile(from, []byte(r.env), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ns := netnstest.New(t)
	for _, route := range r.routes {
		ns.Exec("ip", strings.Fields(route)...)
	}
	if strings.HasSuffix(r.shell, "weftctl") {
		script = "docker-opts"
	}
	cmd := exec.Command(r.shell, append([]string{script, "-f", from, "-d", to}, r.args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, r.vars...)
	ns.Do(func() { err = cmd.Run() })
	raw, errRead := os.ReadFile(to)
	if errRead != nil && !os.IsNotExist(errRead) {
		t.Fatal(errRead)
	}
	return string(raw), errs.String(), err
}

// golden is a run that goes well, and the file that comes of it.
type golden struct {
	run  run
	want string
}

func goldens() map[string]golden {
	const combined = `DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"` + "\n"
	return map[string]golden{
		"both by default": {run{env: subnetEnv}, each + combined},
		"both asked for":  {run{env: subnetEnv, args: []string{"-ic"}}, each + combined},
		"each":            {run{env: subnetEnv, args: []string{"-i"}}, each},
		"combined":        {run{env: subnetEnv, args: []string{"-c"}}, combined},
		"another name": {
			run{env: subnetEnv, args: []string{"-k", "CUSTOM_KEY"}},
			each + strings.Replace(combined, "DOCKER_OPTS", "CUSTOM_KEY", 1),
		},
		"without masquerade": {
			run{env: subnetEnv, args: []string{"-m"}},
			"DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n" +
				"DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n",
		},
		"masquerade by the daemon": {
			run{env: strings.Replace(subnetEnv, "false", "true", 1)},
			strings.ReplaceAll(each+combined, "masq=true", "masq=false"),
		},
		"without masquerade a bad value is not looked at": {
			run{env: strings.Replace(subnetEnv, "false", "perhaps", 1), args: []string{"-cm"}},
			"DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n",
		},
		"IPv6 only has no address for Docker's bridge": {
			run{env: "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n" +
				"FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"},
			"DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1430\"\nDOCKER_OPTS=\" --ip-masq=false --mtu=1430\"\n",
		},
		"no file": {run{}, "DOCKER_OPTS=\"\"\n"},
		"what the environment has comes along": {
			run{env: subnetEnv, vars: []string{"DOCKER_OPTS=--debug", "DOCKER_OPT_ICC=--icc=false"}},
			strings.Replace(each, "DOCKER_OPT_IPMASQ", "DOCKER_OPT_ICC=\"--icc=false\"\nDOCKER_OPT_IPMASQ", 1) +
				`DOCKER_OPTS="--debug  --bip=10.1.74.1/24 --icc=false --ip-masq=true --mtu=1472"` + "\n",
		},
		"routes of others": {
			run{env: subnetEnv, args: []string{"-c"}, routes: []string{
				"link add eth0 type bridge", "address add 192.0.2.1/24 dev eth0", "link set eth0 up",
				"route add 10.1.74.0/24 dev eth0", "route add 10.1.174.0/24 via 192.0.2.9", "route add 110.1.74.0/24 via 192.0.2.9",
			}},
			combined,
		},
	}
}

func TestOutput(t *testing.T) {
	for name, c := range goldens() {
		t.Run(name, func(t *testing.T) {
			for _, shell := range shells() {
				c.run.shell = shell
				have, stderr, err := c.run.do(t)
				if err != nil || stderr != "" {
					t.Errorf("%s: %v: %s", shell, err, stderr)
				}
				if d := cmp.Diff(c.want, have); d != "" {
					t.Errorf("%s: %s", shell, d)
				}
			}
		})
	}
}

// shells are what a system may have as sh, as far as they are here.
func shells() []string {
	found := []string{"sh"}
	for _, name := range []string{"dash", "bash", "ksh"} {
		if _, err := exec.LookPath(name); err == nil {
			found = append(found, name)
		}
	}
	return found
}

// TestWeftctl: weftctl docker-opts writes the same. It refuses a file that is
// damaged, whatever of it is asked for.
func TestWeftctl(t *testing.T) {
	path := weftctl(t)
	cases := goldens()
	delete(cases, "without masquerade a bad value is not looked at")
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.run.shell = path
			have, stderr, err := c.run.do(t)
			if err != nil || stderr != "" {
				t.Errorf("%v: %s", err, stderr)
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Error(d)
			}
		})
	}
	foreign := []string{
		"link add eth0 type bridge", "address add 192.0.2.1/24 dev eth0", "link set eth0 up",
		"route add 10.1.74.0/24 via 192.0.2.9",
	}
	for want, r := range map[string]run{
		"leads to another host: 10.1.74.0/24 via 192.0.2.9": {env: subnetEnv, routes: foreign},
		"FLANNEL_IPMASQ=\"perhaps\": it is true or false":   {env: strings.Replace(subnetEnv, "false", "perhaps", 1)},
		"-k x;touch y is not the name":                      {env: subnetEnv, args: []string{"-k", "x;touch y"}},
		"can't write /nowhere/opts":                         {env: subnetEnv, args: []string{"-d", "/nowhere/opts"}},
	} {
		r.shell = path
		if _, stderr, err := r.do(t); err == nil || !strings.Contains(stderr, want) {
			t.Errorf("%v, want %q in:\n%s", err, want, stderr)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		run  run
		want string
	}{
		"FLANNEL_IPMASQ is neither": {
			run{env: strings.Replace(subnetEnv, "false", "perhaps", 1)}, "FLANNEL_IPMASQ=perhaps is neither true nor false",
		},
		"the own subnet is behind another host": {
			run{env: subnetEnv, routes: []string{
				"link add eth0 type bridge", "address add 192.0.2.1/24 dev eth0", "link set eth0 up",
				"route add 10.1.74.0/24 via 192.0.2.9",
			}},
			"leads to another host: 10.1.74.0/24 via 192.0.2.9",
		},
		"an unknown option":            {run{env: subnetEnv, args: []string{"-x"}}, "usage: "},
		"help":                         {run{env: subnetEnv, args: []string{"-h"}}, "usage: "},
		"a name that would be run":     {run{env: subnetEnv, args: []string{"-k", "x;touch y"}}, "-k x;touch y is not the name"},
		"an empty name":                {run{env: subnetEnv, args: []string{"-k", ""}}, "is not the name of a variable"},
		"a directory that isn't there": {run{env: subnetEnv, args: []string{"-d", "/nowhere/opts"}}, "can't write /nowhere/opts"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, shell := range shells() {
				c.run.shell = shell
				_, stderr, err := c.run.do(t)
				if err == nil || err.Error() != "exit status 1" || !strings.Contains(stderr, c.want) {
					t.Errorf("%s: %v, want exit status 1 and %q in:\n%s", shell, err, c.want, stderr)
				}
			}
		})
	}
}
