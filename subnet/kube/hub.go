package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sirupsen/logrus"
)

// hub shares one list and watch of the Nodes among all who look at them. It
// runs while somebody does.
type hub struct {
	s *Store

	life  sync.Mutex // guards users and stop
	users int
	stop  func()

	mu      sync.Mutex
	view    *view
	changed chan struct{} // closed, and replaced, when view says something else
}

func newHub(s *Store) *hub {
	return &hub{s: s, view: newView(s.keys), changed: make(chan struct{})}
}

// join begins to follow the Nodes; leave must be called.
func (h *hub) join() {
	h.life.Lock()
	defer h.life.Unlock()
	h.users++
	if h.users > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f := follower{h: h, api: h.s.api, out: outage{log: h.s.log, tell: h.s.onOutage}, stream: true}
		f.run(ctx)
	}()
	h.stop = func() { cancel(); <-ended }
}

func (h *hub) leave() {
	h.life.Lock()
	defer h.life.Unlock()
	h.users--
	if h.users > 0 {
		return
	}
	h.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.view = newView(h.s.keys) // it grows old now
}

// look reads the view. changed is closed when it says something else.
func (h *hub) look(f func(*view)) (changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.view)
	return h.changed
}

// update changes the view and wakes those who wait if f says so.
func (h *hub) update(f func(*view) (changed bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f(h.view) {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// follower keeps a hub's view current.
//
//	     ┌───────── expired, restored ─────────┐
//	     ▼                                     │
//	stream or list all ──→ watch from there ───┤
//	                            ▲              │
//	                            └── broken ────┘
type follower struct {
	h      *hub
	api    *api
	out    outage
	stream bool             // the server can begin a watch with all Nodes, as far as known
	synced bool             // the view is whole, and the watch can go on from revision
	since  int64            // what was heard last
	fresh  map[string]*node // what the stream gave so far, until it is whole
	until  time.Time        // when the server shall end the watch
	away   bool             // it was broken before that, so that the server may be another now
	pace   pacer
}

// errRestored is a store that went back in time.
var errRestored = errors.New("the API server's store went back in time, as if restored from a backup")

// errEnded is a watch that the server ended at its time, errAtOnce one that it
// ended before it had begun.
var (
	errEnded  = errors.New("the watch ended")
	errAtOnce = errors.New("the API server ends the connection at once")
)

func (f *follower) run(ctx context.Context) {
	for {
		began := time.Now()
		err := f.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case f.stream && !f.synced && refusesStream(err):
			f.stream = false
			continue
		case expired(err):
			if !f.synced || tooNew(err) {
				f.since = 0
			}
			f.synced = false
		case errors.Is(err, errRestored):
			f.synced, f.since = false, 0
			f.h.s.log.Warn(err.Error())
		case errors.Is(err, errEnded):
			f.away = time.Now().Before(f.until)
		default:
			f.away = true
			f.out.begin(err)
		}
		d := f.pace.next(err, time.Since(began))
		if !f.synced {
			d += f.spread()
		}
		if sleep(ctx, d) != nil {
			return
		}
	}
}

// round reads everything if it has to, then follows until that breaks.
func (f *follower) round(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !f.synced && !f.stream {
		all, revision, err := f.api.list(ctx, f.h.s.trimmer(), f.since)
		if err != nil {
			return err
		}
		f.whole(all, revision)
	}
	if f.synced && f.away {
		if err := f.compare(ctx); err != nil {
			return err
		}
	}
	f.away = false
	stream := !f.synced
	f.fresh = map[string]*node{}
	// All nodes shall not come back at once.
	life := 5*time.Minute + rand.N(5*time.Minute)
	f.until = time.Now().Add(life)
	w, err := f.api.watch(ctx, f.since, stream, life)
	if err != nil {
		return err
	}
	defer w.Stop()
	// A client whose connection was refused with an EOF says that it watches,
	// and then that this has ended.
	alive := time.NewTimer(time.Second)
	defer alive.Stop()
	ended := errAtOnce
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return ended
			}
			if err := f.take(e); err != nil {
				return err
			}
			ended = errEnded
			f.out.end()
		case <-alive.C:
			ended, f.pace = errEnded, pacer{}
			f.out.end()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare tells a store that went back in time: a watch from a revision that is
// still to come would hear nothing until then, or until the next bookmark.
func (f *follower) compare(ctx context.Context) error {
	now, err := f.api.revision(ctx)
	if err == nil && now < f.since {
		err = errRestored
	}
	return err
}

// spread is a moment of the time in which the nodes of this cluster read all
// Nodes anew.
func (f *follower) spread() time.Duration {
	known := 0
	f.h.look(func(v *view) { known = len(v.nodes) })
	return rand.N(1 + time.Duration(known)*spreadOne)
}

func (f *follower) whole(all map[string]*node, revision int64) {
	f.synced, f.since, f.fresh, f.pace = true, revision, nil, pacer{}
	f.h.update(func(v *view) bool { return v.replace(all, revision) })
}

// take takes one event of the watch.
func (f *follower) take(e watch.Event) error {
	if e.Type == watch.Error {
		return fmt.Errorf("watch nodes: %w", apierrors.FromObject(e.Object))
	}
	from, ok := e.Object.(*corev1.Node)
	if !ok {
		return fmt.Errorf("watch nodes: the API server sent a %T", e.Object)
	}
	n, err := f.h.s.trimmer().trim(from)
	if err != nil {
		return err
	}
	if f.synced && n.revision < f.since {
		return errRestored
	}
	if f.synced {
		f.since, f.pace = n.revision, pacer{}
		f.h.update(func(v *view) bool { return change(v, e.Type, n) })
		return nil
	}
	switch e.Type {
	case watch.Deleted:
		delete(f.fresh, n.name)
	case watch.Bookmark:
		if from.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			f.whole(f.fresh, n.revision)
		}
	default:
		f.fresh[n.name] = n
	}
	return nil
}

func change(v *view, event watch.EventType, n *node) (changed bool) {
	switch event {
	case watch.Deleted:
		return v.remove(n.name, n.revision)
	case watch.Bookmark:
		v.revision = max(v.revision, n.revision)
		return false
	default:
		return v.put(n)
	}
}

// outage logs once that the API server is away, and once that it is back.
type outage struct {
	log   logrus.FieldLogger
	tell  func(error) // told as well, with nil when it is back; nil: nobody is
	since time.Time
}

func (o *outage) begin(err error) {
	if o.since.IsZero() {
		o.since = time.Now()
		o.log.WithError(err).Warn("the Nodes can't be followed, trying on" + remedy(err))
		if o.tell != nil {
			o.tell(err)
		}
	}
}

func (o *outage) end() {
	if !o.since.IsZero() {
		o.log.WithField("after", time.Since(o.since).Round(time.Millisecond)).Info("the Nodes are followed again")
		o.since = time.Time{}
		if o.tell != nil {
			o.tell(nil)
		}
	}
}

// remedy is the next step where the error alone doesn't say it.
func remedy(err error) string {
	switch {
	case apierrors.IsForbidden(err):
		return "; give the service account this verb (see Documentation/kubernetes.md)"
	case apierrors.IsUnauthorized(err):
		return "; the API server doesn't take our token or certificate: renew it"
	}
	return ""
}
