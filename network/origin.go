package network

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

// origin says on which machine a lease was saved. A machine that is cloned takes
// the state directory along, and must take neither the lease of the one that it
// was cloned from, nor its device's MAC.
type origin struct {
	Boot   string   `json:",omitempty"` // /proc/sys/kernel/random/boot_id
	Uplink mac.Addr `json:",omitzero"`  // of the interface
}

// savedLease is what lease.json says. The first releases wrote no origin.
type savedLease struct {
	subnet.Lease
	Origin origin `json:",omitzero"`
}

// here is the origin of what is saved now.
func (n *Node) here() origin {
	return origin{bootID(), n.view.facts.Ifaces[n.view.uplink.Iface].MAC}
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it nobody is a clone
	return strings.TrimSpace(string(b))
}

// elsewhere tells whether a lease was saved on another machine: in another boot,
// over an uplink whose MAC no interface has here, and with addresses none of which
// is ours now. A machine of which all three have changed loses nothing by that: no
// pod outlives a boot.
func (o origin) elsewhere(boot string, l subnet.Lease, facts dataplane.Facts, up backend.Uplink) bool {
	if o.Boot == "" || o.Boot == boot || o.Uplink.IsZero() {
		return false
	}
	for _, i := range facts.Ifaces {
		if i.MAC == o.Uplink {
			return false
		}
	}
	return !slices.ContainsFunc(l.Shares, func(s subnet.Share) bool { return slices.Contains(up.Public, s.Public) })
}

// disown lets go of a lease of another machine's, when the host was read for the
// first time. What that knew of the cluster is as good as ever.
func (n *Node) disown(facts dataplane.Facts, up backend.Uplink) {
	saved := n.view.saved
	n.view.saved = origin{}
	if n.view.lease.ID == "" || !saved.elsewhere(bootID(), n.view.lease, facts, up) {
		return
	}
	n.opts.Log.WithFields(logrus.Fields{"lease": n.view.lease.ID, "dir": n.opts.StateDir}).
		Warn("the state directory is another machine's, of which this one seems to be a clone; its lease is left alone")
	n.view.lease = subnet.Lease{}
	n.opts.Health.Set(conditionLease, errors.New("not yet"))
}
