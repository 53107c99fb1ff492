package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/checksum"
	"github.com/weftnet/weft/network/tunnel"
)

// rows is a table of two columns.
type rows struct{ *tabwriter.Writer }

func (r rows) add(name, value string) { _, _ = fmt.Fprintf(r, "%s\t%s\n", name, value) }

func printStatus(out io.Writer, s network.Status, now time.Time) error {
	r := rows{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	if s.Source != "" {
		r.add("Source", "weftd doesn't answer; this is what "+s.Source+" tell")
	}
	ready := "yes"
	if !s.Ready {
		ready = "no"
	}
	r.add("Ready", ready)
	for _, reason := range s.Reasons {
		r.add("", reason)
	}
	r.node(s.Node)
	if s.Kernel != nil {
		r.kernel(*s.Kernel)
	} else {
		r.daemon(s, now)
	}
	r.add("Version", s.Version)
	r.complaints(s)
	return r.Flush()
}

func (r rows) node(n network.NodeStatus) {
	if n.Lease == "" && len(n.Subnets) == 0 {
		r.add("Lease", "none yet")
		return
	}
	r.add("Lease", cmp.Or(n.Lease, "not known"))
	r.add("Subnets", strings.Join(n.Subnets, ", "))
	r.add("Backend", fmt.Sprintf("%s, pods' MTU %d", n.Backend, n.MTU))
	r.add("Uplink", fmt.Sprintf("%s, %s", n.Uplink, strings.Join(n.Local, ", ")))
	r.add("Public", strings.Join(n.Public, ", "))
}

func (r rows) kernel(k network.KernelStatus) {
	r.add("Devices", cmp.Or(strings.Join(k.Links, "; "), "none"))
	r.add("Kernel", fmt.Sprintf("%d routes, %d neighbours, %d FDB entries, %d chains",
		k.Routes, k.Neighs, k.FDB, k.Chains))
}

func (r rows) daemon(s network.Status, now time.Time) {
	if s.Rules.Engine != "" {
		r.add("Rules", fmt.Sprintf("in %s: %s", s.Rules.Engine, s.Rules.Reason))
	}
	if s.Rules.Warning != "" {
		r.add("", s.Rules.Warning)
	}
	if s.Tunnel.Filter != "" {
		r.add("Tunnel", tunnelText(s.Tunnel))
	}
	for _, c := range s.Checksums {
		r.add("Checksums", checksumText(c, now))
	}
	r.add("Peers", fmt.Sprintf("%d programmed, %d left out", s.Peers, len(s.Skipped)))
	r.add("Store", storeText(s.Store, now))
	if s.Store.Away != "" {
		r.add("", fmt.Sprintf("away for %s: %s", age(now, s.Store.AwaySince), s.Store.Away))
	}
	if s.Probes != "" {
		r.add("Probes", "none: "+s.Probes)
	}
	r.add("Kernel", fmt.Sprintf("%d rounds, %d writes, last round took %s", s.Rounds, s.Ops, s.LastTook))
	r.add("Drift", driftText(s))
}

// tunnelText is "filter strict, 3 packets dropped; not tracked: no firewall …".
func tunnelText(t network.TunnelStatus) string {
	s := "filter " + t.Filter
	switch {
	case t.Uncounted != "":
		s += ", packets dropped can't be told: " + t.Uncounted
	case t.Filter != string(tunnel.Off):
		s += fmt.Sprintf(", %d packets dropped", t.Dropped)
	}
	if t.Untracked {
		return s + "; not tracked: " + t.Reason
	}
	return s + "; tracked: " + t.Reason
}

// checksumText is "of flannel.1 are computed here since 2m: 10.42.1.0 answers …;
// tried again in 54m".
func checksumText(c checksum.Status, now time.Time) string {
	if c.Since.IsZero() {
		return fmt.Sprintf("of %s are computed here: %s", c.Device, c.Reason)
	}
	text := fmt.Sprintf("of %s are computed here since %s: %s", c.Device, age(now, c.Since), c.Reason)
	if c.Again.After(now) {
		return text + "; tried again in " + age(c.Again, now)
	}
	return text + "; tried again now"
}

func storeText(s network.StoreStatus, now time.Time) string {
	if s.Heard.IsZero() {
		return "not since weftd started"
	}
	text := fmt.Sprintf("revision %d, heard %s ago, %d leases", s.Revision, now.Sub(s.Heard).Round(time.Second), s.Leases)
	if s.InDoubt {
		text += ", in doubt: peers stay until it is confirmed"
	}
	return text
}

// complaints are what somebody should look at.
func (r rows) complaints(s network.Status) {
	for _, entry := range s.Fights {
		r.add("Fight", fmt.Sprintf("%s: changed again and again by %s", entry, cmp.Or(s.Fighters[entry], "somebody")))
	}
	for _, entry := range slices.Sorted(maps.Keys(s.Conflicts)) {
		r.add("Conflict", entry+": "+s.Conflicts[entry])
	}
	if s.Store.Refused != "" {
		r.add("Refused", "the store's configuration: "+s.Store.Refused)
	}
	for _, x := range s.Skipped {
		r.add("Left out", x.String())
	}
	for _, x := range s.Store.Malformed {
		r.add("Malformed", x.String())
	}
}

// driftText is "3 repaired: link 1, route 2".
func driftText(s network.Status) string {
	if s.Repaired == 0 {
		return "nothing had to be repaired"
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(s.RepairedKinds)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, s.RepairedKinds[kind]))
	}
	return fmt.Sprintf("%d repaired: %s", s.Repaired, strings.Join(kinds, ", "))
}
