package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network/masq"
	door "github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/network/uplink"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
)

// modelOptions say whose kernel is asked about.
type modelOptions struct{ Endpoint, Lease string }

// modelReply is what the pure functions make of the store's leases and of the
// node's interfaces.
type modelReply struct {
	Lines []string // links and what stands on them, and routes, as mirror.holds has them
	Rules string   // what would be written of chains and sysctls, so that they are as wanted
}

func playModel(text string) error {
	var o modelOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	snapshot, err := readStore(ctx, o.Endpoint)
	if err != nil {
		return err
	}
	k, err := linux.New(linux.Options{})
	if err != nil {
		return err
	}
	host, err := hostOf(ctx, k, snapshot, o.Lease)
	if err != nil {
		return err
	}
	want, err := wanted(host, snapshot.Leases)
	if err != nil {
		return err
	}
	reply := modelReply{Lines: linesOf(want)}
	if reply.Rules, err = ruleWrites(ctx, k, host, want); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(reply)
}

func readStore(ctx context.Context, endpoint string) (subnet.Snapshot, error) {
	s, err := etcd.New(etcd.Options{Endpoints: []string{endpoint}})
	if err != nil {
		return subnet.Snapshot{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	snapshots, ended := make(chan subnet.Snapshot), make(chan error, 1)
	go func() { ended <- s.Watch(ctx, snapshots) }()
	select {
	case first := <-snapshots:
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			return first, errors.Join(err, s.Close())
		}
		return first, s.Close()
	case err := <-ended:
		cancel()
		return subnet.Snapshot{}, errors.Join(err, s.Close())
	}
}

// hostOf is what a backend decides over, with the device's MAC from the lease
// that the peers believe.
func hostOf(ctx context.Context, k *linux.Kernel, s subnet.Snapshot, lease string) (backend.Host, error) {
	facts, err := k.Facts(ctx, nil)
	if err != nil {
		return backend.Host{}, err
	}
	for name, i := range facts.Ifaces { // what is, is no reason for what should be
		if i.VXLAN != nil {
			delete(facts.Ifaces, name)
		}
	}
	up, err := uplink.Pick(facts, s.Config, uplink.Wish{Ifaces: []string{topology.Eth0}})
	if err != nil {
		return backend.Host{}, err
	}
	at := slices.IndexFunc(s.Leases, func(l subnet.Lease) bool { return l.ID == lease })
	if at < 0 {
		return backend.Host{}, fmt.Errorf("no lease %s in the store", lease)
	}
	return backend.Host{Config: s.Config, Uplink: up, Facts: facts, Lease: s.Leases[at]}, nil
}

// wanted is the whole state of a node.
func wanted(h backend.Host, leases []subnet.Lease) (dataplane.State, error) {
	b := vxlan.New()
	announced, err := b.Announce(h, h.Lease.Shares)
	if err != nil {
		return dataplane.State{}, err
	}
	for i, s := range announced {
		if s.Public != h.Lease.Shares[i].Public || string(s.Data) != string(h.Lease.Shares[i].Data) {
			return dataplane.State{}, fmt.Errorf("the store has %v, to announce is %v", h.Lease.Shares[i], s)
		}
	}
	want, err := b.Base(h)
	if err != nil {
		return want, err
	}
	var networks, own []netip.Prefix
	for i, n := range h.Config.Networks {
		networks, own = append(networks, n.Prefix), append(own, h.Lease.Shares[i].Subnet)
	}
	devices := door.DevicesOf(want.Links, networks)
	for i := range devices {
		at := slices.Index(networks, devices[i].Network)
		devices[i].Lengths = []int{h.Config.Networks[at].SubnetLen}
	}
	admitted, _ := subnet.Admit(h.Config, h.Lease, leases)
	for _, l := range admitted {
		if peer, err := backend.Entries(b, h, l); err == nil { // a bad one is left out
			want.Merge(peer)
			want.Merge(dataplane.State{Elems: letIn(devices, l)})
		}
	}
	untrack, _ := door.Untrack(true, h.Facts.Firewall)
	want.Merge(dataplane.State{Chains: door.Chains(door.Options{
		Table: masq.Table(""), Filter: door.Strict, Untrack: untrack, Devices: devices,
	})})
	want.Merge(dataplane.State{Sysctls: masq.Sysctls(networks), Chains: masq.Chains(masq.Options{
		Engine: ruleset.NFTables, Networks: networks, Subnets: own, Masquerade: true, Forward: true, FullyRandom: true,
	})})
	return want, nil
}

// letIn is what lets a peer's packets in. The devices learn how long its subnets are.
func letIn(devices []door.Device, l subnet.Lease) map[ruleset.Elem]struct{} {
	out := map[ruleset.Elem]struct{}{}
	for i := range devices {
		for _, share := range l.Shares {
			for el := range devices[i].Elems(masq.Table(""), door.Strict, share.Public, share.Subnet) {
				out[el] = struct{}{}
				devices[i].Learn(share.Subnet.Bits())
			}
		}
	}
	return out
}

// linesOf is what mirror.holds would say of a state.
func linesOf(s dataplane.State) (lines []string) {
	for name, l := range s.Links {
		lines = append(lines, fmt.Sprintf("link %s %s mtu %d up %v vni %d port %d local %s learning %v",
			name, l.MAC, l.MTU, l.Up, l.VNI, l.Port, l.Local, l.Learning))
	}
	for k := range s.Addrs {
		lines = append(lines, fmt.Sprintf("address %s dev %s", k.Prefix, k.Link))
	}
	for k, to := range s.FDB {
		lines = append(lines, fmt.Sprintf("neighbour of family %d: %s %s dev %s", unix.AF_BRIDGE, to, k.MAC, k.Link))
	}
	for k, m := range s.Neighs {
		family := unix.AF_INET
		if k.IP.Is6() {
			family = unix.AF_INET6
		}
		lines = append(lines, fmt.Sprintf("neighbour of family %d: %s %s dev %s", family, k.IP, m, k.Link))
	}
	for k, r := range s.Routes {
		lines = append(lines, fmt.Sprintf("route %s via %s dev %s type %d proto %d hops 0",
			k.Prefix, r.Via, r.Link, unix.RTN_UNICAST, linux.RouteProtocol))
	}
	slices.Sort(lines)
	return lines
}

// ruleWrites compares what mirror can't name.
func ruleWrites(ctx context.Context, k *linux.Kernel, h backend.Host, want dataplane.State) (string, error) {
	domain := dataplane.Domain{Links: want.Links, Uplink: h.Uplink.Iface, Tables: []string{masq.Table("")}}
	for _, n := range h.Config.Networks {
		domain.Networks = append(domain.Networks, n.Prefix)
	}
	keys := dataplane.State{Sysctls: want.Sysctls, Chains: want.Chains, Elems: want.Elems}
	if _, err := k.Observe(ctx, dataplane.Scope{Keys: keys, Domain: domain}); err != nil { // these sysctls count
		return "", err
	}
	have, err := k.Observe(ctx, dataplane.Scope{All: true, Domain: domain})
	if err != nil {
		return "", err
	}
	mine := dataplane.Observed{Have: dataplane.State{
		Chains: have.Have.Chains, Elems: have.Have.Elems, Sysctls: map[string]string{},
	}}
	for name := range want.Sysctls {
		mine.Have.Sysctls[name] = have.Have.Sysctls[name]
	}
	return dataplane.Diff(keys, mine).String(), nil
}

// asModelled compares all that a node's kernel holds with what the store's
// leases make of it. Only the leases are read of the store; the daemon is asked
// for nothing but the name of its own.
func (d *daemon) asModelled(m *mirror, endpoint string) error {
	s, err := d.status()
	if err != nil {
		return err
	}
	cmd, err := inRole(roleModel, modelOptions{endpoint, s.Node.Lease})
	if err != nil {
		return err
	}
	out, err := outputOf(d.t, &d.node.Namespace, cmd)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return compareModel(m, out)
}

func compareModel(m *mirror, out string) error {
	var want modelReply
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	all, err := m.holds()
	if err != nil {
		return err
	}
	var have []string
	for _, line := range all {
		chain, sysctl := strings.HasPrefix(line, "chain"), strings.HasPrefix(line, "/proc")
		if !chain && !sysctl && !strings.Contains(line, " other") { // as seeded: other0, other.7
			have = append(have, line)
		}
	}
	if diff := cmp.Diff(want.Lines, have) + want.Rules; diff != "" {
		return fmt.Errorf("%s: not as the leases say (-want +have):\n%s", m.node.Name, diff)
	}
	return nil
}

// foreign is what stands on a node and is none of weft's: a line for each link,
// address, rule and route, and for what stands on other tunnels.
func (m *mirror) foreign(t testing.TB) (lines []string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	links, err := m.LinkList()
	check(err)
	ours := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		if ours[a.Index] = strings.HasPrefix(a.Name, "flannel"); ours[a.Index] {
			continue
		}
		lines = append(lines, fmt.Sprintf("link %d %s %s mtu %d %s", a.Index, a.Name, l.Type(), a.MTU, a.OperState))
		addrs, err := m.AddrList(l, unix.AF_UNSPEC)
		check(err)
		for _, addr := range addrs {
			lines = append(lines, fmt.Sprintf("address %s dev %s", addr.IPNet, a.Name))
		}
		for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
			entries, err := m.NeighList(a.Index, family)
			check(err)
			for _, n := range entries {
				if n.State&unix.NUD_PERMANENT != 0 && l.Type() == "vxlan" {
					lines = append(lines, fmt.Sprintf("entry %d %s %s dev %s", family, n.IP, n.HardwareAddr, a.Name))
				}
			}
		}
	}
	lines = append(lines, m.foreignRoutes(check, ours)...)
	tables, err := m.nft.ListTables()
	check(err)
	for _, table := range tables {
		if table.Name != "weft" {
			lines = append(lines, fmt.Sprintf("table %d %s", table.Family, table.Name))
		}
	}
	slices.Sort(lines)
	return lines
}

func (m *mirror) foreignRoutes(check func(error), ours map[int]bool) (lines []string) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := m.RuleList(family)
		check(err)
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %s", family, r))
		}
		routes, err := m.RouteList(nil, family) // all of table main
		check(err)
		table, err := m.RouteListFiltered(family, &netlink.Route{Table: foreignTable}, netlink.RT_FILTER_TABLE)
		check(err)
		for _, r := range append(routes, table...) {
			if r.Protocol != linux.RouteProtocol && !ours[r.LinkIndex] {
				lines = append(lines, fmt.Sprintf("route %s via %s dev %d table %d proto %d metric %d",
					r.Dst, r.Gw, r.LinkIndex, r.Table, r.Protocol, r.Priority))
			}
		}
	}
	return lines
}
