// Package kube takes the leases from the Node objects of Kubernetes, under the
// annotations and in the form that flannel uses, so that both kinds of node
// work side by side.
//
//	Node.spec.podCIDRs            the subnets: given by Kubernetes, never by us
//	Node.metadata.annotations     what a node announces about itself
//	a file, from a ConfigMap      the network configuration
//
// It owns the wire form (codec.go), one list and watch of all Nodes, and what
// this node writes into its own Node object, by patches of nodes/status. It
// refuses to choose a subnet, and to judge what other Nodes announce: that is
// subnet.Admit's business.
package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftnet/weft/subnet"
)

// Options say where the API server is and which Node is ours.
type Options struct {
	// URL and Kubeconfig are those of kubectl. Without both, the service
	// account that Kubernetes gives to a pod is used.
	URL, Kubeconfig string
	// Node is the name of our Node. Without it, that of the pod counts.
	Node              string
	PodName, PodSpace string
	Prefix            string // of the annotations; empty: flannel.alpha.coreos.com
	ConfigFile        string // the network configuration
	// KeepCondition keeps the Node's condition NetworkUnavailable true to what
	// SetNetworkAvailable says; without it that does nothing.
	KeepCondition bool
	// Took hears of each request that ended: what it asked for, in one of a few
	// words, how long it took, and whether it failed. It must not block, and be
	// safe for concurrent use; nil: nobody hears.
	Took func(op string, took time.Duration, err error)
	Log  logrus.FieldLogger
}

// Store is subnet.Store on Kubernetes Nodes.
type Store struct {
	opts  Options
	log   logrus.FieldLogger
	keys  keys
	read  []string // the annotations that are read
	api   *api
	epoch string
	nodes *hub

	onOutage func(error)

	mu    sync.Mutex
	name  string           // of our Node, once known
	wrote map[string]wrote // by Node
	said  map[string]bool  // what was logged, and told by an Event
}

var _ subnet.Store = (*Store)(nil)

// OnOutage has somebody told when the Nodes can't be followed, and with nil when
// they can again. The function must not block. It must be called before any other
// method.
func (s *Store) OnOutage(tell func(error)) { s.onOutage = tell }

// New reads the credentials. It does not wait for the API server, nor need it:
// every call does so itself.
func New(o Options) (*Store, error) {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	k, err := newKeys(o.Prefix)
	if err != nil {
		return nil, err
	}
	if o.Node == "" && (o.PodName == "" || o.PodSpace == "") {
		return nil, errors.New("which Node is ours is not known: set NODE_NAME (spec.nodeName by the downward API), " +
			"or POD_NAME and POD_NAMESPACE")
	}
	config, err := credentials(o)
	if err != nil {
		return nil, err
	}
	if o.Took != nil {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return timer{next, o.Took} })
	}
	client, err := newAPI(config, "weftd")
	if err != nil {
		return nil, err
	}
	s := &Store{
		opts: o, log: o.Log, keys: k, read: k.all(), api: client, epoch: epochOf(config), name: o.Node,
		wrote: map[string]wrote{}, said: map[string]bool{},
	}
	if s.log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		s.log = quiet
	}
	s.nodes = newHub(s)
	return s, nil
}

// Close ends idle connections; calls that are under way go on.
func (s *Store) Close() error {
	s.api.client.CloseIdleConnections()
	return nil
}

func credentials(o Options) (*rest.Config, error) {
	if o.URL == "" && o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server: %w; outside of a pod give --kubeconfig-file or --kube-api-url", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags(o.URL, o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return config, nil
}

// epochOf tells clusters apart: by the authority that signs for their API
// servers, of which a cluster has several addresses, else by the address.
func epochOf(c *rest.Config) string {
	if err := rest.LoadTLSFiles(c); err == nil && len(c.CAData) > 0 {
		return fmt.Sprintf("kubernetes-%x", sha256.Sum256(c.CAData))[:27]
	}
	return "kubernetes at " + c.Host
}

// nodeName gives the name of our Node.
func (s *Store) nodeName(ctx context.Context) (string, error) {
	s.mu.Lock()
	name := s.name
	s.mu.Unlock()
	if name != "" {
		return name, nil
	}
	name, err := s.api.nodeOfPod(ctx, s.opts.PodSpace, s.opts.PodName)
	if err != nil {
		return "", fmt.Errorf("find the Node of pod %s/%s: %w", s.opts.PodSpace, s.opts.PodName, err)
	}
	s.mu.Lock()
	s.name = name
	s.mu.Unlock()
	return name, nil
}

// Self gives what our Node says, as far as it was heard: the lease that this
// node announced last, be it as flannel or before a reboot, and the addresses
// that a user wants it to use in place of --public-ip. It doesn't block.
func (s *Store) Self() (last subnet.Lease, public []netip.Addr) {
	s.mu.Lock()
	name := s.name
	s.mu.Unlock()
	s.nodes.look(func(v *view) {
		e := v.nodes[name]
		if e == nil {
			return
		}
		public = s.keys.locals(&e.node)
		if e.lease != nil {
			last = *e.lease
		}
	})
	return last, public
}

const (
	requestTimeout = 15 * time.Second // one request; then the next try
	listTimeout    = 2 * time.Minute  // one list of all Nodes, tens of megabytes in a large cluster
)
