package kubetest

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// initial marks the bookmark that ends the Nodes that a stream begins with.
const initial watch.EventType = "INITIAL"

// start gives what a watch begins with, and the place in the history from
// which it goes on: all Nodes and the mark behind them, or what came after a
// revision, unless the history begins later. The caller holds mu.
func (s *Server) start(since int64, stream bool) (out []event, at int64, gone bool) {
	end := s.dropped + int64(len(s.history))
	switch {
	case stream:
		for _, n := range s.nodes {
			out = append(out, event{watch.Added, s.revision, n})
		}
		return append(out, event{initial, s.revision, nil}), end, false
	case since < s.begins:
		return nil, 0, true
	}
	for _, e := range s.history {
		if e.revision > since {
			out = append(out, e)
		}
	}
	return out, end, false
}

// after gives what came after a place in the history. The caller holds mu.
func (s *Server) after(at int64) (out []event, until int64) {
	return s.history[max(0, at-s.dropped):], s.dropped + int64(len(s.history))
}

func (s *Server) count(n int) { s.update(func() { s.streams += n }) }

// sender writes the events of one watch.
type sender struct {
	s    *Server
	info runtime.SerializerInfo
	to   http.ResponseWriter
}

func (w sender) send(batch []event) bool {
	for _, e := range batch {
		kind, o := e.kind, e.node
		if o == nil {
			kind = watch.Bookmark
			o = &corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: fmt.Sprint(e.revision)}}
		}
		if e.kind == initial {
			o.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		}
		if !w.write(kind, o) {
			return false
		}
	}
	if f, ok := w.to.(http.Flusher); ok {
		f.Flush()
	}
	return true
}

func (w sender) expire(since int64) {
	f := &failure{
		code: http.StatusGone, reason: metav1.StatusReasonExpired,
		message: fmt.Sprintf("too old resource version: %d", since),
	}
	w.write(watch.Error, f.status())
}

func (w sender) write(kind watch.EventType, o runtime.Object) bool {
	raw, err := w.s.codec.encode(w.info, o)
	if err != nil {
		return false
	}
	frame := &counted{to: w.to}
	e := &metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw}}
	err = w.info.StreamSerializer.Encode(e, w.info.StreamSerializer.NewFrameWriter(frame))
	w.s.mu.Lock()
	w.s.bytes += frame.n
	w.s.mu.Unlock()
	return err == nil
}

type counted struct {
	to http.ResponseWriter
	n  int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
