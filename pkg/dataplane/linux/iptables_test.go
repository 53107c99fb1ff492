package linux_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/kerneltest"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/netnstest"
)

// xtables is somebody else with iptables.
type xtables struct {
	t  testing.TB
	ns *netnstest.NS
}

// locks is a directory for those of iptables: the usual one is the whole
// machine's, and other tests hold it.
var locks string

func lockOf(n *netnstest.NS) string { return filepath.Join(locks, strconv.Itoa(int(n.Handle()))) }

// run gives what a program prints to stdout.
func (x xtables) run(name string, args ...string) (string, error) {
	var out, complaints bytes.Buffer
	var err error
	x.ns.Do(func() {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+lockOf(x.ns))
		cmd.Stdout, cmd.Stderr = &out, &complaints
		err = cmd.Run()
	})
	if err != nil {
		err = fmt.Errorf("%s %v: %w\n%s", name, args, err, &complaints)
	}
	return out.String(), err
}

func (x xtables) iptables(k ruleset.Key, args ...string) string {
	x.t.Helper()
	out, err := x.run(k.Program(), append([]string{"-t", k.Table}, args...)...)
	if err != nil {
		x.t.Fatal(err)
	}
	return out
}

func (x xtables) insertRule(k ruleset.Key) {
	x.t.Helper()
	if _, err := x.run(k.Program(), "-t", k.Table, "-S", k.Chain); err != nil {
		x.iptables(k, "-N", k.Chain)
	}
	x.iptables(k, "-I", k.Chain, "1", "-j", "ACCEPT")
}

func (x xtables) InsertJump(k ruleset.Key, from ruleset.Hook, comment string) {
	x.t.Helper()
	args := []string{"-I", strings.ToUpper(string(from)), "1"}
	if comment != "" {
		args = append(args, "-m", "comment", "--comment", comment)
	}
	x.iptables(k, append(args, "-j", k.Chain)...)
}

// dumpLegacy is what iptables-legacy has, without what is there of itself.
func (x xtables) dumpLegacy() []string {
	x.t.Helper()
	var out []string
	for program, file := range map[string]string{
		"iptables-legacy-save": "ip_tables_names", "ip6tables-legacy-save": "ip6_tables_names",
	} {
		x.ns.Do(func() {
			if b, err := os.ReadFile("/proc/thread-self/net/" + file); err != nil || len(b) == 0 {
				program = ""
			}
		})
		if program == "" {
			continue
		}
		text, err := x.run(program)
		if err != nil {
			x.t.Fatal(err)
		}
		table := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "*"):
				table = line
			case strings.HasPrefix(line, "-A"), strings.HasSuffix(line, "- [0:0]"):
				out = append(out, program+" "+table+" "+line)
			}
		}
	}
	return out
}

// engines are those of this kernel. The programs must be there; legacy tables
// need not.
func engines(t *testing.T) []ruleset.Engine {
	t.Helper()
	out := []ruleset.Engine{ruleset.NFTables, ruleset.IPTablesNFT}
	n := netnstest.New(t)
	for _, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; install the package iptables (make needs does)", err)
		}
	}
	if _, err := (xtables{t, n}).run("iptables-legacy", "-t", "nat", "-S"); err == nil {
		out = append(out, ruleset.IPTablesLegacy)
	}
	return out
}

func TestChainContract(t *testing.T) {
	all := engines(t)
	for _, e := range []ruleset.Engine{ruleset.NFTables, ruleset.IPTablesNFT, ruleset.IPTablesLegacy} {
		t.Run(e.String(), func(t *testing.T) {
			if e == ruleset.IPTablesLegacy && len(all) < 3 {
				t.Skip("this kernel has no legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY)")
			}
			t.Parallel()
			kerneltest.RunChains(t, e, func(t *testing.T) kerneltest.World {
				n := netnstest.New(t)
				opened := func() dataplane.Kernel { return open(t, n) }
				return kerneltest.World{
					Kernel: opened(), Reopen: opened, Admin: newAdmin(t, n), Firewall: newFirewall(t, n), Engines: all,
				}
			})
		})
	}
}

// resync is short so that tests of legacy tables don't take seconds each.
const resync = 50 * time.Millisecond
