package cniplugin

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// plan is all that the kernel is to hold for one pod.
type plan struct {
	hostIf, podIf   string
	hostMAC, podMAC mac.Addr
	mtu             int
	bridge          *bridge // nil: point to point
	hairpin         bool

	podAddrs    []netip.Prefix
	podRoutes   []route
	onlink      bool // the gateways are on no subnet of the pod's
	podSysctls  []sysctl
	hostAddrs   []netip.Prefix // point to point: the gateways, on the host's end
	hostRoutes  []netip.Prefix // point to point: to the pod
	hostSysctls []sysctl
	proxies     []proxy // point to point: for pods on the bridge

	gateways []netip.Addr // per address
}

// bridge is the link that the node's pods share.
type bridge struct {
	name    string
	mac     mac.Addr // if it has to be made
	mtu     int
	addrs   []netip.Prefix
	alone   bool // no other address
	promisc bool
	sysctls []sysctl
}

// proxy is the host's answer for one address of a pod of its own link, to pods
// that look for the subnet's addresses on a bridge.
type proxy struct {
	bridge        string
	gateway, addr netip.Addr
	sysctls       []sysctl
}

// sysctl is a setting of a link under /proc/sys/net.
type sysctl struct {
	path, value string
	optional    bool // a kernel without IPv6 doesn't have it, and needs it not
}

// newPlan decides what the kernel shall hold. Pure: addrs are the pod's, one per
// subnet of env.
func newPlan(c config, req request, env subnetenv.Env, w wish, addrs []netip.Addr) plan {
	a := plan{
		hostIf: hostName(c.network, req), podIf: req.ifName, podMAC: w.mac, mtu: c.podMTU(env),
	}
	if a.podMAC.IsZero() {
		// A MAC that follows from the address keeps neighbours' caches right
		// when the address gets a new pod. One that is set by hand is also
		// left alone by udev, which would change it while traffic runs.
		a.podMAC = hashMAC("pod", addrs[0].String())
	}
	a.hostMAC = hashMAC("host", a.hostIf)
	for _, s := range env.Subnets {
		a.gateways = append(a.gateways, subnetenv.FirstHost(s))
	}
	v6 := slices.ContainsFunc(addrs, netip.Addr.Is6)
	a.podSysctls = linkSysctls(a.podIf, v6)
	if c.mode == modePTP {
		a.pointToPoint(c, addrs, v6)
	} else {
		a.bridged(c, env, addrs)
	}
	a.podRoutes = podRoutes(c, env, a)
	return a
}

func (a *plan) bridged(c config, env subnetenv.Env, addrs []netip.Addr) {
	a.hairpin, a.bridge = c.hairpin, newBridge(c, env)
	for i, s := range env.Subnets {
		a.podAddrs = append(a.podAddrs, netip.PrefixFrom(addrs[i], s.Bits()))
		a.podSysctls = append(a.podSysctls, notify(a.podIf, addrs[i]))
	}
}

// newBridge is what the node's bridge shall be; nil in point to point. Pure.
func newBridge(c config, env subnetenv.Env) *bridge {
	if c.mode != modeBridge {
		return nil
	}
	var gateways []netip.Addr
	for _, s := range env.Subnets {
		gateways = append(gateways, subnetenv.FirstHost(s))
	}
	br := &bridge{
		// It follows from the subnet's gateway, so that pods find the bridge
		// that is made in place of one that was deleted.
		name: c.bridge, mac: hashMAC("bridge", gateways[0].String()),
		mtu: c.podMTU(env), alone: c.forceAddress, promisc: c.promisc,
		sysctls: linkSysctls(c.bridge, slices.ContainsFunc(gateways, netip.Addr.Is6)),
	}
	for i, s := range env.Subnets {
		br.addrs = append(br.addrs, netip.PrefixFrom(gateways[i], s.Bits()))
	}
	br.sysctls = append(br.sysctls, portSysctls(c.ports, c.bridge, gateways)...)
	return br
}

// notify has the kernel tell the neighbours of an address (gratuitous ARP,
// unsolicited neighbour advertisement) when the link is announced: who remembers
// another pod under it is put right at once.
func notify(link string, addr netip.Addr) sysctl {
	if addr.Is4() {
		return sysctl{"ipv4/conf/" + link + "/arp_notify", "1", false}
	}
	return sysctl{"ipv6/conf/" + link + "/ndisc_notify", "1", false}
}

// portSysctls lets the host reach a port of its own at 127.0.0.1, which leaves
// by the pod's link. IPv6 knows no such thing.
func portSysctls(ports []attachment.Port, link string, addrs []netip.Addr) []sysctl {
	if len(ports) == 0 || !slices.ContainsFunc(addrs, netip.Addr.Is4) {
		return nil
	}
	return []sysctl{{"ipv4/conf/" + link + "/route_localnet", "1", false}}
}

// pointToPoint gives the pod a host address of its own and no neighbours: all
// goes to the gateway, which is the host's end of the pair.
// Pods that were attached to a bridge before are not left behind: they ask on
// the bridge, where the host answers.
func (a *plan) pointToPoint(c config, addrs []netip.Addr, v6 bool) {
	a.onlink = true
	a.hostSysctls = append(linkSysctls(a.hostIf, v6), portSysctls(c.ports, a.hostIf, addrs)...)
	for i, addr := range addrs {
		a.podAddrs = append(a.podAddrs, host(addr))
		a.hostRoutes = append(a.hostRoutes, host(addr))
		a.hostAddrs = append(a.hostAddrs, host(a.gateways[i]))
		a.proxies = append(a.proxies, proxy{c.bridge, a.gateways[i], addr, proxySysctls(c.bridge, addr)})
	}
}

// proxySysctls lets the host answer on a bridge. The kernel would wait up to
// 0.8 s before it does (proxy_delay).
func proxySysctls(bridge string, addr netip.Addr) []sysctl {
	family, answer := "ipv4", "proxy_arp"
	if addr.Is6() {
		family, answer = "ipv6", "proxy_ndp"
	}
	return []sysctl{
		{family + "/conf/" + bridge + "/" + answer, "1", false},
		{family + "/neigh/" + bridge + "/proxy_delay", "0", false},
	}
}

// podRoutes is what the pod can reach: the overlay's networks, what the user
// adds, and the world. A prefix stands once (the user's word before ours);
// what is on the link is there already; families that the pod doesn't have are
// passed over, so that one configuration serves nodes of one and two families.
func podRoutes(c config, env subnetenv.Env, a plan) []route {
	wanted := slices.Clone(c.routes)
	for _, n := range env.Networks {
		wanted = append(wanted, route{dst: n})
	}
	if c.defaultGateway {
		for _, gw := range a.gateways {
			wanted = append(wanted, route{dst: netip.PrefixFrom(unspecified(gw), 0)})
		}
	}
	var routes []route
	seen := map[netip.Prefix]bool{}
	for _, p := range a.podAddrs {
		seen[p.Masked()] = true
	}
	for _, r := range wanted {
		i := slices.IndexFunc(a.gateways, func(gw netip.Addr) bool { return gw.BitLen() == r.dst.Addr().BitLen() })
		if i < 0 || seen[r.dst] {
			continue
		}
		seen[r.dst] = true
		if !r.via.IsValid() {
			r.via = a.gateways[i]
		}
		routes = append(routes, r)
	}
	return routes
}

// linkSysctls: a pod must not be led astray by router advertisements of
// another; an address that we gave needs no search for duplicates, which would
// hold it back for a second.
func linkSysctls(link string, v6 bool) []sysctl {
	// In these paths "/" separates, so a dot in a link's name stays.
	dir := "ipv6/conf/" + link + "/"
	s := []sysctl{{dir + "accept_ra", "0", !v6}}
	if v6 {
		s = append(s, sysctl{dir + "disable_ipv6", "0", false}, sysctl{dir + "accept_dad", "0", false})
	}
	return s
}

// hostName is the name of the host's end: always the same for an attachment, so
// that DEL finds it when all else is gone. "veth" is what tools on a node look
// for; with 44 bits behind it the 15 bytes of a name are full.
func hostName(network string, req request) string {
	const prefix, length = "veth", 15
	sum := sha256.Sum256([]byte(strings.Join([]string{network, req.containerID, req.ifName}, "\x00")))
	return (prefix + hex.EncodeToString(sum[:]))[:length]
}

func hashMAC(kind, of string) mac.Addr {
	sum := sha256.Sum256([]byte("weft " + kind + " " + of))
	return mac.Local([6]byte(sum[:6]))
}

// host is the prefix that holds this address alone.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
