package topology

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	cni "github.com/containernetworking/cni/pkg/types/100"
)

// networkName is that of flannel's own CNI configuration, by which an existing
// node's address files are found.
const networkName = "cbr0"

// portMappings is the capability by which runtimes tell of host ports.
const portMappings = "portMappings"

var validPod = regexp.MustCompile(`^[a-z][a-z0-9]*$`)

// Pod is a namespace that a CNI plugin attached to its node.
type Pod struct {
	Namespace
	node   *Node
	plugin string
}

// AddPod makes the namespace <node>-<name> and attaches it as a container
// runtime would: through libcni, with the plugin binary run in the node's
// namespace. The plugin reads the node's SubnetFile and keeps its files below
// the node's Dir. A pod whose attachment fails is removed again.
func (n *Node) AddPod(ctx context.Context, plugin, name string) (*Pod, error) {
	if !validPod.MatchString(name) {
		return nil, fmt.Errorf("pod %q: want lower case letters and digits, a letter first", name)
	}
	ns, err := newNamespace(n.Name + "-" + name)
	if err != nil {
		return nil, err
	}
	pod := &Pod{Namespace: *ns, node: n, plugin: plugin}
	if pod.Addrs, err = pod.attach(ctx); err != nil {
		return nil, errors.Join(err, deleteNamespace(ns.Name))
	}
	return pod, nil
}

func (p *Pod) attach(ctx context.Context) ([]netip.Addr, error) {
	list, err := p.node.networkList(p.plugin)
	if err != nil {
		return nil, err
	}
	result, err := p.runtime().AddNetworkList(ctx, list, p.runtimeConf())
	if err != nil {
		return nil, fmt.Errorf("attach pod %s: %w", p.Name, err)
	}
	current, err := cni.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("attach pod %s: plugin's result: %w", p.Name, err)
	}
	var addrs []netip.Addr
	for _, ip := range current.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("attach pod %s: plugin's result: address %q", p.Name, ip.Address)
		}
		addrs = append(addrs, addr.Unmap())
	}
	return addrs, nil
}

// Delete detaches the pod and deletes its namespace, this also when detaching
// gave an error.
func (p *Pod) Delete(ctx context.Context) error {
	list, err := p.node.networkList(p.plugin)
	if err == nil {
		err = p.runtime().DelNetworkList(ctx, list, p.runtimeConf())
	}
	if err != nil {
		err = fmt.Errorf("detach pod %s: %w", p.Name, err)
	}
	return errors.Join(err, deleteNamespace(p.Name))
}

func (p *Pod) runtimeConf() *libcni.RuntimeConf {
	name := strings.TrimPrefix(p.Name, p.node.Name+"-")
	conf := &libcni.RuntimeConf{
		ContainerID: p.Name, NetNS: p.Path(), IfName: Eth0,
		Args: [][2]string{ // as of Kubernetes' runtimes
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.node.Name},
			{"K8S_POD_NAME", name},
		},
	}
	if port := p.node.HostPorts[name]; port > 0 {
		conf.CapabilityArgs = map[string]any{
			portMappings: []map[string]any{{"hostPort": port, "containerPort": port, "protocol": "tcp"}},
		}
	}
	return conf
}

func (p *Pod) runtime() libcni.CNI {
	exec := nodeExec{Exec: &invoke.DefaultExec{RawExec: &invoke.RawExec{}}, node: p.node}
	return libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(p.plugin)}, filepath.Join(p.node.Dir, "cni-cache"), exec)
}

// networkList is what stands in /etc/cni/net.d of a node, with the paths of
// this one.
func (n *Node) networkList(plugin string) (*libcni.NetworkConfigList, error) {
	delegate := map[string]any{"hairpinMode": true, "isDefaultGateway": true}
	if n.Bridge != "" {
		delegate["bridge"] = n.Bridge
	}
	own := map[string]any{
		"type":         filepath.Base(plugin),
		"capabilities": map[string]bool{portMappings: true},
		"subnetFile":   n.SubnetFile(),
		"stateDir":     n.Attachments(),
		"dataDir":      filepath.Join(n.Dir, "cni"),
		"ipam":         map[string]any{"dataDir": filepath.Join(n.Dir, "networks")},
	}
	switch {
	case n.PTP:
		own["mode"] = "ptp"
	case n.HostPorts != nil: // in flannel's form they are portmap's
		own["bridge"] = cmp.Or(n.Bridge, "cni0")
	default:
		own["delegate"] = delegate
	}
	if n.AllowSpoofing != nil {
		own["allowSpoofing"] = n.AllowSpoofing
	}
	conf := map[string]any{"cniVersion": "1.0.0", "name": networkName, "plugins": []any{own}}
	raw, err := json.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("network configuration of %s: %w", n.Name, err)
	}
	list, err := libcni.NetworkConfFromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("network configuration of %s: %w", n.Name, err)
	}
	return list, nil
}

// nodeExec runs plugins where a container runtime would: on the node.
type nodeExec struct {
	invoke.Exec
	node *Node
}

func (e nodeExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (out []byte, err error) {
	err = e.node.Do(func() (err error) {
		out, err = e.Exec.ExecPlugin(ctx, path, stdin, env)
		return err
	})
	return out, err
}
