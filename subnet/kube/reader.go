package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/pkg/httpclock"
	"github.com/weftnet/weft/subnet"
)

// Reader looks at a cluster for an operator's tool. It is of no Node, follows
// nothing and writes nothing; no request is repeated.
type Reader struct {
	opts  Options
	keys  keys
	api   *api
	epoch string
	clock *clock
}

// Member is what a Node says beside its lease.
type Member struct {
	Born    time.Time // when the Node was made
	Machine string    // its machine id, as the kubelet reads it; may be empty
}

// NewReader reads the credentials, and waits for nothing. Of o the place of the
// API server, Prefix and ConfigFile count, and for Denied which Node is ours.
func NewReader(o Options) (*Reader, error) {
	k, err := newKeys(cmp.Or(o.Prefix, defaultPrefix))
	if err != nil {
		return nil, err
	}
	config, err := credentials(o)
	if err != nil {
		return nil, err
	}
	r := &Reader{opts: o, keys: k, epoch: epochOf(config), clock: &clock{}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return dated{next, r.clock} })
	r.api, err = newAPI(config, "weftctl")
	return r, err
}

// Close ends idle connections.
func (r *Reader) Close() { r.api.client.CloseIdleConnections() }

// pageSize is how many Nodes are asked for at once, as kubectl does.
const pageSize = 500

// Leases gives the whole truth, once, and by name what else the Nodes say. The
// configuration is that of ConfigFile; without such a file there is none.
func (r *Reader) Leases(ctx context.Context) (subnet.Snapshot, map[string]Member, error) {
	t := trimmer{keys: r.keys.all()}
	all, members := map[string]*node{}, map[string]Member{}
	revision, err := r.api.each(ctx, metav1.ListOptions{Limit: pageSize}, func(from *corev1.Node) error {
		n, err := t.trim(from)
		if err == nil {
			all[n.name] = n
			members[n.name] = Member{Born: from.CreationTimestamp.UTC(), Machine: from.Status.NodeInfo.MachineID}
		}
		return err
	})
	if err != nil {
		return subnet.Snapshot{}, nil, fmt.Errorf("%w%s", err, remedy(err))
	}
	v := newView(r.keys)
	v.replace(all, revision)
	s := v.snapshot()
	s.Epoch = r.epoch
	raw, err := readSome(r.opts.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, members, nil
	}
	if err == nil {
		s.Config, err = parseConfig(raw)
	}
	if err != nil {
		bad := subnet.Skipped{ID: r.opts.ConfigFile, Field: "configuration", Reason: err.Error()}
		s.Malformed = append([]subnet.Skipped{bad}, s.Malformed...)
	}
	return s, members, nil
}

// Permission is a request that weftd makes.
type Permission struct {
	Verb, Resource string // "patch", "nodes/status"
	// Minor is one without which weftd serves pods all the same.
	Minor bool

	space, name string // of one object only
}

// permissions are what weftd has to be allowed.
func (r *Reader) permissions() []Permission {
	out := []Permission{
		{Verb: "get", Resource: "nodes"},
		{Verb: "list", Resource: "nodes"},
		{Verb: "watch", Resource: "nodes"},
		{Verb: "patch", Resource: "nodes/status"},
		{Verb: "create", Resource: "events", Minor: true, space: metav1.NamespaceDefault},
	}
	if r.opts.Node == "" && r.opts.PodName != "" {
		out = append(out, Permission{Verb: "get", Resource: "pods", space: r.opts.PodSpace, name: r.opts.PodName})
	}
	return out
}

// Denied gives what the API server would refuse of what weftd needs, to whoever
// these credentials are of.
func (r *Reader) Denied(ctx context.Context) (out []Permission, err error) {
	for _, p := range r.permissions() {
		allowed, err := r.api.allowed(ctx, p)
		if err != nil {
			return nil, err
		}
		if !allowed {
			out = append(out, p)
		}
	}
	return out, nil
}

// Clock is how far the API server's clock is ahead of ours, by its quickest
// answer so far, and how long that took; false without an answer.
func (r *Reader) Clock() (skew, took time.Duration, told bool) {
	r.clock.mu.Lock()
	defer r.clock.mu.Unlock()
	return r.clock.skew, r.clock.took, r.clock.told
}

// clock keeps the date of the quickest answer, which is the most exact.
type clock struct {
	mu         sync.Mutex
	skew, took time.Duration
	told       bool
}

type dated struct {
	next http.RoundTripper
	*clock
}

// RoundTrip makes a request.
func (d dated) RoundTrip(r *http.Request) (*http.Response, error) {
	asked := time.Now()
	answer, err := d.next.RoundTrip(r)
	if err != nil {
		return answer, err
	}
	took := time.Since(asked)
	d.mu.Lock()
	defer d.mu.Unlock()
	if skew, ok := httpclock.Skew(answer.Header, asked, took); ok && (!d.told || took < d.took) {
		d.skew, d.took, d.told = skew, took, true
	}
	return answer, nil
}
