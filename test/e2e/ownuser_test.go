package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// ownUser is who weftd runs as in TestOwnUser: nobody else on the machine.
const ownUser = 64917

// TestOwnUser: weftd as dist/systemd/weftd.service runs it, with a user of its
// own and that unit's capabilities, whichever programs hold the rules.
func TestOwnUser(t *testing.T) {
	unit, err := os.ReadFile("../../dist/systemd/weftd.service")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 2, underlay4, underlay6)
	engines := []string{"true"}
	for range kinds(t, c) {
		engines = append(engines, "false")
	}
	for i, nft := range engines {
		var env []string
		name := "nftables"
		if i > 0 {
			k := kinds(t, c)[i-1]
			env, name = c.env(k), "iptables-"+string(k)
		}
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2, underlay4, underlay6)
			config := strings.Replace(dualConfig(`{"Type":"vxlan"}`), "{", `{"EnableNFTables":`+nft+",", 1)
			daemons := []*daemon{c.daemon(0, c.storeArgs()...).start(), c.daemon(1).as(capabilities(t, string(unit)), env)}
			c.setConfig(config)
			for _, d := range daemons {
				d.awaitReady(1)
				d.awaitPlanEmpty()
			}
			pods := c.pods()
			c.mesh(pods, 1430)
			c.masquerade(pods)
			daemons[1].isOf(ownUser)
			daemons[1].stop()
			daemons[1].start().awaitReady(1)
			c.pair(pods[0], pods[2], 1430)
		})
	}
}

// capabilities are those that a unit gives its program, as setpriv names them.
func capabilities(t *testing.T, unit string) string {
	t.Helper()
	for line := range strings.Lines(unit) {
		if list, ok := strings.CutPrefix(line, "AmbientCapabilities="); ok {
			var out []string
			for _, name := range strings.Fields(strings.ToLower(list)) {
				out = append(out, "+"+strings.TrimPrefix(name, "cap_"))
			}
			return strings.Join(out, ",")
		}
	}
	t.Fatal("the unit names no AmbientCapabilities")
	return ""
}

// as starts the daemon as another user, who owns what systemd's tmpfiles and
// the unit's directories make theirs.
func (d *daemon) as(caps string, env []string) *daemon {
	d.t.Helper()
	own := filepath.Join(d.node.Dir, "own")
	lock := filepath.Join(d.node.Dir, "own.lock")
	if err := os.Mkdir(own, 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
	for _, path := range []string{own, lock} {
		if err := os.Chown(path, ownUser, ownUser); err != nil {
			d.t.Fatal(err)
		}
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		d.t.Fatal(err)
	}
	d.env = append(slices.Clone(env), "XTABLES_LOCKFILE="+lock)
	d.args = append([]string{
		fmt.Sprintf("--reuid=%d", ownUser), fmt.Sprintf("--regid=%d", ownUser), "--clear-groups", "--no-new-privs",
		"--bounding-set=-all," + caps, "--inh-caps=-all," + caps, "--ambient-caps=-all," + caps, "--", d.path,
	}, d.args...)
	for i, arg := range d.args {
		if arg == "--state-dir" {
			d.args[i+1] = filepath.Join(own, "state")
		}
	}
	d.path = setpriv
	if err := os.Chmod(d.node.Dir, 0o777); err != nil { //nolint:gosec // in a directory that only root can enter
		d.t.Fatal(err)
	}
	return d.start()
}

// isOf looks at the owner of what weftd has made, and who may ask it.
func (d *daemon) isOf(uid uint32) {
	d.t.Helper()
	socket := filepath.Join(d.node.Dir, "weftd.sock")
	for path, mode := range map[string]os.FileMode{
		d.node.SubnetFile(): 0o644, socket: os.ModeSocket | 0o660,
		filepath.Join(d.node.Dir, "own", "state", "lease.json"): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			d.t.Error(err)
			continue
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != uid || info.Mode() != mode {
			d.t.Errorf("%s: of %d, %s; want %d, %s", path, stat.Uid, info.Mode(), uid, mode)
		}
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = conn.Close()
	// Who may enter every directory, and is neither of the user nor of the group.
	const search = "=-all,+dac_read_search"
	stranger := exec.Command("setpriv", "--reuid=64918", "--regid=64918", "--clear-groups", "--bounding-set"+search,
		"--inh-caps"+search, "--ambient-caps"+search, filepath.Join(bin, "weftctl"), "status", "--socket", socket)
	if out, err := stranger.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
		d.t.Errorf("a stranger may ask: %v: %s", err, out)
	}
}
