package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/network/masq"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/subnet"
)

// Cleanup takes weft off a host: it wants nothing, and writes what leads there
// from what the kernel has, by the same Diff and the same Kernel as the daemon.
type Cleanup struct {
	Kernel   dataplane.Kernel
	Backends map[string]backend.Backend
	// Config says which network was here. Without networks, the saved snapshot
	// or else the subnet file tells.
	Config               subnet.Config
	SubnetFile, StateDir string
	Socket               string // of a daemon that must not run; "" is not asked
	// GiveBack removes our lease from the store; nil leaves it to expire.
	GiveBack func(context.Context, subnet.Lease) error
	// Tables are those of the CNI plugin's making, by name. Each is taken away, with
	// dry only looked for; where why is not empty it stays, unless forced.
	Tables map[string]func(dry, force bool) (there bool, why string, err error)
	Force  bool // even while a daemon runs, and what flannel may have taken over
	DryRun bool // only tell
}

// CleanupReport is what a Cleanup removed, or would remove. The names are stable.
type CleanupReport struct {
	DryRun  bool          `json:"dryRun"`
	Removed []CleanupItem `json:"removed"`
	Kept    []CleanupItem `json:"kept"`   // what might be expected to go, and why it doesn't
	Failed  []CleanupItem `json:"failed"` // what is still there
}

// CleanupItem is one thing on the host.
type CleanupItem struct {
	Kind string `json:"kind"` // that of a kernel entry; table, file, directory or lease
	Name string `json:"name"`
	Note string `json:"note,omitempty"`
}

const (
	cleanupTries = 8
	takenOver    = "flannel has taken it over, its routes lead through it; --force removes it all the same"
	notProven    = "nothing proves that it is weft's and not flannel's; --force removes it"
)

// Run cleans up. An error means that it could not go through with it; what it
// did until then is in the report. It may be run again.
func (c Cleanup) Run(ctx context.Context) (CleanupReport, error) {
	report := CleanupReport{DryRun: c.DryRun, Removed: []CleanupItem{}, Kept: []CleanupItem{}, Failed: []CleanupItem{}}
	if err := c.refuseRunning(); err != nil {
		return report, err
	}
	c.tables(&report)
	had, err := c.remember()
	if err != nil {
		return report, err
	}
	if len(had.config.Networks) == 0 {
		return report, c.unknown(ctx, had)
	}
	domain, err := domainOf(had.config, c.Backends)
	if err != nil {
		return report, fmt.Errorf("find what is weft's on this host: %w", err)
	}
	why, err := c.kernel(ctx, &report, domain, had.proven)
	if err != nil {
		return report, err
	}
	if len(report.Failed) > 0 {
		return report, errors.New("not everything could be removed; " +
			"the saved state is kept, so that weftctl cleanup can be run again")
	}
	if err := c.lease(ctx, &report, had.lease); err != nil {
		return report, err
	}
	c.remove(&report, had, why)
	if len(report.Failed) > 0 {
		return report, errors.New("not every file could be removed")
	}
	return report, nil
}

// tables are of the CNI plugin's making, and need no network to be known.
func (c Cleanup) tables(report *CleanupReport) {
	for _, name := range slices.Sorted(maps.Keys(c.Tables)) {
		there, why, err := c.Tables[name](c.DryRun, c.Force)
		switch item := (CleanupItem{Kind: "table", Name: name, Note: why}); {
		case err != nil:
			item.Note = err.Error()
			report.Failed = append(report.Failed, item)
		case there && why != "":
			report.Kept = append(report.Kept, item)
		case there:
			report.Removed = append(report.Removed, item)
		}
	}
}

// refuseRunning: a daemon would put everything back.
func (c Cleanup) refuseRunning() error {
	if c.Force || c.DryRun || c.Socket == "" {
		return nil
	}
	conn, _ := net.DialTimeout("unix", c.Socket, time.Second)
	if conn == nil {
		return nil // nobody is there
	}
	_ = conn.Close()
	return fmt.Errorf("a weftd runs on this node (it answers at %s) and would put everything back: "+
		"stop it first, systemctl disable --now weftd; --force goes on nevertheless", c.Socket)
}

// unknown is where nothing tells which network was here. That is right after a
// cleanup, and wrong if something of ours is still there.
func (c Cleanup) unknown(ctx context.Context, had memories) error {
	domain := dataplane.Domain{
		Tables:   []string{masq.Table("")},
		Networks: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
	}
	seen, err := c.Kernel.Observe(ctx, dataplane.Scope{All: true, Domain: domain})
	if err != nil {
		return fmt.Errorf("read the kernel: %w", err)
	}
	routes, chains := len(seen.Have.Routes), len(seen.Have.Chains)
	if routes+chains == 0 {
		return had.damage
	}
	return errors.Join(had.damage, fmt.Errorf("nothing tells which network was on this host: "+
		"there is neither a snapshot in %s nor a %s, but weft's mark is on %d routes and %d chains: "+
		"give --config with the network configuration (weftctl config get prints it)",
		c.StateDir, c.SubnetFile, routes, chains))
}

// domainOf is what a configuration made ours on this host. Addresses, names of
// interfaces and subnets are no part of it, so any will do.
func domainOf(cfg subnet.Config, backends map[string]backend.Backend) (dataplane.Domain, error) {
	b, ok := backends[cfg.Backend]
	if !ok {
		return dataplane.Domain{}, fmt.Errorf("backend %q is not weft's", cfg.Backend)
	}
	h := backend.Host{Config: cfg, Uplink: backend.Uplink{Iface: "any", MTU: 1 << 16}, Lease: subnet.Lease{ID: "any"}}
	for _, w := range cfg.Networks {
		addr := netip.IPv4Unspecified()
		if w.Prefix.Addr().Is6() {
			addr = netip.IPv6Unspecified()
		}
		h.Uplink.Local = append(h.Uplink.Local, addr)
		h.Uplink.Public = append(h.Uplink.Public, addr)
		h.Lease.Shares = append(h.Lease.Shares, subnet.Share{Subnet: w.Prefix, Public: addr})
	}
	h, err := effectiveHost(h, b)
	if err != nil {
		return dataplane.Domain{}, err
	}
	var p pieces
	if _, err := p.renew(b, h, masq.Options{}, false); err != nil {
		return dataplane.Domain{}, err
	}
	d := p.domainOf(h)
	d.Uplink = ""
	return d, nil
}

// kernel removes what is ours there, and says why what is spared is.
func (c Cleanup) kernel(
	ctx context.Context, report *CleanupReport, domain dataplane.Domain, proven bool,
) (why string, err error) {
	var gone []CleanupItem
	listed := map[string]bool{}
	refused := map[string]error{}
	for attempt := 0; ; attempt++ {
		seen, err := c.Kernel.Observe(ctx, dataplane.Scope{All: true, Domain: domain})
		if err != nil {
			return why, fmt.Errorf("read the kernel: %w", err)
		}
		var stays dataplane.State
		if stays, why = spared(seen.Have, proven); c.Force {
			stays, why = dataplane.State{}, ""
		}
		plan := dataplane.Diff(stays, dataplane.Observed{Have: seen.Have})
		for _, op := range plan.Ops {
			if !listed[op.Entry()] {
				listed[op.Entry()] = true
				gone = append(gone, itemOf(op, seen.Have))
			}
		}
		// The first Apply also sweeps what linux keeps behind the entries.
		if plan.Empty() && attempt > 0 || c.DryRun || attempt == cleanupTries {
			report.settle(gone, plan, refused, c.DryRun)
			report.keep(stays, why)
			return why, nil
		}
		clear(refused)
		for _, f := range c.Kernel.Apply(ctx, plan) {
			refused[f.Op.Entry()] = f.Err
		}
		if len(refused) > 0 && !sleep(ctx, backoff(attempt)/10) {
			return why, ctx.Err()
		}
	}
}

// spared is what of ours stays because it isn't ours any more, as far as can be
// told, and why. What flannel has taken over it has left unmarked; where there
// is no sign of weft at all, what both name alike may be flannel's.
func spared(have dataplane.State, proven bool) (dataplane.State, string) {
	taken := false
	for _, r := range have.Routes {
		taken, proven = taken || r.Unmarked, proven || !r.Unmarked
	}
	for key := range have.Chains {
		proven = proven || key.Engine == ruleset.NFTables
	}
	if !taken && proven {
		return dataplane.State{}, ""
	}
	stays := dataplane.State{
		Links: have.Links, Addrs: have.Addrs, FDB: have.FDB, Neighs: have.Neighs,
		Routes: map[dataplane.RouteKey]dataplane.Route{}, Chains: map[ruleset.Key]ruleset.Chain{},
	}
	for key, r := range have.Routes {
		if r.Unmarked {
			stays.Routes[key] = r
		}
	}
	for key, chain := range have.Chains {
		if key.Engine != ruleset.NFTables {
			stays.Chains[key] = chain
		}
	}
	if taken {
		return stays, takenOver
	}
	return stays, notProven
}
