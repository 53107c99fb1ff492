package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/weftnet/weft/pkg/version"
)

// api is the few requests that we make. A scheme of the four kinds that occur
// in them, in place of the full clientset, keeps weftd small.
type api struct {
	client *http.Client
	rest   *rest.RESTClient
	params runtime.ParameterCodec
}

func newAPI(c *rest.Config, program string) (*api, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	scheme.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{}, &corev1.Event{})
	c = rest.CopyConfig(c)
	c.APIPath = "/api"
	c.GroupVersion = &corev1.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.ContentType = runtime.ContentTypeProtobuf
	c.UserAgent = program + "/" + version.Short()
	c.QPS = -1 // who repeats a request waits longer each time
	c.WarningHandler = rest.NoWarnings{}
	c.Dial = dialer().DialContext
	rereadToken(c)
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("use the credentials for the API server at %s: %w", c.Host, err)
	}
	r, err := rest.RESTClientForConfigAndClient(c, client)
	if err != nil {
		return nil, fmt.Errorf("use the API server at %s: %w", c.Host, err)
	}
	return &api{client: client, rest: r, params: runtime.NewParameterCodec(scheme)}, nil
}

// rereadToken has a token that stands in a file be read again when it was
// refused. The client alone would go on with the old one for up to a minute.
func rereadToken(c *rest.Config) {
	if c.BearerTokenFile == "" {
		return
	}
	c.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(c.BearerTokenFile)))
	c.BearerToken, c.BearerTokenFile = "", ""
}

// dialer gives up on a host that doesn't answer before the kernel would wait
// for long between two tries, and leaves a connection whose other end is silent
// after ten seconds: HTTP/2 as the client has it would take 45.
func dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         2 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5},
	}
}

// begin turns the client's own retries off: we have ours, and say so.
func begin(r *rest.Request) *rest.Request { return r.MaxRetries(0) }

// trimmer makes of a Node what is kept of it.
type trimmer struct {
	keys []string
	own  string // the Node whose conditions count
}

// trim copies what it keeps, so that the Node, of which most is the list of
// images, can be forgotten. An annotation that is too long stays too long.
func (t trimmer) trim(from *corev1.Node) (*node, error) {
	revision, err := revisionOf(from.ResourceVersion)
	if err != nil {
		return nil, err
	}
	n := &node{
		name: from.Name, uid: string(from.UID), born: from.CreationTimestamp.Unix(), revision: revision,
		podCIDRs: from.Spec.PodCIDRs, annotations: map[string]string{},
	}
	if len(n.podCIDRs) == 0 && from.Spec.PodCIDR != "" {
		n.podCIDRs = []string{from.Spec.PodCIDR}
	}
	for _, key := range t.keys {
		if value, found := from.Annotations[key]; found {
			n.annotations[key] = string([]byte(value[:min(len(value), maxValue+1)]))
		}
	}
	if n.name == t.own {
		n.network = networkOf(from)
	}
	return n, nil
}

func networkOf(n *corev1.Node) condition {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return condition{status: string(c.Status), reason: c.Reason, message: c.Message}
		}
	}
	return condition{}
}

// revisionOf reads a resource version: a decimal number that grows (KEP 5504
// makes a rule of what every API server does).
func revisionOf(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the API server's resource version %q is not a number", clip(s))
	}
	return n, nil
}

// list reads all Nodes, not older than a revision; 0: as they are in the
// server's cache. We ask for no pages, which would make the server read them
// from etcd. One that gives pages all the same is read to the end: what is not
// listed would be taken for deleted.
func (a *api) list(ctx context.Context, t trimmer, since int64) (map[string]*node, int64, error) {
	opts := metav1.ListOptions{ResourceVersion: strconv.FormatInt(since, 10)}
	if since > 0 {
		opts.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	}
	all := map[string]*node{}
	revision, err := a.each(ctx, opts, func(from *corev1.Node) error {
		n, err := t.trim(from)
		if err == nil {
			all[n.name] = n
		}
		return err
	})
	return all, revision, err
}

// each visits all Nodes, page by page where there are pages, and tells their
// revision. All pages are of one moment.
func (a *api) each(ctx context.Context, opts metav1.ListOptions, visit func(*corev1.Node) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	for {
		var got corev1.NodeList
		err := begin(a.rest.Get()).Resource("nodes").VersionedParams(&opts, a.params).Do(ctx).Into(&got)
		if err != nil {
			return 0, fmt.Errorf("list nodes: %w", err)
		}
		for i := range got.Items {
			if err := visit(&got.Items[i]); err != nil {
				return 0, err
			}
		}
		if got.Continue == "" {
			return revisionOf(got.ResourceVersion)
		}
		// A page names its revision itself.
		opts = metav1.ListOptions{Continue: got.Continue, Limit: opts.Limit}
	}
}

// revision is that of the store now. A list of one Node tells it.
func (a *api) revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var got corev1.NodeList
	opts := metav1.ListOptions{Limit: 1}
	if err := begin(a.rest.Get()).Resource("nodes").VersionedParams(&opts, a.params).Do(ctx).Into(&got); err != nil {
		return 0, fmt.Errorf("list nodes: %w", err)
	}
	return revisionOf(got.ResourceVersion)
}

// watch follows the Nodes from behind a revision on. With stream, it begins
// with all Nodes as they are now, and the server tells where that ends.
func (a *api) watch(ctx context.Context, since int64, stream bool, life time.Duration) (watch.Interface, error) {
	seconds := int64(life / time.Second) // after which the server ends it
	opts := metav1.ListOptions{Watch: true, AllowWatchBookmarks: true, TimeoutSeconds: &seconds}
	if stream {
		opts.SendInitialEvents = &stream
		opts.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	} else {
		opts.ResourceVersion = strconv.FormatInt(since, 10)
	}
	w, err := begin(a.rest.Get()).Resource("nodes").VersionedParams(&opts, a.params).Watch(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	return w, nil
}

func (a *api) get(ctx context.Context, name string) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var n corev1.Node
	if err := begin(a.rest.Get()).Resource("nodes").Name(name).Do(ctx).Into(&n); err != nil {
		return nil, fmt.Errorf("get node %s: %w", name, err)
	}
	return &n, nil
}

// patch merges into a Node by its status, which is all that RBAC has to allow:
// metadata can be changed by it, the spec can't.
func (a *api) patch(ctx context.Context, name string, content any) (*corev1.Node, error) {
	body, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var n corev1.Node
	err = begin(a.rest.Patch(types.StrategicMergePatchType)).Resource("nodes").Name(name).SubResource("status").
		Body(body).Do(ctx).Into(&n)
	if err != nil {
		return nil, fmt.Errorf("patch the status of node %s: %w", name, err)
	}
	return &n, nil
}

func (a *api) nodeOfPod(ctx context.Context, space, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var p corev1.Pod
	if err := begin(a.rest.Get()).Namespace(space).Resource("pods").Name(name).Do(ctx).Into(&p); err != nil {
		return "", err
	}
	if p.Spec.NodeName == "" {
		return "", errors.New("it is on no Node")
	}
	return p.Spec.NodeName, nil
}

// warn makes an Event on a Node.
func (a *api) warn(ctx context.Context, n *node, reason, message string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now := metav1.Now()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: n.name + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: n.name, UID: types.UID(n.uid), APIVersion: "v1"},
		Reason:         reason, Message: message, Type: corev1.EventTypeWarning,
		Source:         corev1.EventSource{Component: "weftd", Host: n.name},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	return begin(a.rest.Post()).Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
}

// review is a SelfSubjectAccessReview of authorization.k8s.io/v1.
type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Attributes attributes `json:"resourceAttributes"`
	} `json:"spec"`
	Status struct {
		Allowed bool `json:"allowed"`
	} `json:"status"`
}

type attributes struct {
	Verb        string `json:"verb"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
}

// allowed asks whether a request would be let through, which everybody may ask
// of himself (role system:basic-user).
func (a *api) allowed(ctx context.Context, p Permission) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r := review{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"}
	r.Spec.Attributes = attributes{Verb: p.Verb, Namespace: p.space, Name: p.name}
	r.Spec.Attributes.Resource, r.Spec.Attributes.Subresource, _ = strings.Cut(p.Resource, "/")
	body, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	raw, err := begin(a.rest.Post()).AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").
		SetHeader("Content-Type", runtime.ContentTypeJSON).SetHeader("Accept", runtime.ContentTypeJSON).
		Body(body).DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return false, fmt.Errorf("ask whether we may %s %s: %w", p.Verb, p.Resource, err)
	}
	return r.Status.Allowed, nil
}

// What the API server answers, in the terms in which we decide.

// refusesStream is an API server that doesn't know how to begin a watch with
// all that there is: by default on in 1.32, off in 1.33, on from 1.34 (WatchList
// in k8s.io/apiserver/pkg/features).
func refusesStream(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) }

// expired is a revision that can't be gone on from: it is too old or too new.
func expired(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || tooNew(err)
}

// tooNew is a revision that is still to come, as after a restore of etcd.
func tooNew(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// passes is an error that a retry can heal: the server wasn't reached, or is
// not well.
func passes(err error) bool {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		code := status.Status().Code
		return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
	}
	var network net.Error // a *url.Error is one
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}
