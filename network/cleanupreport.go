package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/commands/runner"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// memories are what the disk tells of the weft that was here.
type memories struct {
	config  subnet.Config // no networks: nothing tells
	lease   subnet.Lease  // zero: not known
	subnets []netip.Prefix
	proven  bool  // it was a weft, and no flannel
	damage  error // what could not be read
}

func (c Cleanup) remember() (memories, error) {
	lease, snapshot, _, err := files{dir: c.StateDir}.load()
	had := memories{
		config: c.Config, lease: lease, subnets: subnetsOf(lease),
		proven: lease.ID != "" || len(snapshot.Config.Networks) > 0, damage: err,
	}
	if len(had.config.Networks) > 0 {
		return had, nil
	}
	if had.config = snapshot.Config; len(had.config.Networks) > 0 {
		return had, nil
	}
	env, err := readEnv(c.SubnetFile)
	if errors.Is(err, os.ErrNotExist) {
		return had, nil
	}
	if err != nil {
		return had, fmt.Errorf("which network was here? %w; or give --config with the network configuration", err)
	}
	if len(had.subnets) == 0 {
		had.subnets = env.Subnets
	}
	had.config, err = plainConfig(env.Networks)
	return had, err
}

// plainConfig is the plainest configuration of these networks: flannel and weft
// name the device alike there.
func plainConfig(networks []netip.Prefix) (subnet.Config, error) {
	raw := struct {
		EnableIPv4, EnableIPv6 bool
		Network, IPv6Network   string `json:",omitempty"`
		Backend                struct{ Type string }
	}{Backend: struct{ Type string }{"vxlan"}}
	for _, p := range networks {
		if p.Addr().Is6() {
			raw.EnableIPv6, raw.IPv6Network = true, p.String()
		} else {
			raw.EnableIPv4, raw.Network = true, p.String()
		}
	}
	text, err := json.Marshal(raw)
	if err != nil {
		return subnet.Config{}, err
	}
	return subnet.ParseConfig(text)
}

// itemOf tells of an entry that goes, and of what a link takes along.
func itemOf(op dataplane.Op, have dataplane.State) CleanupItem {
	item := CleanupItem{
		Kind: op.Kind.String(),
		Name: strings.TrimPrefix(op.String(), fmt.Sprintf("%c %s ", op.Verb, op.Kind)),
	}
	name, isLink := op.Key.(string)
	if !isLink || op.Kind != dataplane.KindLink {
		return item
	}
	var fdb, neighs, routes int
	for key := range have.FDB {
		if key.Link == name {
			fdb++
		}
	}
	for key := range have.Neighs {
		if key.Link == name {
			neighs++
		}
	}
	for _, r := range have.Routes {
		if r.Link == name {
			routes++
		}
	}
	item.Note = fmt.Sprintf("with %d FDB entries, %d neighbours, %d routes", fdb, neighs, routes)
	return item
}

// settle divides what was to go into what went and what is left.
func (r *CleanupReport) settle(gone []CleanupItem, left dataplane.Plan, refused map[string]error, dry bool) {
	r.Removed = append(r.Removed, gone...)
	defer func() { r.Removed, r.Failed = summed(r.Removed), summed(r.Failed) }()
	if dry {
		return
	}
	for _, op := range left.Ops {
		item := itemOf(op, dataplane.State{})
		same := func(x CleanupItem) bool { return x.Kind == item.Kind && x.Name == item.Name }
		r.Removed = slices.DeleteFunc(r.Removed, same)
		item.Note = "somebody makes it again and again"
		if err := refused[op.Entry()]; err != nil {
			item.Note = err.Error()
		}
		r.Failed = append(r.Failed, item)
	}
}

// summed has the elements of each set as one item: there are two for each peer.
func summed(items []CleanupItem) (out []CleanupItem) {
	type group struct{ set, note string }
	count := map[group]int{}
	for _, item := range items {
		set, _, isElem := strings.Cut(item.Name, " { ")
		if item.Kind != dataplane.KindElem.String() || !isElem {
			out = append(out, item)
			continue
		}
		count[group{set, item.Note}]++
	}
	for _, g := range slices.SortedFunc(maps.Keys(count), func(a, b group) int {
		return strings.Compare(a.set+a.note, b.set+b.note)
	}) {
		note := fmt.Sprintf("%d elements", count[g])
		if g.note != "" {
			note += ": " + g.note
		}
		out = append(out, CleanupItem{"set", g.set, note})
	}
	return out
}

// keep tells of links and chains that stay; what stands on them goes without
// saying.
func (r *CleanupReport) keep(stays dataplane.State, why string) {
	var items []CleanupItem
	for name := range stays.Links {
		items = append(items, CleanupItem{dataplane.KindLink.String(), name, why})
	}
	for key := range stays.Chains {
		items = append(items, CleanupItem{dataplane.KindChain.String(), key.String(), why})
	}
	slices.SortFunc(items, func(a, b CleanupItem) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	r.Kept = append(r.Kept, items...)
}

// lease gives ours back, or says what becomes of it.
func (c Cleanup) lease(ctx context.Context, report *CleanupReport, l subnet.Lease) error {
	item := CleanupItem{Kind: "lease", Name: l.ID}
	if l.ID == "" {
		return nil
	}
	if c.GiveBack == nil {
		item.Note = "stays in the store until it expires or its Node is deleted, and peers send here until then; " +
			"--lease gives it back to etcd"
		report.Kept = append(report.Kept, item)
		return nil
	}
	if !c.DryRun {
		err := c.GiveBack(ctx, l)
		switch {
		case errors.Is(err, subnet.ErrLeaseLost):
			item.Note = "was gone already"
		case errors.Is(err, subnet.ErrLeaseChanged):
			item.Note = "is not this node's any more"
			report.Kept = append(report.Kept, item)
			return nil
		case err != nil:
			return fmt.Errorf("%w; the saved state is kept, so that weftctl cleanup --lease can be run again", err)
		}
	}
	report.Removed = append(report.Removed, item)
	return nil
}

// remove deletes the files that weft has written. Why is why something was
// spared: then the subnet file is not ours any more, either.
func (c Cleanup) remove(report *CleanupReport, had memories, why string) {
	if why == "" {
		why = c.foreignEnv(had)
	}
	if _, err := os.Lstat(c.SubnetFile); err == nil && why != "" {
		report.Kept = append(report.Kept, CleanupItem{"file", c.SubnetFile, why})
	} else {
		c.unlink(report, "file", c.SubnetFile)
	}
	if c.StateDir != "" {
		c.leaveCommands(report)
		var names []string
		for _, name := range []string{leaseFile, snapshotFile, checksumFile} {
			names = append(names, filepath.Join(c.StateDir, name))
		}
		torn, _ := filepath.Glob(filepath.Join(c.StateDir, tornFiles)) // the pattern is a good one
		names = append(names, torn...)
		for _, name := range names {
			c.unlink(report, "file", name)
		}
		c.unlinkDir(report, append(names, CommandsDir(c.StateDir)))
	}
	c.unlink(report, "file", c.Socket)
}

// foreignEnv says why the subnet file is another's, or "".
func (c Cleanup) foreignEnv(had memories) string {
	env, err := readEnv(c.SubnetFile)
	if err == nil && !c.Force && len(had.subnets) > 0 && !slices.Equal(env.Subnets, had.subnets) {
		return fmt.Sprintf("it tells of %v, and our subnets are %v", env.Subnets, had.subnets)
	}
	return ""
}

func (c Cleanup) unlink(report *CleanupReport, kind, path string) {
	if path == "" {
		return
	}
	_, err := os.Lstat(path)
	if err == nil && !c.DryRun {
		err = os.Remove(path)
	}
	switch {
	case err == nil:
		report.Removed = append(report.Removed, CleanupItem{Kind: kind, Name: path})
	case !errors.Is(err, os.ErrNotExist):
		report.Failed = append(report.Failed, CleanupItem{kind, path, err.Error()})
	}
}

// unlinkDir removes the state directory, if nothing else is in it: the embedded
// etcd's data may be, which is the whole cluster's.
func (c Cleanup) unlinkDir(report *CleanupReport, ours []string) {
	entries, err := os.ReadDir(c.StateDir)
	if err != nil {
		return // not there
	}
	var others []string
	for _, e := range entries {
		if !slices.Contains(ours, filepath.Join(c.StateDir, e.Name())) {
			others = append(others, e.Name())
		}
	}
	if len(others) > 0 {
		report.Kept = append(report.Kept, CleanupItem{
			"directory", c.StateDir, "has more in it than this node's state: " + strings.Join(others, ", "),
		})
		return
	}
	c.unlink(report, "directory", c.StateDir)
}

// leaveCommands lists what commands have done, and forgets it. It runs none:
// the records are those of weftd's user, and who cleans up may have more rights.
func (c Cleanup) leaveCommands(report *CleanupReport) {
	dir := CommandsDir(c.StateDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // none was ever run
	}
	if boot, err := runner.BootID(); err == nil {
		was, err := runner.Leftovers(dir, boot)
		if err != nil {
			report.Failed = append(report.Failed, CleanupItem{"directory", dir, err.Error()})
		}
		for _, name := range slices.Sorted(maps.Keys(was)) {
			note := "ran for " + name
			if undo := was[name].Task.Undo; !undo.None() {
				note += "; take it back with: " + undo.String()
			}
			report.Kept = append(report.Kept, CleanupItem{"command", was[name].Task.Do.String(), note})
		}
	}
	for _, e := range entries {
		c.unlink(report, "file", filepath.Join(dir, e.Name()))
	}
	c.unlink(report, "directory", dir)
}
