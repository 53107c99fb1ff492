// Package kube runs a real Kubernetes on nodes made of namespaces: etcd, API
// server, controller manager and scheduler on the first of them, containerd,
// kubelet and kube-proxy on each. The network plugin is the caller's business.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/test/cluster/node"
	"github.com/weftnet/weft/test/cluster/sandbox"
)

const (
	name     = "e2e" // begins the names of namespaces and nodes
	patience = 2 * time.Minute

	imagesDir = "/e2e/images" // in a node
)

// Options says what Start makes.
type Options struct {
	Box    sandbox.Box
	Bin    string // the directory of hyperkube, containerd, runc and the CNI plugin loopback
	Images string // a directory of OCI or Docker archives, for every node
	Nodes  int
	Proxy  string // mode of kube-proxy: iptables or nftables
}

// Cluster is what Start made.
type Cluster struct {
	Outside *topology.Namespace // a host that is no node: the nodes' default gateway
	Nodes   []*Machine
	Client  kubernetes.Interface // an administrator
	Config  *rest.Config         // its configuration

	APIServer, Controllers, Scheduler *node.Service

	options   Options
	topology  *topology.Topology
	authority *authority
	files     map[string]string // of every node
	etcd      *node.Service
}

// Machine is a node of the cluster with its daemons.
type Machine struct {
	*node.Node
	Net                        *topology.Namespace
	Containerd, Kubelet, Proxy *node.Service

	cluster *Cluster
}

// Start makes a cluster whose nodes have no network plugin yet, so that none of
// them gets Ready. It ends with its box.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	var err error
	c.topology, err = topology.New(topology.Options{
		Name: name, Dir: filepath.Join(o.Box.Dir, "topology"), Nodes: o.Nodes,
		Underlay: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:172:30::/64")},
	})
	if err != nil {
		return nil, err
	}
	c.Outside = c.topology.Outside
	if err := c.prepare(); err != nil {
		return nil, err
	}
	for i, n := range c.topology.Nodes {
		m, err := c.boot(ctx, i, &n.Namespace)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, m)
	}
	group, within := errgroup.WithContext(ctx)
	group.Go(func() error { return c.control(within) })
	for _, m := range c.Nodes {
		group.Go(func() error { return m.Run(within) })
	}
	return c, group.Wait()
}

func (c *Cluster) api() netip.Addr { return c.topology.Nodes[0].Addrs[0] }

func (c *Cluster) url() string { return fmt.Sprintf("https://%s:6443", c.api()) }

// prepare makes the keys of all, and our own way in.
func (c *Cluster) prepare() (err error) {
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	admin, err := c.authority.user("admin", "system:masters")
	if err != nil {
		return err
	}
	c.Config = &rest.Config{Host: c.url(), QPS: -1, Dial: c.dial, TLSClientConfig: rest.TLSClientConfig{
		CAData: c.authority.cert, CertData: admin.cert, KeyData: admin.key,
	}}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	proxy, err := c.authority.kubeconfig(c.url(), "system:kube-proxy", "system:node-proxier")
	c.files = map[string]string{
		"/etc/kubernetes/ca.crt":      string(c.authority.cert),
		"/etc/kubernetes/proxy.conf":  proxy,
		"/etc/kubernetes/proxy.yml":   proxyConfig(c.options.Proxy),
		"/etc/kubernetes/kubelet.yml": kubeletConfig(),
		"/etc/containerd/config.toml": containerdConfig(),
		"/etc/resolv.conf":            "",
		"/etc/hosts":                  "127.0.0.1 localhost\n::1 localhost\n",
	}
	return err
}

// dial connects from the outside, where we are.
func (c *Cluster) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.Outside.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (c *Cluster) boot(ctx context.Context, i int, ns *topology.Namespace) (*Machine, error) {
	host := fmt.Sprintf("node-%d", i+1)
	files := map[string]string{"/etc/hostname": host + "\n"}
	for path, content := range c.files {
		files[path] = content
	}
	kubelet, err := c.authority.kubeconfig(c.url(), "system:node:"+host, "system:nodes")
	if err != nil {
		return nil, err
	}
	files["/etc/kubernetes/kubelet.conf"] = kubelet
	if i == 0 {
		if err := c.controlFiles(files); err != nil {
			return nil, err
		}
	}
	upper := filepath.Join("/run", "upper", host)
	n, err := node.Boot(ctx, ns, node.Spec{
		Name: host, Dir: filepath.Join(c.options.Box.Dir, host), Upper: upper,
		Bind: map[string]string{c.options.Bin: node.Bin, c.options.Images: imagesDir}, Files: files,
	})
	if err != nil {
		return nil, err
	}
	return &Machine{Node: n, Net: ns, cluster: c}, nil
}

// controlFiles are those that only the node of the control plane has.
func (c *Cluster) controlFiles(files map[string]string) error {
	serving, err := c.authority.server(append([]netip.Addr{
		netip.MustParseAddr(kubernetes4), netip.MustParseAddr(kubernetes6), netip.IPv6Loopback(),
		netip.MustParseAddr("127.0.0.1"),
	}, c.topology.Nodes[0].Addrs...))
	if err != nil {
		return err
	}
	files["/etc/kubernetes/apiserver.crt"] = string(serving.cert)
	files["/etc/kubernetes/apiserver.key"] = string(serving.key)
	files["/etc/kubernetes/admin.crt"] = string(c.Config.CertData)
	files["/etc/kubernetes/admin.key"] = string(c.Config.KeyData)
	files["/etc/kubernetes/audit.yml"] = auditPolicy
	for file, user := range map[string][2]string{
		"admin":       {"admin", "system:masters"},
		"controllers": {"system:kube-controller-manager", ""},
		"scheduler":   {"system:kube-scheduler", ""},
	} {
		conf, err := c.authority.kubeconfig(c.url(), user[0], user[1])
		if err != nil {
			return err
		}
		files["/etc/kubernetes/"+file+".conf"] = conf
	}
	return nil
}

// control starts the control plane and waits until the API server is ready.
func (c *Cluster) control(ctx context.Context) (err error) {
	first := c.Nodes[0]
	if c.etcd, err = first.Serve("etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn"); err != nil {
		return err
	}
	if c.APIServer, err = first.Serve("kube-apiserver", apiserverFlags(c.api().String())...); err != nil {
		return err
	}
	err = Eventually(ctx, patience, "the API server", func() error {
		if err := errors.Join(c.etcd.Running(), c.APIServer.Running()); err != nil {
			return Final(err)
		}
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return err
	}
	if c.Controllers, err = first.Serve("kube-controller-manager", controllerFlags()...); err != nil {
		return err
	}
	c.Scheduler, err = first.Serve("kube-scheduler",
		"--kubeconfig=/etc/kubernetes/scheduler.conf", "--leader-elect=false")
	return err
}

// Run starts the daemons of a node that was booted.
func (m *Machine) Run(ctx context.Context) (err error) {
	if m.Containerd, err = m.Serve("containerd", "--config=/etc/containerd/config.toml"); err != nil {
		return err
	}
	err = Eventually(ctx, patience, "containerd of "+m.Name, func() error {
		if err := m.Containerd.Running(); err != nil {
			return Final(err)
		}
		_, err := m.Output(ctx, "ctr", "version")
		return err
	})
	if err != nil {
		return err
	}
	if err := m.load(ctx); err != nil {
		return err
	}
	var addrs []string
	for _, a := range m.Net.Addrs {
		addrs = append(addrs, a.String())
	}
	if m.Kubelet, err = m.Serve("kubelet", kubeletFlags(m.Name, addrs)...); err != nil {
		return err
	}
	m.Proxy, err = m.Serve("kube-proxy", "--config=/etc/kubernetes/proxy.yml", "--hostname-override="+m.Name)
	return err
}

// load imports the images, and gives the node the plugin that containerd runs
// for lo before ours.
func (m *Machine) load(ctx context.Context) error {
	plugin := "/opt/cni/bin/loopback"
	raw, err := os.ReadFile(filepath.Join(m.cluster.options.Bin, "loopback"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.Path(plugin), raw, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	archives, err := os.ReadDir(m.cluster.options.Images)
	if err != nil {
		return err
	}
	for _, a := range archives {
		at := filepath.Join(imagesDir, a.Name())
		if _, err := m.Output(ctx, "ctr", "-n", "k8s.io", "images", "import", at); err != nil {
			return err
		}
	}
	return nil
}
