package linux

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

const (
	xtablesLock = "/run/xtables.lock" // XT_LOCK_NAME
	xtablesEnv  = "XTABLES_LOCKFILE"
	// programTime bounds a program that hangs; legacy ones rewrite tables of
	// any size.
	programTime = 10 * time.Second
)

var errLocked = errors.New("the xtables lock is held by another program")

// version of iptables: 1.8.9.
type version [3]int

// Since these, iptables knows the option.
func (v version) randomFully() bool  { return slices.Compare(v[:], []int{1, 6, 2}) >= 0 }
func (v version) restoreWaits() bool { return slices.Compare(v[:], []int{1, 6, 2}) >= 0 }

// program is an iptables that is installed.
type program struct {
	name    string // iptables, iptables-nft or iptables-legacy
	engine  ruleset.Engine
	version version
}

// programs remembers what the programs are, so that one is looked at the first
// time, and when it is a new one.
type programs struct {
	known map[string]known // by the name that was looked for
	// clients are those of iptables-nft, by path and the file that it leads to.
	clients map[string]*iptables.IPTables
	dirs    []string // tests: where they are, and nowhere else
	runs    int      // how often any was started
}

func newPrograms() programs {
	return programs{known: map[string]known{}, clients: map[string]*iptables.IPTables{}}
}

type known struct {
	path     string // links followed
	modified time.Time
	program  program
}

// find gives the programs that are there: first what `iptables` itself is.
func (k *Kernel) find() []program {
	var out []program
	for _, name := range []string{"iptables", string(ruleset.IPTablesNFT), string(ruleset.IPTablesLegacy)} {
		p, err := k.identify(name)
		if err == nil && !slices.ContainsFunc(out, func(o program) bool { return o.engine == p.engine }) {
			out = append(out, p)
		}
	}
	return out
}

// programFor gives the program that writes the engine's tables.
func (k *Kernel) programFor(e ruleset.Engine) (program, error) {
	all := k.find()
	i := slices.IndexFunc(all, func(p program) bool { return p.engine == e })
	if i < 0 {
		return program{}, fmt.Errorf("no %s program is installed; install the package iptables, "+
			`or set "EnableNFTables": true in the network configuration`, e)
	}
	return all[i], nil
}

// identify finds out what a program is, once: an alternative that is switched is
// another file. Where the file's name doesn't tell, the program is asked.
func (k *Kernel) identify(name string) (program, error) {
	path, err := k.programs.look(name)
	if err != nil {
		return program{}, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return program{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return program{}, err
	}
	if was, ok := k.programs.known[name]; ok && was.path == path && was.modified.Equal(info.ModTime()) {
		return was.program, nil
	}
	p, ok := byFile(path)
	if !ok {
		out, err := k.run(context.Background(), "", name, "--version")
		if err != nil {
			return program{}, err
		}
		if p, err = parseVersion(out); err != nil {
			return program{}, fmt.Errorf("%s: %w", path, err)
		}
	}
	p.name = name
	k.programs.known[name] = known{path, info.ModTime(), p}
	return p, nil
}

// byFile knows a program by its file, without a run of it: since iptables 1.8.0
// all programs of one kind are links to one file, and each kind has its own. The
// version is that at the least.
func byFile(path string) (program, bool) {
	p := program{version: version{1, 8, 0}}
	switch filepath.Base(path) {
	case "xtables-nft-multi":
		p.engine = ruleset.IPTablesNFT
	case "xtables-legacy-multi":
		p.engine = ruleset.IPTablesLegacy
	default:
		return program{}, false
	}
	return p, true
}

// parseVersion reads "iptables v1.8.9 (nf_tables)". Before 1.8 there was one
// kind only.
func parseVersion(s string) (program, error) {
	found := regexp.MustCompile(`v(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?`).FindStringSubmatch(s)
	if found == nil {
		return program{}, fmt.Errorf("%q is not a version of iptables", strings.TrimSpace(s))
	}
	p := program{engine: ruleset.IPTablesLegacy}
	for i := range p.version {
		p.version[i], _ = strconv.Atoi(found[i+1]) // digits or nothing
	}
	if strings.Contains(s, "nf_tables") {
		p.engine = ruleset.IPTablesNFT
	}
	return p, nil
}

// look also looks where iptables usually is: not everyone's PATH says so.
func (p programs) look(name string) (path string, err error) {
	dirs := p.dirs
	if dirs == nil {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
		dirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}
	}
	for _, dir := range dirs {
		if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// of is the name of the family's program: ip6tables-nft.
func (p program) of(ipv6 bool) string {
	if ipv6 {
		return "ip6" + strings.TrimPrefix(p.name, "ip")
	}
	return p.name
}

// list gives the rules of one chain. What is legacy is saved whole, because that
// takes no lock.
func (k *Kernel) list(ctx context.Context, p program, key ruleset.Key) (map[string][]string, error) {
	if p.engine == ruleset.IPTablesNFT {
		return k.listNFT(p, key)
	}
	out, err := k.run(ctx, "", p.of(key.IPv6)+"-save", "-t", key.Table)
	return parseListing(out), err
}

// restore writes lines to one table in one transaction.
func (k *Kernel) restore(ctx context.Context, p program, key ruleset.Key, lines []string) error {
	args := []string{"--noflush"}
	if p.engine == ruleset.IPTablesLegacy {
		if err := k.tryLock(); err != nil {
			return err
		}
		// Without the option it would wait for ever, with 0 as well.
		if p.version.restoreWaits() {
			args = append(args, "-w", "1")
		}
	}
	text := "*" + key.Table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, err := k.run(ctx, text, p.of(key.IPv6)+"-restore", args...)
	return err
}

// tryLock fails where the lock is held, so that nothing has to wait for it. What
// hinders us from looking does not hinder the program.
func (k *Kernel) tryLock() error {
	path := cmp.Or(k.lockFile, os.Getenv(xtablesEnv), xtablesLock)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil
	}
	defer f.Close()
	if errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return fmt.Errorf("%w (%s)", errLocked, path)
	}
	return nil
}

// run starts a program in the namespace and waits for it.
func (k *Kernel) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := k.programs.look(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaints
	if k.lockFile != "" {
		cmd.Env = append(os.Environ(), xtablesEnv+"="+k.lockFile)
	}
	k.programs.runs++
	if err := k.ns.do(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", programError(name, err, complaints.String())
	}
	return out.String(), nil
}

// programError has what the program said in one line, without its advice.
func programError(name string, err error, said string) error {
	if strings.Contains(said, "xtables lock") {
		return errLocked
	}
	var words []string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "# Warning") && !strings.HasPrefix(line, "Try `") {
			words = append(words, line)
		}
	}
	if len(words) == 0 {
		return fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.Join(words, " "))
}
