package network

import (
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/weftnet/weft/pkg/calls"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
	"github.com/weftnet/weft/pkg/metrics"
	"github.com/weftnet/weft/pkg/version"
)

// tally is what is counted for the metrics as it happens; the rest is read off
// when somebody asks. Guarded by Node.mu.
type tally struct {
	writes, refused map[string]uint64 // by kind of entry
	readErrors      uint64
	outages         uint64
	watchRestarts   uint64
	roundTook       metrics.Histogram
	applyDelay      metrics.Histogram
	heard           time.Time // a change that is not in the kernel yet, as far as known; zero: none
}

func (t *tally) round(r reconcile.Round, now time.Time) {
	if t.writes == nil {
		t.writes, t.refused = map[string]uint64{}, map[string]uint64{}
	}
	t.roundTook.Observe(r.Took)
	if r.Err != nil {
		t.readErrors++
		return
	}
	for _, op := range r.Applied.Ops {
		t.writes[op.Kind.String()]++
	}
	for _, f := range r.Failed {
		t.refused[f.Op.Kind.String()]++
	}
	if t.heard.IsZero() || len(r.Left.Ops) > 0 {
		return
	}
	if len(r.Applied.Ops) > 0 {
		t.applyDelay.Observe(now.Sub(t.heard))
	}
	t.heard = time.Time{}
}

// mortal is a store whose leases end when they are not renewed.
type mortal interface {
	// LeaseLife gives when ours was renewed last and when it ends; zero times
	// mean not known, or never.
	LeaseLife() (renewed, expires time.Time)
}

// Metrics is what there is to tell to whoever scrapes.
func (n *Node) Metrics() metrics.Snapshot {
	s := n.Status()
	out := metrics.Snapshot{
		Version: version.Short(), Go: runtime.Version(),
		Backend: s.Node.Backend, Engine: s.Rules.Engine, Uplink: s.Node.Uplink,
		Ready: s.Ready, Conditions: map[string]bool{},
		LeaseRenewed: s.Node.Renewed, LeaseExpires: s.Node.Expires,
		Peers: s.Peers, Skipped: map[string]int{},
		StoreUp: s.Store.Away == "" && !s.Store.Heard.IsZero(),
		InDoubt: s.Store.InDoubt, ConfigRefused: s.Store.Refused != "",
		Heard: s.Store.Heard, Revision: s.Store.Revision, Leases: s.Store.Leases, Malformed: len(s.Store.Malformed),
		Rounds: uint64(s.Rounds), Repairs: s.RepairedKinds, //nolint:gosec // counts up
		Fights: len(s.Fights), Conflicts: len(s.Conflicts),
	}
	for _, c := range n.opts.Health.Conditions() {
		out.Conditions[c.Name] = c.OK
	}
	out.Checksums = n.sums.metric()
	for _, x := range s.Skipped {
		out.Skipped[fieldLabel(x.Field)]++
	}
	n.probes.fill(&out)
	n.mu.Lock()
	t := &n.ledger.tally
	out.Outages, out.WatchRestarts, out.ReadErrors = t.outages, t.watchRestarts, t.readErrors
	out.RoundTook, out.ApplyDelay = t.roundTook, t.applyDelay
	out.Writes, out.Refused = cloned(t.writes), cloned(t.refused)
	devices := n.status.devices
	n.mu.Unlock()
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err == nil { // else they are absent
		out.Devices = metrics.ParseDevices(string(text), func(name string) bool { return slices.Contains(devices, name) })
	}
	if n.opts.StoreTook != nil {
		out.StoreTook = n.opts.StoreTook()
	}
	if dir := string(n.opts.Attachments); dir != "" {
		out.Plugin = pluginCalls(dir)
	}
	return out
}

// pluginCalls reads the CNI plugin's counters; nil if they can't be read.
func pluginCalls(dir string) map[string]metrics.Calls {
	counted, err := calls.Read(dir)
	if err != nil {
		return nil
	}
	out := map[string]metrics.Calls{}
	for verb, c := range counted {
		out[verb] = metrics.Calls{
			Done: c.Done, Failed: c.Failed,
			Took: metrics.Counted{Bounds: calls.Bounds(), Counts: c.Took, Sum: c.Sum},
		}
	}
	return out
}

func cloned(m map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// fieldLabel keeps the values of a label few: what the backend or another layer
// names may be an entry.
func fieldLabel(field string) string {
	known := []string{"backend type", "backend data", "subnet", "public address", "VtepMAC", "VNI", "lease"}
	if slices.Contains(known, field) {
		return field
	}
	return "entry"
}
