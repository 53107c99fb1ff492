package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
)

func leaseChecks() []Check {
	return []Check{
		{
			"cloned-machine", "leases with our MAC or address, who else answers for our addresses on the wire, and in " +
				"Kubernetes the machine ids of Nodes",
			"two machines are taken for one: a clone has the same MAC or address",
			"give the clone addresses, MACs and a machine id of its own; on it: systemctl stop weftd, rm " +
				"/var/lib/weft/lease.json, start",
			cloned,
		},
		{
			"lease-mismatch", "leases beside the kernel's entries, subnet.env and the bridge",
			"the kernel is not as the leases say", "systemctl restart weftd; weftctl plan shows the difference", leaseMismatch,
		},
	}
}

func cloned(f Facts) (out []Finding) {
	for ip, who := range f.Host.Claimed {
		out = append(out, Finding{Evidence: fmt.Sprintf("%s answers for our address %s too", who, ip)})
	}
	out = append(out, f.sameMachine()...)
	for _, self := range f.Overlay.Self {
		for _, p := range f.Peers {
			same := p.Subnet.Addr().Is6() == self.Subnet.Addr().Is6()
			if same && !self.MAC.IsZero() && p.MAC == self.MAC {
				out = append(out, Finding{Evidence: fmt.Sprintf("the lease of %s (%s) has our MAC %s", p.Subnet, p.Public, p.MAC)})
			}
			if same && p.Public == self.Public {
				out = append(out, Finding{
					Level: Warn, Evidence: fmt.Sprintf("the lease of %s has our address %s", p.Subnet, p.Public),
					Cause: "a machine with this address had another lease, or has one now: an old one expires within a day",
				})
			}
		}
	}
	return out
}

// sameMachine finds nodes with our machine id. What is made of one is the same
// on both: DHCP's client ids, and MACs that systemd gives.
func (f Facts) sameMachine() (out []Finding) {
	if len(f.Overlay.Self) == 0 || f.Overlay.Self[0].Machine == "" {
		return nil
	}
	self, seen := f.Overlay.Self[0], map[string]bool{}
	for _, p := range f.Peers {
		if p.Machine != self.Machine || p.Node == self.Node || seen[p.Node] {
			continue
		}
		seen[p.Node] = true
		out = append(out, Finding{
			Level: Warn, Evidence: fmt.Sprintf("Node %s has our machine id %s", p.Node, self.Machine),
			Cause: "a clone, or this machine under the name that it had before: the same machine id gives clones one " +
				"DHCP lease, and MACs that are the same",
			Mend: "on the clone: rm /etc/machine-id /var/lib/dbus/machine-id, systemd-machine-id-setup, reboot; of a " +
				"machine that is gone: kubectl delete node",
		})
	}
	return out
}

func leaseMismatch(f Facts) (out []Finding) {
	for _, self := range f.Overlay.Self {
		if len(f.Overlay.Subnets) > 0 && !slices.Contains(f.Overlay.Subnets, self.Subnet) {
			out = append(out, Finding{
				Evidence: fmt.Sprintf("our lease is %s, subnet.env says %s", self.Subnet, f.Overlay.Subnets),
			})
		}
	}
	out = append(out, f.strayBridge()...)
	if !f.tunnels() {
		return out
	}
	var wrong []Finding
	have := f.entries()
	for _, p := range f.Peers {
		l, ok := f.ours(p.Subnet.Addr().Is6())
		if !ok || p.MAC.IsZero() {
			continue
		}
		if what := have.wrong(f.Tables, l, p); what != "" {
			wrong = append(wrong, Finding{Evidence: fmt.Sprintf("peer %s (%s): %s", p.Subnet, p.Public, what)})
		}
	}
	return append(out, firstOf(wrong, "peers")...)
}

// strayBridge finds the CNI bridge of another lease: pods would get addresses
// that peers look for elsewhere.
func (f Facts) strayBridge() (out []Finding) {
	l, ok := f.Tables.Named("cni0")
	if !ok {
		return nil
	}
	for _, a := range f.Tables.AddrsOn(l.Index) {
		_, inside := f.network(a)
		own := slices.ContainsFunc(f.Overlay.Subnets, func(s netip.Prefix) bool { return s.Contains(a.Addr()) })
		if inside && !own {
			out = append(out, Finding{
				Evidence: fmt.Sprintf("cni0 has %s, our subnets are %s", a, f.Overlay.Subnets),
				Mend:     "drain the node, then ip link del cni0: the next pod makes it anew",
			})
		}
	}
	return out
}

// entries are the kernel's for peers, by what they are looked up by: there may be
// ten thousand.
type entries struct {
	routes map[netip.Prefix]tables.Route // to subnets of the cluster's networks
	neighs map[neighKey]mac.Addr
	fdb    map[fdbKey]netip.Addr
}

type neighKey struct {
	link int
	ip   netip.Addr
}

type fdbKey struct {
	link int
	mac  mac.Addr
}

func (f Facts) entries() entries {
	e := entries{map[netip.Prefix]tables.Route{}, map[neighKey]mac.Addr{}, map[fdbKey]netip.Addr{}}
	for _, r := range f.Tables.Routes {
		if _, inside := f.network(r.Prefix); inside && r.Type == "unicast" && r.Table == tables.Main &&
			r.Protocol != protoKernel {
			e.routes[r.Prefix] = r
		}
	}
	for _, n := range f.Tables.Neighs {
		e.neighs[neighKey{n.Link, n.IP}] = n.MAC
	}
	for _, x := range f.Tables.FDB {
		e.fdb[fdbKey{x.Link, x.MAC}] = x.Dst
	}
	return e
}

// wrong tells what of a peer's three entries is not as its lease says. A direct
// route needs no others.
func (e entries) wrong(s tables.Space, l tables.Link, p Member) string {
	vtep := p.Subnet.Masked().Addr()
	r, ok := e.routes[p.Subnet]
	switch {
	case !ok:
		return "no route to its subnet"
	case r.Link != l.Index && r.Via == p.Public:
		return ""
	case r.Link != l.Index:
		return "its route leads elsewhere: " + s.Text(r)
	}
	at := e.neighs[neighKey{l.Index, vtep}]
	switch {
	case at.IsZero():
		return fmt.Sprintf("no neighbour entry for %s on %s", vtep, l.Name)
	case at != p.MAC:
		return fmt.Sprintf("%s on %s is %s, the lease says %s", vtep, l.Name, at, p.MAC)
	}
	dst, ok := e.fdb[fdbKey{l.Index, p.MAC}]
	switch {
	case !ok:
		return fmt.Sprintf("no forwarding entry for %s on %s", p.MAC, l.Name)
	case dst != p.Public:
		return fmt.Sprintf("%s on %s leads to %s, the lease says %s", p.MAC, l.Name, dst, p.Public)
	}
	return ""
}

func daemonChecks() []Check {
	return []Check{
		{
			"daemon", "weftd's control socket", "weftd does not run, hangs, or is not ready",
			"journalctl -u weftd; systemctl restart weftd", daemonAway,
		},
		{
			"conflict", "weftd's list of entries that something foreign holds",
			"something that is not weft's stands where weft must write",
			"remove it, or the program that made it", conflicts,
		},
		{
			"rbac", "what weftd and the store say of permissions; with --kube-subnet-mgr the API server is asked for each",
			"the Kubernetes API refuses weftd: a role or its binding is missing",
			"kubectl apply -f weft.yml; kubectl auth can-i --list --as=system:serviceaccount:kube-weft:weft", rbac,
		},
	}
}

func daemonAway(f Facts) (out []Finding) {
	switch {
	case !f.Daemon.Asked:
		return nil
	case f.Daemon.Hangs:
		return []Finding{{Cause: "weftd runs, and does not answer", Evidence: f.Daemon.Err}}
	case f.Daemon.Err != "":
		return []Finding{{Cause: "weftd does not run", Evidence: f.Daemon.Err}}
	case !f.Daemon.Ready:
		return []Finding{{Cause: "weftd is not ready", Evidence: strings.Join(f.Daemon.Reasons, "; ")}}
	}
	return nil
}

func conflicts(f Facts) (out []Finding) {
	for _, c := range f.Daemon.Conflicts {
		out = append(out, Finding{Evidence: c})
	}
	return firstOf(out, "conflicts")
}

// rbac says what is missing, where that is known, else what was refused.
func rbac(f Facts) (out []Finding) {
	if len(f.Store.Denied) > 0 {
		out = append(out, Finding{Evidence: "we may not " + strings.Join(f.Store.Denied, ", ")})
	}
	if len(f.Store.Spared) > 0 {
		out = append(out, Finding{
			Level: Warn, Evidence: "we may not " + strings.Join(f.Store.Spared, ", "),
			Cause: "the Kubernetes API refuses weftd something that it can do without: what is wrong with " +
				"a Node is not told there",
		})
	}
	if len(out) > 0 {
		return out
	}
	for _, said := range append(slices.Clone(f.Daemon.Reasons), f.Daemon.Away, f.Store.Err) {
		if strings.Contains(strings.ToLower(said), "forbidden") {
			return []Finding{{Evidence: said}}
		}
	}
	return nil
}

func storeChecks() []Check {
	return []Check{
		{
			"store", "whether the store answers", "the store does not answer",
			"is it up, and are --etcd-endpoints (or --kube-api-url, --kubeconfig-file) right?",
			storeAway,
		},
		{
			"store-slow", "how long etcd takes to list all leases, or the API server for its quickest answer",
			"the store is slow: leases and changes come late",
			"etcdctl endpoint status; etcd wants a disk of its own (etcd_disk_wal_fsync_duration_seconds)", storeSlow,
		},
		{
			"clock-skew", "the store's clock beside ours", "the clocks differ: certificates and expiries are judged wrongly",
			"timedatectl; systemctl restart systemd-timesyncd (or chronyd)", clockSkew,
		},
	}
}

const (
	slowStore, deadSlowStore = 300 * time.Millisecond, 2 * time.Second
	skewed, badlySkewed      = 5 * time.Second, time.Minute
)

func storeAway(f Facts) []Finding {
	if !f.Store.Asked || f.Store.Err == "" {
		return nil
	}
	return []Finding{{Evidence: f.Store.Err}}
}

func storeSlow(f Facts) []Finding {
	if !f.Store.Asked || f.Store.Err != "" || f.Store.Took < slowStore {
		return nil
	}
	level := Warn
	if f.Store.Took >= deadSlowStore {
		level = Fail
	}
	return []Finding{{Level: level, Evidence: fmt.Sprintf("it took %s", f.Store.Took.Round(time.Millisecond))}}
}

func clockSkew(f Facts) []Finding {
	off := f.Store.Skew.Abs()
	if !f.Store.Clocked || off < skewed {
		return nil
	}
	level, side := Warn, "ahead of"
	if off >= badlySkewed {
		level = Fail
	}
	if f.Store.Skew < 0 {
		side = "behind"
	}
	return []Finding{{Level: level, Evidence: fmt.Sprintf("its clock is %s %s ours", off.Round(time.Second), side)}}
}
