// Package kubetest is the part of a Kubernetes API server that weft talks to,
// in memory and behind real HTTP: Nodes with list, watch, streamed list and
// patches of the status, a Pod to get, Events to create, reviews of what one
// may do; in JSON and protobuf.
//
// It owns the habits of the real one that a client can trip over: resource
// versions, conflicts, bookmarks, histories that end (410 Gone), requests that
// are forbidden, connections that break. It refuses to be a cluster: nothing in
// it acts by itself, and creation times are a second apart whatever the clock
// says.
package kubetest

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Server is one API server. Its methods are what others do to it: users, the
// controller manager, kubelets, and fate.
type Server struct {
	codec codec

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when anything below changes
	revision int64
	born     int64
	nodes    map[string]*corev1.Node
	pods     map[string]string // namespace/name → Node
	history  []event
	begins   int64 // history holds what came after this revision
	dropped  int64 // how many events it held before
	noStream bool
	jsonOnly bool
	refused  map[string]int // verb and resource → status code
	counts   map[string]int // requests by verb and resource
	events   []corev1.Event
	streams  int // watches that are open
	bytes    int64
	skew     time.Duration
}

type event struct {
	kind     watch.EventType
	revision int64
	node     *corev1.Node // nil: a bookmark
}

// New makes a server without any Node.
func New() *Server {
	return &Server{
		codec: newCodec(), changed: make(chan struct{}), revision: 100, begins: 100,
		born:  time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix(),
		nodes: map[string]*corev1.Node{}, pods: map[string]string{},
		refused: map[string]int{}, counts: map[string]int{},
	}
}

// Door is an address at which the server can be reached, until it is shut.
type Door struct {
	URL    string
	server *httptest.Server
	mu     sync.Mutex
	shut   bool
}

// Open makes a new Door, which ends with the test.
func (s *Server) Open(t testing.TB) *Door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return s.OpenOn(t, l)
}

// OpenOn is Open with a listener, which may be one of another network
// namespace.
func (s *Server) OpenOn(t testing.TB, l net.Listener) *Door {
	t.Helper()
	d := &Door{}
	d.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		shut := d.shut
		d.mu.Unlock()
		if shut {
			panic(http.ErrAbortHandler) // the connection just ends
		}
		s.serve(w, r)
	}))
	_ = d.server.Listener.Close() // the one that it made for itself
	d.server.Listener = l
	d.server.Start()
	d.URL = d.server.URL
	t.Cleanup(func() {
		d.Shut()
		d.server.Close()
	})
	return d
}

// Shut ends all connections and lets none through.
func (d *Door) Shut() {
	d.mu.Lock()
	d.shut = true
	d.mu.Unlock()
	d.server.CloseClientConnections()
}

// Reopen lets them through again.
func (d *Door) Reopen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = false
}

// Break ends the connections that there are; new ones are let through.
func (d *Door) Break() { d.server.CloseClientConnections() }

func (s *Server) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Create adds a Node with these pod subnets.
func (s *Server) Create(name string, podCIDRs ...string) {
	s.update(func() {
		s.born++
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012x", s.born)),
			CreationTimestamp: metav1.Unix(s.born, 0),
		}}
		setCIDRs(n, podCIDRs)
		s.put(watch.Added, n)
	})
}

func setCIDRs(n *corev1.Node, podCIDRs []string) {
	n.Spec.PodCIDRs, n.Spec.PodCIDR = podCIDRs, ""
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
}

// SetPodCIDRs gives a Node pod subnets, as the controller manager does.
func (s *Server) SetPodCIDRs(name string, podCIDRs ...string) {
	s.Change(name, func(n *corev1.Node) { setCIDRs(n, podCIDRs) })
}

// Annotate writes annotations of a Node; an empty value removes one.
func (s *Server) Annotate(name string, values map[string]string) {
	s.Change(name, func(n *corev1.Node) {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		for key, value := range values {
			n.Annotations[key] = value
			if value == "" {
				delete(n.Annotations, key)
			}
		}
	})
}

// Change changes a Node that is there, as anybody could.
func (s *Server) Change(name string, f func(*corev1.Node)) {
	s.update(func() {
		if have := s.nodes[name]; have != nil {
			n := have.DeepCopy()
			f(n)
			s.put(watch.Modified, n)
		}
	})
}

// put makes a new revision of a Node. The caller holds mu.
func (s *Server) put(kind watch.EventType, n *corev1.Node) {
	s.revision++
	n.ResourceVersion = fmt.Sprint(s.revision)
	s.nodes[n.Name] = n
	s.history = append(s.history, event{kind, s.revision, n})
}

// Delete deletes a Node, if it is there.
func (s *Server) Delete(name string) {
	s.update(func() {
		if n := s.nodes[name]; n != nil {
			gone := n.DeepCopy()
			s.put(watch.Deleted, gone)
			delete(s.nodes, name)
		}
	})
}

// Node gives a Node as it is; nil: there is none.
func (s *Server) Node(name string) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[name].DeepCopy()
}

// AddPod puts a Pod on a Node.
func (s *Server) AddPod(namespace, name, node string) {
	s.update(func() { s.pods[namespace+"/"+name] = node })
}

// Bookmark sends all watches a bookmark of the newest revision.
func (s *Server) Bookmark() {
	s.update(func() { s.history = append(s.history, event{watch.Bookmark, s.revision, nil}) })
}

// Forget ends the history: a watch from before now is told 410 Gone.
func (s *Server) Forget() {
	s.update(func() { s.forget(s.revision) })
}

func (s *Server) forget(revision int64) {
	s.dropped += int64(len(s.history))
	s.history, s.begins = nil, revision
}

// Restore puts everything back to these revisions' past: the revision falls.
func (s *Server) Restore(to int64) {
	s.update(func() {
		s.forget(to)
		s.revision = to
		for name, n := range s.nodes {
			n = n.DeepCopy()
			n.ResourceVersion = fmt.Sprint(to)
			s.nodes[name] = n
		}
	})
}

// Revision is the newest one.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// Modes sets what the server can do: begin a watch with all Nodes, and speak
// protobuf.
func (s *Server) Modes(stream, protobuf bool) {
	s.update(func() { s.noStream, s.jsonOnly = !stream, !protobuf })
}

// SetClock has the server's clock be ahead of ours by so much; behind if that
// is negative.
func (s *Server) SetClock(ahead time.Duration) {
	s.update(func() { s.skew = ahead })
}

// Refuse answers requests such as "patch nodes/status" with a status code, 429
// with Retry-After: 1; 0 ends that.
func (s *Server) Refuse(what string, code int) {
	s.update(func() { s.refused[what] = code })
}

// Counts gives how many requests of each kind there were.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Events gives the Events that were created.
func (s *Server) Events() []corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Streams is how many watches are open.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// Sent is how many bytes watches were sent.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}
