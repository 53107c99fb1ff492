package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/pkg/topology"
)

// flannel is what flannel v0.28.9 has in the kernel, in etcd and on the disk of
// a node, made by hand: see the contract on Documentation/flannel-compat.md.
type flannel struct {
	t        *testing.T
	node     *topology.Node
	families []flannelFamily
}

// flannelFamily is one family's part of a node.
type flannelFamily struct {
	device          string
	network, subnet netip.Prefix
	public          netip.Addr
	mac             net.HardwareAddr
}

const flannelMTU = 1450

// start does what flanneld does at its start, and again at every other: what is
// there already stays, or is replaced as flannel replaces it.
func (f *flannel) start(peers ...*flannel) {
	f.t.Helper()
	err := f.node.Do(func() error {
		for i, own := range f.families {
			if err := own.ensureDevice(); err != nil {
				return fmt.Errorf("%s: %w", own.device, err)
			}
			for _, p := range peers {
				if err := own.peer(p.families[i]); err != nil {
					return fmt.Errorf("%s, peer %s: %w", own.device, p.node.Name, err)
				}
			}
		}
		return f.tables()
	})
	if err != nil {
		f.t.Fatal(err)
	}
	env := subnetenv.Env{MTU: flannelMTU, IPMasq: true}
	for _, own := range f.families {
		env.Networks, env.Subnets = append(env.Networks, own.network), append(env.Subnets, own.subnet)
	}
	if err := subnetenv.Write(f.node.SubnetFile(), env); err != nil {
		f.t.Fatal(err)
	}
}

// ensureDevice makes the device, or takes one that is as flannel would make it. The
// host's forwarding was the administrator's, before flannel.
func (own flannelFamily) ensureDevice() error {
	family := "ipv4/ip_forward"
	if own.subnet.Addr().Is6() {
		family = "ipv6/conf/all/forwarding"
	}
	if err := os.WriteFile("/proc/sys/net/"+family, []byte("1"), 0); err != nil {
		return err
	}
	parent, err := netlink.LinkByName(topology.Eth0)
	if err != nil {
		return err
	}
	attrs := netlink.LinkAttrs{Name: own.device, HardwareAddr: own.mac, MTU: flannelMTU}
	device := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: parent.Attrs().Index, SrcAddr: own.public.AsSlice(), Port: 8472,
	}
	if _, err := netlink.LinkByName(own.device); err != nil {
		if err := netlink.LinkAdd(device); err != nil {
			return err
		}
	}
	if own.subnet.Addr().Is6() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+own.device+"/accept_ra", []byte("0"), 0); err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName(own.device)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(own.subnet.Addr(), own.subnet.Addr().BitLen()))}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// peer writes the three entries of a peer: replaced, the route without a
// protocol of its own.
func (own flannelFamily) peer(p flannelFamily) error {
	link, err := netlink.LinkByName(own.device)
	if err != nil {
		return err
	}
	index, gateway := link.Attrs().Index, net.IP(p.subnet.Addr().AsSlice())
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: gateway, HardwareAddr: p.mac,
	}); err != nil {
		return err
	}
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
		IP: p.public.AsSlice(), HardwareAddr: p.mac,
	}); err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: index, Dst: ipNet(p.subnet), Gw: gateway, Flags: int(netlink.FLAG_ONLINK), Scope: netlink.SCOPE_UNIVERSE,
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// tables makes flannel's nftables: both tables always, rules for the families
// that are on. A table of before is replaced.
func (f *flannel) tables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	for _, t := range []*nftables.Table{
		{Family: nftables.TableFamilyIPv4, Name: "flannel-ipv4"}, {Family: nftables.TableFamilyIPv6, Name: "flannel-ipv6"},
	} {
		conn.AddTable(t)
		conn.DelTable(t)
		conn.AddTable(t)
		for _, own := range f.families {
			if own.subnet.Addr().Is6() == (t.Family == nftables.TableFamilyIPv6) {
				own.rules(conn, t)
			}
		}
	}
	return conn.Flush()
}

// rules are those of the contract that matter here: pods talk to each other
// unchanged, and to others under the node's address.
func (own flannelFamily) rules(conn *nftables.Conn, t *nftables.Table) {
	accept := nftables.ChainPolicyAccept
	nat := conn.AddChain(&nftables.Chain{
		Name: "postrtg", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource, Policy: &accept,
	})
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if own.subnet.Addr().Is6() {
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	const source, destination = true, false
	add := func(chain *nftables.Chain, verdict expr.Any, matches ...[]expr.Any) {
		rule := &nftables.Rule{Table: t, Chain: chain}
		for _, m := range matches {
			rule.Exprs = append(rule.Exprs, m...)
		}
		rule.Exprs = append(rule.Exprs, verdict)
		conn.AddRule(rule)
	}
	back, masquerade := &expr.Verdict{Kind: expr.VerdictReturn}, &expr.Masq{FullyRandom: true}
	add(nat, back, match(own.subnet, source, expr.CmpOpEq), match(own.network, destination, expr.CmpOpEq))
	add(nat, back, match(own.network, source, expr.CmpOpEq), match(own.subnet, destination, expr.CmpOpEq))
	add(nat, back, match(own.subnet, source, expr.CmpOpNeq), match(own.network, destination, expr.CmpOpEq))
	add(nat, masquerade, match(own.network, source, expr.CmpOpEq), match(multicast, destination, expr.CmpOpNeq))
	add(nat, masquerade, match(own.network, source, expr.CmpOpNeq), match(own.network, destination, expr.CmpOpEq))
	add(forward, &expr.Verdict{Kind: expr.VerdictAccept}, match(own.network, source, expr.CmpOpEq))
	add(forward, &expr.Verdict{Kind: expr.VerdictAccept}, match(own.network, destination, expr.CmpOpEq))
}

// match compares an address of the packet with a prefix.
func match(p netip.Prefix, source bool, op expr.CmpOp) []expr.Any {
	raw := p.Masked().Addr().AsSlice()
	size := uint32(len(raw))
	offset := map[uint32]uint32{4: 12, 16: 8}[size] // RFC 791, RFC 8200
	if !source {
		offset += size
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), len(raw)*8), Xor: make([]byte, size),
		},
		&expr.Cmp{Op: op, Register: 1, Data: raw},
	}
}

// lease writes the node's lease into etcd as flannel does, under an etcd lease
// of a day.
func (f *flannel) lease(c *cluster) {
	f.t.Helper()
	granted := regexp.MustCompile(`lease ([0-9a-f]+) granted`).FindStringSubmatch(c.etcdctl("lease", "grant", "86400"))
	if granted == nil {
		f.t.Fatal("etcdctl grants no lease")
	}
	c.etcdctl("put", "--lease="+granted[1], f.key(), f.value())
}

func (f *flannel) key() string {
	var parts []string
	for _, own := range f.families {
		parts = append(parts, strings.Replace(own.subnet.String(), "/", "-", 1))
	}
	return "/coreos.com/network/subnets/" + strings.Join(parts, "&")
}

func (f *flannel) value() string {
	v6, data := "null", ""
	for i, own := range f.families {
		field := "BackendData"
		if i > 0 {
			v6, field = fmt.Sprintf("%q", own.public), "BackendV6Data"
		}
		data += fmt.Sprintf(`,%q:{"VNI":1,"VtepMAC":%q}`, field, own.mac)
	}
	return fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":%s,"BackendType":"vxlan"%s}`, f.families[0].public, v6, data)
}

// vtepState is what flannel looks at before it takes a device that is there, and
// what its peers know about it.
type vtepState struct {
	Index, VNI, Parent, Port  int
	Local, Group, MAC, Master string
	GBP, L2Miss               bool
	MTU                       int // not compared by flannel
	Up                        bool
	Addrs                     []string
}

func (f *flannel) vteps() map[string]vtepState {
	f.t.Helper()
	out := map[string]vtepState{}
	err := f.node.Do(func() error {
		for _, own := range f.families {
			link, err := netlink.LinkByName(own.device)
			if err != nil {
				return err
			}
			d, ok := link.(*netlink.Vxlan)
			if !ok {
				return fmt.Errorf("%s is a %s", own.device, link.Type())
			}
			v := vtepState{
				Index: d.Index, VNI: d.VxlanId, Parent: d.VtepDevIndex, Port: d.Port, Local: d.SrcAddr.String(),
				Group: d.Group.String(), MAC: d.HardwareAddr.String(), GBP: d.GBP, L2Miss: d.L2miss, MTU: d.MTU,
				Up: d.Flags&net.FlagUp != 0,
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if a.Scope == unix.RT_SCOPE_UNIVERSE {
					v.Addrs = append(v.Addrs, a.IPNet.String())
				}
			}
			out[own.device] = v
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// protocols are those of the routes to a peer's subnets.
func (f *flannel) protocols(peer *flannel) (out []int) {
	f.t.Helper()
	err := f.node.Do(func() error {
		for _, p := range peer.families {
			to := &netlink.Route{Dst: ipNet(p.subnet)}
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, to, netlink.RT_FILTER_DST)
			if err != nil {
				return err
			}
			for _, r := range routes {
				out = append(out, int(r.Protocol))
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// chains are those of nftables, as table/chain.
func (f *flannel) chains() (out []string) {
	f.t.Helper()
	err := f.node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := conn.ListChains()
		for _, c := range chains {
			out = append(out, c.Table.Name+"/"+c.Name)
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// flannelPlugin is weft's CNI plugin under flannel's name.
func flannelPlugin(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flannel")
	if err := os.Symlink(filepath.Join(bin, "weft"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// config is the network's configuration for the families of a node.
func (f *flannel) config() string {
	conf := map[string]any{"EnableNFTables": true, "Backend": map[string]any{"Type": "vxlan"}}
	for _, own := range f.families {
		if own.network.Addr().Is4() {
			conf["Network"] = own.network
		} else {
			conf["IPv6Network"], conf["EnableIPv6"] = own.network, true
		}
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(raw)
}
