package network

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// serveControl answers weftctl on a unix socket. That
// it can't be opened is no reason for the node not to run.
func (n *Node) serveControl(ctx context.Context) error {
	listener, err := listenUnix(n.opts.Socket)
	if err != nil {
		n.opts.Log.WithError(err).Warn("no control socket: weftctl status and plan will not work")
		<-ctx.Done()
		return ctx.Err()
	}
	server := &http.Server{Handler: n.control(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the control socket %s: %w", n.opts.Socket, err)
	}
	return ctx.Err()
}

// socketMode lets weftd's user and group ask: root alone, where it runs as root.
const socketMode = 0o660

// control is what weftctl may ask for.
func (n *Node) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		status := n.Status()
		n.countDropped(r.Context(), &status.Tunnel)
		writeJSON(w, status)
	})
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		plan, err := n.loop.Plan(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out := PlanReply{Ops: []string{}, Conflicts: []string{}}
		for _, op := range plan.Ops {
			out.Ops = append(out.Ops, op.String())
		}
		for _, op := range plan.Conflicts {
			out.Conflicts = append(out.Conflicts, op.Entry()+": "+conflictText(op))
		}
		writeJSON(w, out)
	})
	mux.HandleFunc("GET /v1/peers", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
		defer cancel()
		c, err := n.crowd(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		servePeers(w, &c)
	})
	mux.HandleFunc("GET /v1/events", n.serveEvents)
	return mux
}

// answerWithin is how long a question waits for the node to be free.
const answerWithin = 10 * time.Second

// serveEvents writes the events after ?after=SEQ, one JSON object a line, and
// with ?follow=true those to come, until the client leaves.
func (n *Node) serveEvents(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(cmp.Or(r.FormValue("after"), "0"), 10, 64)
	if err != nil {
		http.Error(w, "after: "+err.Error(), http.StatusBadRequest)
		return
	}
	follow := r.FormValue("follow") == "true"
	w.Header().Set("Content-Type", "application/jsonl")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		list, more := n.events.After(after)
		for _, e := range list {
			if enc.Encode(e) != nil {
				return // the client went away: nobody is left to tell
			}
			after = e.Seq
		}
		if !follow || flush.Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// PlanReply is what the loop would write now, served at /v1/plan.
type PlanReply struct {
	Ops       []string `json:"ops"`
	Conflicts []string `json:"conflicts"`
}

// listenUnix takes the place of a socket that a dead process left.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("control socket %s: another weftd listens there; give this one its own with --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), listener.Close())
	}
	return listener, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client went away: nobody is left to tell
}
