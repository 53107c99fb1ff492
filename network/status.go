package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/version"
	"github.com/weftnet/weft/subnet"
)

// Status is what `weftctl status` shows; it is served as JSON over the control
// socket at /v1/status. The names are stable.
type Status struct {
	Version  string           `json:"version"`
	Ready    bool             `json:"ready"`
	Reasons  []string         `json:"reasons,omitempty"` // why not ready
	Node     NodeStatus       `json:"node"`
	Peers    int              `json:"peers"` // programmed
	Skipped  []subnet.Skipped `json:"skipped,omitempty"`
	Rules    RulesStatus      `json:"rules"`
	Store    StoreStatus      `json:"store"`
	Rounds   int              `json:"rounds"`           // passes of the loop that read all, wrote or failed
	Ops      int              `json:"ops"`              // kernel writes since the start
	Repaired int              `json:"repaired"`         // entries that others had changed or deleted
	Fights   []string         `json:"fights,omitempty"` // entries that somebody keeps changing now

	RepairedKinds map[string]int    `json:"repairedKinds,omitempty"` // Repaired, by kind
	Fighters      map[string]string `json:"fighters,omitempty"`      // entry of Fights → who, where the kernel tells
	Conflicts     map[string]string `json:"conflicts,omitempty"`     // entry that something foreign holds → what to do

	LastTook string `json:"lastTook"`
}

// NodeStatus is this node's part of the overlay.
type NodeStatus struct {
	Lease   string   `json:"lease"`
	Backend string   `json:"backend"`
	Subnets []string `json:"subnets"`
	Uplink  string   `json:"uplink"`
	Local   []string `json:"local"`
	Public  []string `json:"public"`
	MTU     int      `json:"mtu"`
}

// RulesStatus is who holds our rules.
type RulesStatus struct {
	Engine  string `json:"engine"`
	Reason  string `json:"reason"`
	Warning string `json:"warning,omitempty"`
}

// StoreStatus is how the store was heard last.
type StoreStatus struct {
	Epoch     string           `json:"epoch,omitempty"`
	Revision  int64            `json:"revision"`
	Leases    int              `json:"leases"`
	Heard     time.Time        `json:"heard"`             // last snapshot; zero: not since the start
	InDoubt   bool             `json:"inDoubt"`           // its content is not believed yet
	Refused   string           `json:"refused,omitempty"` // why its configuration is not followed
	Malformed []subnet.Skipped `json:"malformed,omitempty"`
}

func (s *StoreStatus) fill(snapshot subnet.Snapshot, inDoubt bool) {
	*s = StoreStatus{
		Refused: s.Refused,
		Epoch:   snapshot.Epoch, Revision: snapshot.Revision, Leases: len(snapshot.Leases),
		Heard: time.Now(), InDoubt: inDoubt, Malformed: snapshot.Malformed,
	}
}

func (s *Status) fillPeers(h backend.Host, mtu, peers int, skipped []subnet.Skipped) {
	s.Peers, s.Skipped = peers, skipped
	s.Node = NodeStatus{Lease: h.Lease.ID, Backend: h.Config.Backend, Uplink: h.Uplink.Iface, MTU: mtu}
	for _, share := range h.Lease.Shares {
		s.Node.Subnets = append(s.Node.Subnets, share.Subnet.String())
	}
	for i := range h.Uplink.Local {
		s.Node.Local = append(s.Node.Local, h.Uplink.Local[i].String())
		s.Node.Public = append(s.Node.Public, h.Uplink.Public[i].String())
	}
}

func (n *Node) updateStatus(f func(*Status)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.status)
}

// Status is a copy of the moment.
func (n *Node) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	s.Version, s.Ready = version.Short(), n.ready
	s.Reasons = n.opts.Health.Reasons()
	s.Rounds, s.Ops = n.ledger.rounds, n.ledger.ops
	n.ledger.drift.fill(&s, time.Now())
	s.fillCommands(n.opts.Commands)
	s.LastTook = n.ledger.took.Round(time.Microsecond).String()
	return s
}

func (n *Node) setReady(ready bool) (was bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was, n.ready = n.ready, ready
	return was
}

// serveControl answers weftctl on a unix socket that only root may use. That
// it can't be opened is no reason for the node not to run.
func (n *Node) serveControl(ctx context.Context) error {
	listener, err := listenUnix(n.opts.Socket)
	if err != nil {
		n.opts.Log.WithError(err).Warn("no control socket: weftctl status and plan will not work")
		<-ctx.Done()
		return ctx.Err()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, n.Status()) })
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
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the control socket %s: %w", n.opts.Socket, err)
	}
	return ctx.Err()
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
	if err := os.Chmod(path, 0o600); err != nil {
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
