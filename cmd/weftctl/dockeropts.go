package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/subnetenv"
)

const dockerOptsHelp = `docker-opts writes options of the Docker daemon that put containers on this node's subnet,
as a file that systemd reads (EnvironmentFile=) or a shell sources. Options and output are
those of flannel's mk-docker-opts.sh: with neither -i nor -c it writes both.

What the environment has in a variable DOCKER_OPT_… or of the name that -k gives comes along.
No subnet file is no error: Docker then gets no options.`

// dockerOpts are the flags of docker-opts.
type dockerOpts struct {
	from, to, name string
	each, all      bool
	noMasq         bool
}

func newDockerOptsCommand() *cobra.Command {
	var d dockerOpts
	cmd := &cobra.Command{
		Use:   "docker-opts",
		Short: "Write options of the Docker daemon for this node's subnet",
		Long:  dockerOptsHelp,
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return d.run(os.Environ()) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&d.from, "subnet-file", "f", setting("SUBNET_FILE", "/run/flannel/subnet.env"),
		"`file` that weftd wrote")
	flags.StringVarP(&d.to, "docker-file", "d", "/run/docker_opts.env", "`file` to write the options to")
	flags.BoolVarP(&d.each, "individual", "i", false, "each option in a variable of its own, such as DOCKER_OPT_MTU")
	flags.BoolVarP(&d.all, "combined", "c", false, "all options in one variable")
	flags.StringVarP(&d.name, "combined-key", "k", "DOCKER_OPTS", "`name` of that variable")
	flags.BoolVarP(&d.noMasq, "no-ip-masq", "m", false, "leave --ip-masq out")
	return cmd
}

func (d dockerOpts) run(environ []string) error {
	if !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(d.name) {
		return fmt.Errorf("-k %s is not the name of a variable", d.name)
	}
	if !d.each && !d.all {
		d.each, d.all = true, true
	}
	env, err := subnetenv.Read(d.from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	values := d.values(env, environ)
	if err := os.WriteFile(d.to, []byte(d.text(values, environ)), 0o644); err != nil { //nolint:gosec // no secrets in it
		return fmt.Errorf("can't write %s: %w", d.to, err)
	}
	return refuseForeign(env)
}

// values are the options by variable, those of the environment too.
func (d dockerOpts) values(env subnetenv.Env, environ []string) map[string]string {
	values := map[string]string{}
	for _, pair := range environ {
		if name, value, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "DOCKER_OPT_") {
			values[name] = value
		}
	}
	if len(env.Subnets) == 0 {
		return values // no file
	}
	for _, s := range env.Subnets {
		if s.Addr().Is4() { // Docker's bridge takes one of each family by other options
			values["DOCKER_OPT_BIP"] = "--bip=" + netip.PrefixFrom(subnetenv.FirstHost(s), s.Bits()).String()
		}
	}
	values["DOCKER_OPT_MTU"] = fmt.Sprintf("--mtu=%d", env.MTU)
	if !d.noMasq { // what weftd masquerades Docker must not, and the other way round
		values["DOCKER_OPT_IPMASQ"] = fmt.Sprintf("--ip-masq=%v", !env.IPMasq)
	}
	return values
}

func (d dockerOpts) text(values map[string]string, environ []string) string {
	var lines strings.Builder
	var combined string
	for _, pair := range environ {
		if value, ok := strings.CutPrefix(pair, d.name+"="); ok && value != "" {
			combined = value + " "
		}
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if d.each {
			fmt.Fprintf(&lines, "%s=\"%s\"\n", name, values[name]) //nolint:gocritic // a shell's quotes, not Go's
		}
		combined += " " + values[name]
	}
	if d.all {
		fmt.Fprintf(&lines, "%s=\"%s\"\n", d.name, combined) //nolint:gocritic // likewise
	}
	return lines.String()
}

// refuseForeign finds a route that leads our own subnet to another host: Docker
// would refuse the subnet, or take it from whom it leads to.
func refuseForeign(env subnetenv.Env) error {
	f, err := os.Open("/proc/self/net/route")
	if err != nil {
		return fmt.Errorf("who else has this node's subnet? %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …, proc(5)
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || fields[2] == "00000000" {
			continue
		}
		dst, via, mask := littleEndian(fields[1]), littleEndian(fields[2]), littleEndian(fields[7])
		for _, s := range env.Subnets {
			if s.Masked().Addr() == dst && maskOf(s) == mask {
				return fmt.Errorf("the node's own subnet leads to another host: %s via %s dev %s: "+
					"remove that route, or the lease of that host", s.Masked(), via, fields[0])
			}
		}
	}
	return nil
}

// littleEndian reads an address as the kernel prints it there, on the machines
// that weft is built for.
func littleEndian(text string) netip.Addr {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 4 {
		return netip.Addr{}
	}
	slices.Reverse(b)
	return netip.AddrFrom4([4]byte(b))
}

func maskOf(p netip.Prefix) netip.Addr {
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return netip.PrefixFrom(ones, min(p.Bits(), 32)).Masked().Addr()
}
