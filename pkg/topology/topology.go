package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	// Eth0 is the interface of every node, of every pod and of the outside.
	Eth0 = "eth0"

	outsideHost = 254 // host part of the outside's address
	maxNodes    = 200 // so that a node's host part never meets the outside's
	defaultMTU  = 1500
)

// Options says what New makes.
type Options struct {
	Name     string         // begins the name of everything: lower case letters, digits, hyphens
	Dir      string         // holds one directory per node; made if it is not there
	Nodes    int            // 1 to 200
	Underlay []netip.Prefix // one per family; room for 255 hosts in each
	MTU      int            // of the underlay in bytes; 0: 1500
}

// Topology is what New made.
type Topology struct {
	Nodes   []*Node
	Outside *Namespace // a host of the underlay that is no node, and the nodes' default gateway

	options Options
}

// Node is a host of the underlay with a directory for its daemon's files.
type Node struct {
	Namespace
	Dir    string
	Bridge string // of its pods; empty: the plugin's default
	PTP    bool   // its pods get a link of their own instead
	// AllowSpoofing is that of the plugin's configuration; nil: it says nothing.
	// Pods are <node>/<name> there.
	AllowSpoofing []string
	// HostPorts are TCP ports of the node that lead to the same port of a pod, by
	// the pod's name.
	HostPorts map[string]uint16
}

// SubnetFile is where AddPod expects the subnet.env of the node's daemon.
func (n *Node) SubnetFile() string { return filepath.Join(n.Dir, "subnet.env") }

// Attachments is where the CNI plugin records the node's pods.
func (n *Node) Attachments() string { return filepath.Join(n.Dir, "attachments") }

// New makes the namespaces, joins them by a bridge and gives them addresses:
// .1, .2, … for the nodes and .254 for the outside. If it fails it leaves
// nothing behind; if something of that name is there already, it touches
// nothing and the error is fs.ErrExist.
func New(o Options) (*Topology, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	there, err := Find(o.Name)
	if err != nil {
		return nil, err
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("network namespace %s: %w", there[0], fs.ErrExist)
	}
	if o.MTU == 0 {
		o.MTU = defaultMTU
	}
	t := &Topology{options: o}
	if err := t.build(); err != nil {
		return nil, errors.Join(err, t.Down())
	}
	return t, nil
}

// Down removes every trace; see Clean.
func (t *Topology) Down() error { return Clean(t.options.Name, t.options.Dir) }

// The name of a topology must not look like that of another one's node.
var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

func (o Options) validate() error {
	if !validName.MatchString(o.Name) || nodeName.MatchString(o.Name) {
		return fmt.Errorf("topology %q: want lower case letters, digits and hyphens, no number at the end", o.Name)
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return fmt.Errorf("topology %s: %d nodes: want 1 to %d", o.Name, o.Nodes, maxNodes)
	}
	if len(o.Underlay) == 0 {
		return fmt.Errorf("topology %s: no underlay network", o.Name)
	}
	for _, p := range o.Underlay {
		if !p.IsValid() || p.Addr().BitLen()-p.Bits() < 8 {
			return fmt.Errorf("topology %s: underlay %s: want room for 255 hosts", o.Name, p)
		}
	}
	return nil
}

func (t *Topology) build() error {
	underlay, err := newNamespace(t.options.Name + "-underlay")
	if err != nil {
		return err
	}
	if err := underlay.Do(func() error { return addBridge(t.options.MTU) }); err != nil {
		return fmt.Errorf("underlay: %w", err)
	}
	t.Outside, err = t.addHost(underlay, t.options.Name+"-outside", "outside", outsideHost, false)
	if err != nil {
		return err
	}
	for i := 1; i <= t.options.Nodes; i++ {
		name := fmt.Sprintf("%s-%d", t.options.Name, i)
		dir := filepath.Join(t.options.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("directory of node %s: %w", name, err)
		}
		ns, err := t.addHost(underlay, name, "node"+strconv.Itoa(i), i, true)
		if err != nil {
			return err
		}
		t.Nodes = append(t.Nodes, &Node{Namespace: *ns, Dir: dir})
	}
	return nil
}

// addHost makes a namespace with eth0 on the underlay's bridge; port is the
// name of the other end there.
func (t *Topology) addHost(underlay *Namespace, name, port string, number int, gateway bool) (*Namespace, error) {
	ns, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	if err := plug(underlay, ns, port, t.options.MTU); err != nil {
		return nil, fmt.Errorf("plug %s into the underlay: %w", name, err)
	}
	for _, p := range t.options.Underlay {
		ns.Addrs = append(ns.Addrs, nth(p, number))
	}
	if err := ns.Do(func() error { return t.configure(ns.Addrs, gateway) }); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	if err := underlay.Do(func() error { return awaitCarrier(port) }); err != nil {
		return nil, fmt.Errorf("plug %s into the underlay: %w", name, err)
	}
	return ns, nil
}

func (t *Topology) configure(addrs []netip.Addr, gateway bool) error {
	if err := disableDAD(Eth0); err != nil {
		return err
	}
	for i, p := range t.options.Underlay {
		if err := addAddress(Eth0, netip.PrefixFrom(addrs[i], p.Bits())); err != nil {
			return err
		}
	}
	if err := linkUp(Eth0); err != nil {
		return err
	}
	if err := awaitCarrier(Eth0); err != nil {
		return err
	}
	if err := awaitAddresses(Eth0); err != nil || !gateway {
		return err
	}
	for _, p := range t.options.Underlay {
		if err := addDefaultRoute(nth(p, outsideHost)); err != nil {
			return err
		}
	}
	return nil
}

// nth is the network's address plus n, of at most one byte.
func nth(p netip.Prefix, n int) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	raw[len(raw)-1] += byte(n)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
