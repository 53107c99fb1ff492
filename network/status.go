package network

import (
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/checksum"
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
	Tunnel   TunnelStatus     `json:"tunnel"`
	Store    StoreStatus      `json:"store"`
	Rounds   int              `json:"rounds"`           // passes of the loop that read all, wrote or failed
	Ops      int              `json:"ops"`              // kernel writes since the start
	Repaired int              `json:"repaired"`         // entries that others had changed or deleted
	Fights   []string         `json:"fights,omitempty"` // entries that somebody keeps changing now

	RepairedKinds map[string]int    `json:"repairedKinds,omitempty"` // Repaired, by kind
	Fighters      map[string]string `json:"fighters,omitempty"`      // entry of Fights → who, where the kernel tells
	Conflicts     map[string]string `json:"conflicts,omitempty"`     // entry that something foreign holds → what to do

	LastTook string `json:"lastTook"`

	Source string        `json:"source,omitempty"` // what this is from, where it isn't the daemon's word
	Kernel *KernelStatus `json:"kernel,omitempty"` // what stands there; only with Source

	Probes string `json:"probes,omitempty"` // why peers are not probed, where they should be

	// Checksums are devices that don't leave them to the network card because we
	// say so.
	Checksums []checksum.Status `json:"checksums,omitempty"`

	devices []string // ours
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

	Renewed time.Time `json:"renewed,omitzero"` // the lease, as far as it has an end
	Expires time.Time `json:"expires,omitzero"`
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
	Heard     time.Time        `json:"heard"`          // last snapshot; zero: not since the start
	InDoubt   bool             `json:"inDoubt"`        // its content is not believed yet
	Away      string           `json:"away,omitempty"` // why it doesn't answer
	AwaySince time.Time        `json:"awaySince,omitzero"`
	Refused   string           `json:"refused,omitempty"` // why its configuration is not followed
	Malformed []subnet.Skipped `json:"malformed,omitempty"`
}

func (s *StoreStatus) fill(snapshot subnet.Snapshot, inDoubt bool) {
	*s = StoreStatus{
		Refused: s.Refused, Away: s.Away, AwaySince: s.AwaySince,
		Epoch: snapshot.Epoch, Revision: snapshot.Revision, Leases: len(snapshot.Leases),
		Heard: time.Now(), InDoubt: inDoubt, Malformed: snapshot.Malformed,
	}
}

// note takes that the store is away, or with nil that it is back.
func (s *StoreStatus) note(err error, now time.Time) {
	if err == nil {
		s.Away, s.AwaySince = "", time.Time{}
		return
	}
	s.Away = oneLine(err)
	if s.AwaySince.IsZero() {
		s.AwaySince = now
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
	if now := time.Now(); !s.Store.Heard.IsZero() { // as long ago by the clock of now, which may have been set since
		s.Store.Heard = now.Add(-now.Sub(s.Store.Heard))
	}
	s.Version, s.Ready = version.Short(), n.ready
	s.Reasons = n.opts.Health.Reasons()
	s.Rounds, s.Ops = n.ledger.rounds, n.ledger.ops
	n.ledger.drift.fill(&s, time.Now())
	s.Probes, s.Checksums = n.probes.why(), n.sums.status()
	if store, ok := n.opts.Store.(mortal); ok {
		s.Node.Renewed, s.Node.Expires = store.LeaseLife()
	}
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
