package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/test/reference"
)

// TestCommandsOfPages runs what blocks that name this test tell an operator to
// type, and each command in the running text that only looks, on a node with a
// peer and pods.
func TestCommandsOfPages(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, underlay4, underlay6)
	storeNode := c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start()
	d := c.daemon(1).start()
	storeNode.awaitReady(1)
	d.awaitReady(1)
	pods := c.pods()
	c.mesh(pods, 1430)
	d.awaitPlanEmpty()

	var looks, cleanups []string
	for _, cmd := range reference.Commands(t) {
		if cmd.Words[0] != "weftctl" || cmd.Block && cmd.Mark != "run: test/e2e: "+t.Name() || len(cmd.Words) < 2 {
			continue
		}
		switch line := typed(cmd, c, pods); {
		case cmd.Words[1] == "cleanup" && cmd.Block:
			cleanups = append(cleanups, line)
		case cmd.Block || readsOnly(cmd.Words[1:]):
			looks = append(looks, line)
		}
	}
	if len(looks) < 30 || len(cleanups) < 3 {
		t.Errorf("only %d commands that look, %d cleanups", len(looks), len(cleanups))
	}
	dir := wrapped(t, d)
	run := func(line string) {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "WEFTD_ETCD_ENDPOINTS="+c.etcdURL())
		if out, err := outputOf(t, &d.node.Namespace, cmd); err != nil || out == "" && !strings.ContainsAny(line, "<>") {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	slices.Sort(looks)
	for _, line := range slices.Compact(looks) {
		run(line)
	}
	d.stop()
	for _, line := range cleanups {
		run(line)
	}
}

// readsOnly tells of a command that it changes nothing, ends by itself, and is
// whole.
func readsOnly(args []string) bool {
	switch args[0] {
	case "status", "peers", "plan", "diff", "events", "leases", "doctor", "version":
		return !slices.Contains(args, "-f") && !slices.Contains(args, reference.Placeholder) &&
			!slices.Contains(args, "--kube-subnet-mgr") // TestDoctorInKubernetes has an API server
	case "trace":
		return len(args) >= 3 && args[1] != "SRC" && args[1][0] != '-'
	case "config":
		return slices.Equal(args, []string{"config", "get"})
	case "cni":
		return len(args) == 2 && (args[1] == "list" || args[1] == "calls")
	}
	return false
}

// typed puts this cluster's addresses in place of those on the page.
func typed(cmd reference.Command, c *cluster, pods []*topology.Pod) string {
	line := cmd.Text
	if i := strings.Index(line, "-- weftctl"); i > 0 { // in the pod
		line = line[i+len("-- "):]
	}
	line = regexp.MustCompile(`http://[0-9.]+:2379`).ReplaceAllString(line, c.etcdURL())
	if readsOnly(cmd.Words[1:]) && cmd.Words[1] == "trace" {
		ends := []string{pods[2].Addrs[0].String(), pods[0].Addrs[0].String()}
		for i, word := range cmd.Words[2:4] {
			line = strings.Replace(line, word, ends[i], 1)
		}
	}
	return line
}

// wrapped gives a directory with a weftctl that knows where this node's files
// are, which are not where they are on a machine of its own.
func wrapped(t *testing.T, d *daemon) (dir string) {
	t.Helper()
	dir = t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
case "$1" in
trace|doctor) set -- "$@" --subnet-file %[3]s --attachments-dir %[4]s ;;
cni) set -- "$@" --attachments-dir %[4]s ;;
status|cleanup) set -- "$@" --subnet-file %[3]s --state-dir %[5]s ;;
esac
exec %[1]s "$@" --socket %[2]s
`, filepath.Join(bin, "weftctl"), filepath.Join(d.node.Dir, "weftd.sock"), d.node.SubnetFile(), d.node.Attachments(),
		filepath.Join(d.node.Dir, "state"))
	if err := os.WriteFile(filepath.Join(dir, "weftctl"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return dir
}
