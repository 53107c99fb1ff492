package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/topology"
)

// lanes are all that may happen. What one lane does, the others don't wait for.
func (x *chaos) lanes() []lane {
	const cluster = -1
	lanes := []lane{
		{"store", cluster, []string{
			"frozen", "killed", "stopped", "compacted", "all leases deleted", "lease deleted", "lease revoked",
			"hostile leases", "peers come",
		}, time.Second, 8 * time.Second},
	}
	for i := range chaosNodes {
		lanes = append(lanes,
			lane{"process", i, []string{"killed", "stopped", "suspended", "killed twice"}, 4 * time.Second, 5 * time.Second},
			lane{"foreign", i, []string{"foreign routes"}, 6 * time.Second, time.Second})
		if i < quietFrom {
			lanes = append(lanes,
				lane{"drift", i, []string{"drift", "drift", "drift", "much drift"}, 700 * time.Millisecond, time.Microsecond},
				lane{"underlay", i, []string{"another address", "link down", "another MTU"}, 8 * time.Second, 3 * time.Second})
		}
	}
	return lanes
}

// do does one step, and gives what undoes it, or nil.
func (x *chaos) do(s step) (undo func()) {
	switch s.lane {
	case "store":
		return x.toStore(s)
	case "process":
		return x.toProcess(s)
	case "foreign":
		return x.foreignRoutes(s)
	case "drift":
		if s.deed == "much drift" {
			for n := range uint64(5) {
				x.drift(s.node, s.number+n*0x1001)
			}
		}
		x.drift(s.node, s.number)
		return nil
	default:
		return x.toUnderlay(s)
	}
}

// drift changes or deletes one thing that weft owns on a node.
func (x *chaos) drift(node int, number uint64) {
	peer := (node + 1 + int(number%(chaosNodes-1))) % chaosNodes
	family := int(number / 7 % 2)
	s, err := x.mirrors[node].side(x.pods[peer].Addrs[family], x.Outside.Addrs[family])
	if err != nil {
		x.note(fmt.Errorf("%w: %w", errNothing, err))
		return
	}
	all := s.disturbances()
	d := all[number/14%uint64(len(all))]
	if !x.present[node] && usurps(d.name) {
		x.tell("    node %d: %s: left out, weft would think that it stood there before", node+1, d.name)
		return
	}
	x.tell("    node %d: %s", node+1, d.name)
	now := time.Now()
	x.note(d.do())
	x.broken[node] = append(x.broken[node], window{now, time.Now()})
}

// usurps are disturbances that put a route of somebody else's in the place of
// ours: a daemon that didn't see that leaves it alone.
func usurps(disturbance string) bool {
	return strings.Contains(disturbance, "route replaced") || strings.Contains(disturbance, "another added")
}

// absent notes from when to when one who mends was away, at these nodes.
func (x *chaos) absent(nodes ...int) (back func()) {
	from := time.Now()
	return func() {
		for _, i := range nodes {
			x.away[i] = append(x.away[i], window{from, time.Now()})
		}
	}
}

func everyNode() (all []int) {
	for i := range chaosNodes {
		all = append(all, i)
	}
	return all
}

func (x *chaos) toProcess(s step) func() {
	d := x.daemons[s.node]
	over := x.absent(s.node)
	x.present[s.node] = false
	back := func() {
		over()
		x.present[s.node] = true
	}
	switch s.deed {
	case "killed":
		d.kill()
	case "stopped": // early in its start, SIGTERM ends it as it ends anything
		x.note(d.proc.Signal(syscall.SIGTERM))
		<-d.proc.Done()
	case "suspended":
		x.note(d.proc.Signal(syscall.SIGSTOP))
		return func() {
			x.note(d.proc.Signal(syscall.SIGCONT))
			back()
		}
	case "killed twice":
		d.kill()
		d.start()
		return func() { // somewhere in its start
			d.kill()
			d.start()
			back()
		}
	}
	return func() {
		d.start()
		back()
	}
}

func (x *chaos) toStore(s step) func() {
	node := int(s.number % quietFrom) // whose lease it is about
	switch s.deed {
	case "frozen", "killed", "stopped":
		back := x.absent(everyNode()...)
		end, begin := x.store.freeze, x.store.thaw
		if s.deed != "frozen" {
			end, begin = x.store.kill, x.store.start
		}
		if s.deed == "stopped" {
			end = x.store.stop
		}
		end()
		return func() {
			begin()
			x.answers()
			back()
		}
	case "compacted":
		x.compact()
	case "all leases deleted":
		// The owners take theirs again; until the others believe that the store
		// means it, they keep what they know.
		for i := range quietFrom {
			x.broken[i] = append(x.broken[i], window{time.Now(), time.Now()})
		}
		x.order("del", "--prefix", subnetsPrefix)
		return func() { x.putLeases(x.crowd, crowdLease) } // those have no owners who could
	case "lease deleted", "lease revoked":
		return x.takeLease(s, node)
	case "hostile leases":
		if !x.leased(quietFrom) {
			x.note(errors.New("the quiet node has no lease now: whoever takes its subnet is its heir, not hostile"))
			return nil
		}
		return x.putAll(x.hostile(s.number))
	case "peers come":
		return x.putAll(x.peers(1 + int(s.number%20)))
	}
	return nil
}

// order is etcdctl; it may fail, as the store starts perhaps.
func (x *chaos) order(args ...string) string {
	out, err := x.store.try(args...)
	x.note(err)
	return out
}

// answers waits until the store does.
func (x *chaos) answers() {
	eventually(x.t, 20*time.Second, func() error {
		_, err := x.store.try("get", "/coreos.com/network/config")
		return err
	})
}

// compact forgets all history but the newest revision.
func (x *chaos) compact() {
	var revision int64
	out := x.order("endpoint", "status", "-w", "fields")
	for line := range strings.Lines(out) {
		if n, err := fmt.Sscanf(line, `"Revision" : %d`, &revision); err == nil && n == 1 {
			x.order("compact", fmt.Sprint(revision))
		}
	}
}

// takeLease takes a node's lease away by hand. Its daemon takes it again, when
// it is there.
func (x *chaos) takeLease(s step, node int) func() {
	status, err := x.daemons[node].status()
	if err != nil {
		x.note(err)
		return nil
	}
	x.broken[node] = append(x.broken[node], window{time.Now(), time.Now().Add(s.lasts)})
	key := keyOf(status.Node.Lease)
	if s.deed == "lease deleted" {
		x.order("del", key)
		return nil
	}
	var lease int64
	for line := range strings.Lines(x.order("get", key, "-w", "fields")) {
		if n, err := fmt.Sscanf(line, `"Lease" : %d`, &lease); err == nil && n == 1 && lease != 0 {
			x.order("lease", "revoke", fmt.Sprintf("%x", lease))
		}
	}
	return nil
}

// leased tells whether a node's lease stands in the store: it may sleep while
// somebody deletes all.
func (x *chaos) leased(node int) bool {
	subnet := netip.PrefixFrom(x.pods[node].Addrs[0], 24).Masked()
	key := subnetsPrefix + strings.Replace(subnet.String(), "/", "-", 1)
	return x.order("get", "--prefix", "--keys-only", key) != ""
}

// putAll writes keys, and gives what deletes them.
func (x *chaos) putAll(keys map[string]string) func() {
	for key, value := range keys {
		x.order("put", subnetsPrefix+key, value)
	}
	return func() {
		for key := range keys {
			x.order("del", subnetsPrefix+key)
		}
	}
}

// hostile are leases that nobody shall believe: they would take a quiet node's
// packets away.
func (x *chaos) hostile(number uint64) map[string]string {
	quiet := x.pods[quietFrom]
	half := netip.PrefixFrom(quiet.Addrs[0], 25).Masked()
	value := func(public string, last byte) string {
		return fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"vxlan",`+
			`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}}`, public, last)
	}
	theirs := x.Nodes[quietFrom].Addrs[0].String()
	all := []map[string]string{
		{strings.Replace(half.String(), "/", "-", 1): value("192.168.77.66", 1)},
		{"10.42.210.0-24": value(theirs, 2), "10.42.211.0-24": "{", "nonsense": "{}"},
		{"10.42.212.0-24": fmt.Sprintf(`{"PublicIP":"192.168.77.67","PublicIPv6":null,"BackendType":"vxlan",`+
			`"BackendData":{"VNI":1,"VtepMAC":%q}}`, x.macOf(quietFrom))},
		{"192.168.77.0-24": value("192.168.77.68", 3), "0.0.0.0-1": value("192.168.77.69", 4)},
		{"10.42.213.0-24": value("127.0.0.1", 5), "10.42.214.0-24": value("10.42.0.1", 6)},
	}
	return all[number%uint64(len(all))]
}

func (x *chaos) macOf(node int) string {
	link, err := x.mirrors[node].LinkByName("flannel.1")
	if err != nil {
		x.note(err)
		return "02:00:00:00:00:07"
	}
	return link.Attrs().HardwareAddr.String()
}

// peers are leases of nodes that are only told of.
func (x *chaos) peers(n int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprintf("10.42.%d.0-24&fd00:42:0:%x::-64", 220+i, 0x200+i)] = fmt.Sprintf(
			`{"PublicIP":"192.168.77.%d","PublicIPv6":"fd77::%x","BackendType":"vxlan",`+
				`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:04:00:%02x"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:06:00:%02x"}}`,
			220+i, 0x220+i, i, i)
	}
	return out
}

// crowdLease is one of the leases that a cluster has beside those of the nodes.
func crowdLease(i int) (key, value string) {
	hi, lo := i/256, i%256
	return fmt.Sprintf("10.%d.%d.0-24&fd00:42:0:%x::-64", 43+hi, lo, 0x8000+i), fmt.Sprintf(
		`{"PublicIP":"172.16.%d.%d","PublicIPv6":"fd78::%x","BackendType":"vxlan",`+
			`"BackendData":{"VNI":1,"VtepMAC":"02:00:04:01:%02x:%02x"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:06:01:%02x:%02x"}}`,
		hi, lo, i, hi, lo, hi, lo)
}

// toUnderlay changes a node's way to the others.
func (x *chaos) toUnderlay(s step) func() {
	m := x.mirrors[s.node]
	eth0, err := m.LinkByName(topology.Eth0)
	if err != nil {
		x.t.Fatal(err)
	}
	from := time.Now()
	switch s.deed {
	case "another address":
		x.note(x.readdress(s.node, int(s.number%3), 100))
	case "link down":
		x.note(m.LinkSetDown(eth0))
	case "another MTU":
		x.note(m.LinkSetMTU(eth0, 1400))
	}
	return func() {
		x.note(m.LinkSetMTU(eth0, 1500))
		x.note(m.LinkSetUp(eth0))
		x.note(x.readdress(s.node, 2, 0))
		x.broken[s.node] = append(x.broken[s.node], window{from, time.Now()})
	}
}

// readdress gives a node other addresses of a family (0, 1), or of both (2): its
// own plus so much. The routes to everywhere are made anew where they went along.
func (x *chaos) readdress(node, families, plus int) error {
	m := x.mirrors[node]
	eth0, err := m.LinkByName(topology.Eth0)
	if err != nil {
		return err
	}
	var errs []error
	for i, own := range x.Nodes[node].Addrs {
		if families != 2 && families != i {
			continue
		}
		raw := own.AsSlice()
		raw[len(raw)-1] += byte(plus)
		bits := []int{underlay4.Bits(), underlay6.Bits()}[i]
		next := &net.IPNet{IP: raw, Mask: net.CIDRMask(bits, own.BitLen())}
		family := []int{unix.AF_INET, unix.AF_INET6}[i]
		old, err := m.AddrList(eth0, family)
		errs = append(errs, err)
		for _, a := range old {
			if !a.IP.IsLinkLocalUnicast() && !a.IP.Equal(next.IP) {
				errs = append(errs, m.AddrDel(eth0, &a))
			}
		}
		err = m.AddrReplace(eth0, &netlink.Addr{IPNet: next, Flags: unix.IFA_F_NODAD})
		route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: x.Outside.Addrs[i].AsSlice(), Family: family}
		errs = append(errs, err, m.RouteReplace(route))
	}
	return errors.Join(errs...)
}

const (
	foreignTable = 77
	foreignLink  = "other0"
)

// seedForeign puts things on a node that are none of weft's, some of them quite
// like its own.
func (x *chaos) seedForeign(node int) {
	m := x.mirrors[node]
	check := func(err error) {
		x.t.Helper()
		if err != nil {
			x.t.Fatal(err)
		}
	}
	bridge := netlink.NewLinkAttrs()
	bridge.Name = foreignLink
	check(m.LinkAdd(&netlink.Bridge{LinkAttrs: bridge}))
	parent, err := m.LinkByName(foreignLink)
	check(err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "other.7"
	check(m.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4789, VtepDevIndex: parent.Attrs().Index}))
	other, err := m.LinkByName("other.7")
	check(err)
	hardware := net.HardwareAddr{2, 7, 0, 0, 0, 1}
	check(errors.Join(m.LinkSetUp(parent), m.LinkSetUp(other),
		m.AddrAdd(parent, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.77.0.1/24"))}),
		m.NeighAdd(&netlink.Neigh{
			LinkIndex: other.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 77, 0, 2), HardwareAddr: hardware,
		}),
		m.NeighAppend(&netlink.Neigh{
			LinkIndex: other.Attrs().Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
			IP: net.IPv4(10, 77, 0, 2), HardwareAddr: hardware,
		})))
	for _, r := range []netlink.Route{
		{Dst: ipNet(netip.MustParsePrefix("172.16.0.0/16"))},
		{Dst: ipNet(netip.MustParsePrefix("10.42.200.0/24"))}, // in the cluster's network, and before weft
		{Dst: ipNet(netip.MustParsePrefix("10.42.1.0/24")), Table: foreignTable},
		{Dst: ipNet(netip.MustParsePrefix("fd99::/48"))},
	} {
		r.LinkIndex = parent.Attrs().Index
		check(m.RouteAdd(&r))
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Family = 1000, foreignTable, unix.AF_INET
	rule.Src = ipNet(netip.MustParsePrefix("10.77.0.0/24"))
	check(m.RuleAdd(rule))
	m.nft.AddTable(&nftables.Table{Name: "foreign", Family: nftables.TableFamilyIPv4})
	check(m.nft.Flush())
}

// foreignRoutes lets a routing daemon announce hundreds of routes, and withdraw them.
func (x *chaos) foreignRoutes(s step) func() {
	m := x.mirrors[s.node]
	parent, err := m.LinkByName(foreignLink)
	if err != nil {
		x.t.Fatal(err)
	}
	index := parent.Attrs().Index
	each := func(verb func(*netlink.Route) error) {
		for i := range 200 {
			dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i), 0}), 24)
			if err := verb(&netlink.Route{LinkIndex: index, Dst: ipNet(dst), Protocol: unix.RTPROT_BGP}); err != nil {
				x.t.Fatalf("%s: %v", dst, err)
			}
		}
	}
	each(m.RouteAdd)
	return func() { each(m.RouteDel) }
}
