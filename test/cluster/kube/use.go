package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/test/cluster/node"
)

// Kubectl runs kubectl on the first node, as an administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Nodes[0].Output(ctx, "kubectl", append([]string{"--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...)
}

// Reboot boots a node that was halted, from nothing: its disk is empty.
func (c *Cluster) Reboot(ctx context.Context, m *Machine) error {
	spec := m.Spec
	for _, dir := range []string{spec.Dir, spec.Upper} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	var err error
	if m.Node, err = node.Boot(ctx, m.Net, spec); err != nil {
		return err
	}
	return m.Run(ctx)
}

// ProxyMode runs kube-proxy in another mode on all nodes, after it has removed
// what it had made in the one before.
func (c *Cluster) ProxyMode(ctx context.Context, mode string) error {
	c.options.Proxy = mode
	var group errgroup.Group
	for _, m := range c.Nodes {
		group.Go(func() error {
			const config = "/etc/kubernetes/proxy.yml"
			m.Files[config] = proxyConfig(mode) // for the next boot
			if err := m.Proxy.Stop(); err != nil {
				return err
			}
			if err := os.WriteFile(m.Path(config), []byte(m.Files[config]), 0o600); err != nil {
				return err
			}
			if _, err := m.Output(ctx, "kube-proxy", "--config="+config, "--cleanup"); err != nil {
				return err
			}
			return m.Proxy.Start()
		})
	}
	return group.Wait()
}

// Writes are those requests since from that users of a prefix made, each as
// "verb resource name"; of the others it gives the number.
func (c *Cluster) Writes(from time.Time, prefix string) (found []string, others int, err error) {
	f, err := os.Open(c.Nodes[0].Path(auditLog))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb                     string
			RequestReceivedTimestamp time.Time
			User                     struct{ Username string }
			ObjectRef                struct{ Resource, Subresource, Name string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, 0, fmt.Errorf("audit log: %w", err)
		}
		switch {
		case e.RequestReceivedTimestamp.Before(from):
		case strings.HasPrefix(e.User.Username, prefix):
			o := e.ObjectRef
			found = append(found, fmt.Sprintf("%s %s/%s %s", e.Verb, o.Resource, o.Subresource, o.Name))
		default:
			others++
		}
	}
	return found, others, lines.Err()
}

// Running gives an error if a daemon that should run has ended.
func (c *Cluster) Running() error {
	all := []*node.Service{c.etcd, c.APIServer, c.Controllers, c.Scheduler}
	for _, m := range c.Nodes {
		all = append(all, m.Containerd, m.Kubelet, m.Proxy)
	}
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Running())
	}
	return errors.Join(errs...)
}
