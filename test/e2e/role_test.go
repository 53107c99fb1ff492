package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/subnet/etcd/embedded"
)

// roleEnv makes the binary of these tests be something else in a namespace: an
// etcd, or one who computes what a node's kernel should hold.
const (
	roleEnv   = "WEFT_E2E_ROLE"
	roleStore = "store"
	roleModel = "model"
)

// play is the whole program in such a role. Its arguments are one JSON text.
func play(role string) int {
	f, known := map[string]func(string) error{roleStore: playStore, roleModel: playModel}[role]
	if !known {
		fmt.Fprintf(os.Stderr, "%s=%s: no such role\n", roleEnv, role)
		return 2
	}
	if err := f(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// inRole prepares a process in a role.
func inRole(role string, args any) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, string(text))
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd, nil
}

// storeOptions are those of an etcd that stands alone.
type storeOptions struct{ Dir, Listen string }

func playStore(text string) error {
	var o storeOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := embedded.Start(ctx, embedded.Options{Dir: o.Dir, Listen: o.Listen, AllowPlaintext: true})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-s.Err():
		return errors.Join(err, s.Close())
	}
}

// store is an etcd on the host that is no node: what happens to it happens to no
// daemon.
type store struct {
	c    *cluster
	dir  string
	proc *topology.Process
}

// newStore starts one, with a configuration, and makes it the cluster's.
func (c *cluster) newStore(config string) *store {
	c.t.Helper()
	s := &store{c: c, dir: filepath.Join(filepath.Dir(c.Nodes[0].Dir), "store")}
	s.start()
	c.t.Cleanup(func() { s.kill() })
	c.store = s
	eventually(c.t, 20*time.Second, func() error {
		_, err := s.try("put", "/coreos.com/network/config", config)
		return err
	})
	return s
}

func (s *store) url() string {
	return "http://" + netip.AddrPortFrom(s.c.Outside.Addrs[0], 2379).String()
}

func (s *store) start() {
	s.c.t.Helper()
	cmd, err := inRole(roleStore, storeOptions{Dir: s.dir, Listen: s.url()})
	if err != nil {
		s.c.t.Fatal(err)
	}
	if s.proc, err = s.c.Outside.Start(cmd); err != nil {
		s.c.t.Fatal(err)
	}
}

// kill ends it as kill -9 does, stop in peace; both wait for its end.
func (s *store) kill() { s.end(syscall.SIGKILL) }
func (s *store) stop() { s.end(syscall.SIGTERM) }

func (s *store) end(by syscall.Signal) {
	_ = s.proc.Signal(by)
	<-s.proc.Done()
}

// freeze stops it as a machine that hangs does: connections stay, answers don't
// come. thaw ends that.
func (s *store) freeze() { _ = s.proc.Signal(syscall.SIGSTOP) }
func (s *store) thaw()   { _ = s.proc.Signal(syscall.SIGCONT) }

// try runs etcdctl against it.
func (s *store) try(args ...string) (string, error) {
	s.c.t.Helper()
	out, err := output(s.c.t, s.c.Outside, filepath.Join(bin, "etcdctl"),
		append([]string{"--endpoints", s.url(), "--command-timeout", "3s"}, args...)...)
	if err != nil {
		err = fmt.Errorf("etcdctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return out, err
}

const subnetsPrefix = "/coreos.com/network/subnets/"

// keyOf is the key of a lease, by what a daemon calls it.
func keyOf(id string) string { return subnetsPrefix + id }

// revoke ends the etcd lease that a key hangs on, which takes the key along.
func (s *store) revoke(key string) error {
	out, err := s.try("get", key, "-w", "fields")
	if err != nil {
		return err
	}
	var lease int64
	for line := range strings.Lines(out) {
		_, _ = fmt.Sscanf(line, `"Lease" : %d`, &lease) // other lines don't fit
	}
	_, err = s.try("lease", "revoke", fmt.Sprintf("%x", lease))
	return err
}
