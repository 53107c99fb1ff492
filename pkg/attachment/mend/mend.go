// Package mend decides what has to be done to the host's side of pods'
// attachments, so that it is again as the CNI plugin made it.
//
//	records ─┐
//	         ├─ Plan ─→ steps ─→ the kernel
//	host ────┘
//
// A record counts while the host's end of its pair is there: with the pod's
// namespace that goes, too, and nobody can make it again from outside. What no
// record names is another's, and is never touched; nothing of it is ever removed.
//
// It owns that decision, as values. It refuses I/O.
package mend

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/mac"
)

// Names is what has to be read of the host for a list of records.
type Names struct {
	Links  map[string]bool
	Routes map[netip.Prefix]bool // host routes to pods
	Guards []attachment.Sources  // what pods may send as
	// Led are those that ports of the host lead to.
	Led []attachment.Attachment
}

// Host is what was read.
type Host struct {
	Links  map[string]Link
	Routes map[netip.Prefix]string // → the link that it leads through
	Ports  map[string]int          // how many links are ports of a bridge, whoever's
	// Guarded are the links that are held to their Sources; NoGuard is a kernel that
	// can't.
	Guarded map[string]bool
	NoGuard bool
	// PortRules: the rules that lead ports of the host are as they were written.
	PortRules bool
	// Led are the links whose pods have all of their ports of the host, and Taken
	// says of others which one leads elsewhere.
	Led   map[string]bool
	Taken map[string]string
}

// Link is a link of the host.
type Link struct {
	Kind        string // as the kernel has it: "bridge", "veth"
	MAC         mac.Addr
	MTU         int
	Up, Promisc bool
	Master      string // the bridge that it is a port of
	Hairpin     bool   // of the port
	Addrs       map[netip.Prefix]bool
}

// Action is what a Step does.
type Action string

// The actions, in the order in which one link needs them.
const (
	CreateBridge Action = "create bridge"
	SetSysctl    Action = "set sysctl"
	Guard        Action = "guard"
	SetPortRules Action = "write rules of host ports"
	LeadPorts    Action = "lead host ports to the pod of"
	SetMAC       Action = "set MAC"
	SetMTU       Action = "set MTU"
	SetMaster    Action = "make port"
	SetHairpin   Action = "set hairpin mode"
	SetPromisc   Action = "set promiscuous mode"
	SetUp        Action = "set up"
	AddAddr      Action = "add address"
	AddRoute     Action = "add route"
)

// Step is one write. Of the fields below Link, each action has its own.
type Step struct {
	Action Action
	Link   string

	MAC           mac.Addr                // CreateBridge, SetMAC
	MTU           int                     // CreateBridge, SetMTU
	Master        string                  // SetMaster
	Prefix        netip.Prefix            // AddAddr, AddRoute
	Sysctl, Value string                  // SetSysctl
	Sources       attachment.Sources      // Guard
	Pods          []attachment.Attachment // SetPortRules, and LeadPorts: one
}

// String is one line for the log.
func (s Step) String() string {
	out := string(s.Action) + " " + s.Link
	switch s.Action {
	case CreateBridge:
		return fmt.Sprintf("%s address %s mtu %d", out, s.MAC, s.MTU)
	case SetSysctl:
		return fmt.Sprintf("%s %s=%s", s.Action, s.Sysctl, s.Value)
	case SetPortRules: // of no link
		return string(s.Action)
	case SetMAC:
		return out + " " + s.MAC.String()
	case SetMTU:
		return fmt.Sprintf("%s %d", out, s.MTU)
	case SetMaster:
		return out + " of " + s.Master
	case AddAddr, AddRoute:
		return fmt.Sprintf("%s %s dev %s", s.Action, s.Prefix, s.Link)
	}
	return out
}

// Needs says what Plan has to know of the host.
func Needs(records []attachment.Attachment) Names {
	n := Names{Links: map[string]bool{}, Routes: map[netip.Prefix]bool{}}
	for _, r := range records {
		n.Links[r.HostLink] = true
		if s, guarded := r.Sources(); guarded {
			n.Guards = append(n.Guards, s)
		}
		if len(r.Ports) > 0 {
			n.Led = append(n.Led, r)
		}
		if r.Bridge != nil {
			n.Links[r.Bridge.Name] = true
		}
		for _, p := range r.HostRoutes() {
			n.Routes[p] = true
		}
	}
	return n
}

// Plan gives the steps, and what is in their way.
func Plan(records []attachment.Attachment, host Host) (steps []Step, conflicts []string) {
	p := planner{host: host, bridges: map[string]*bridge{}}
	var live []attachment.Attachment
	for _, r := range records {
		end, ok := host.Links[r.HostLink]
		if ok && end.Kind == "veth" && (r.HostMAC.IsZero() || end.MAC == r.HostMAC) {
			live = append(live, r)
			p.wantBridge(r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.bridges)) {
		p.mendBridge(name, p.bridges[name])
	}
	for _, r := range live {
		if s, guarded := r.Sources(); guarded && !host.NoGuard && !host.Guarded[r.HostLink] {
			p.do(Step{Action: Guard, Link: r.HostLink, Sources: s})
		}
		p.mendEnd(r)
	}
	p.mendPorts(live)
	return p.steps, p.conflicts
}

type planner struct {
	host      Host
	bridges   map[string]*bridge
	steps     []Step
	conflicts []string
}

// bridge is what the records together want of one.
type bridge struct {
	macs    map[mac.Addr]bool
	mtus    map[int]bool
	addrs   map[netip.Prefix]bool
	promisc bool
	at      mac.Addr // what it will have; zero: the kernel chooses
	ports   int      // of these records, that are ports now
	local   bool
	blocked bool
}

func (p *planner) do(s Step) { p.steps = append(p.steps, s) }

func (p *planner) wantBridge(r attachment.Attachment) {
	if r.Bridge == nil {
		return
	}
	b := p.bridges[r.Bridge.Name]
	if b == nil {
		b = &bridge{macs: map[mac.Addr]bool{}, mtus: map[int]bool{}, addrs: map[netip.Prefix]bool{}}
		p.bridges[r.Bridge.Name] = b
	}
	if !r.Bridge.MAC.IsZero() {
		b.macs[r.Bridge.MAC] = true
	}
	if r.MTU > 0 {
		b.mtus[r.MTU] = true
	}
	for _, a := range r.Bridge.Addr {
		b.addrs[a] = true
	}
	b.promisc = b.promisc || r.Bridge.Promisc
	b.local = b.local || len(r.Ports) > 0
	if p.host.Links[r.HostLink].Master == r.Bridge.Name {
		b.ports++
	}
}

// mendBridge: pods have the bridge's MAC in their caches, so a new one gets the
// old one's.
func (p *planner) mendBridge(name string, b *bridge) {
	have, there := p.host.Links[name]
	switch {
	case there && have.Kind != "bridge":
		b.blocked = true
		p.conflicts = append(p.conflicts, fmt.Sprintf("link %s is a %s, where pods need a bridge", name, have.Kind))
		return
	case !there:
		p.create(name, b)
	default:
		b.at = have.MAC
		p.change(name, b, have)
	}
	if b.promisc && !have.Promisc {
		p.do(Step{Action: SetPromisc, Link: name})
	}
	if !have.Up {
		p.do(Step{Action: SetUp, Link: name})
	}
	p.addAddrs(name, slices.SortedFunc(maps.Keys(b.addrs), comparePrefix), have, b.at)
}

// create makes a bridge as the CNI plugin does.
func (p *planner) create(name string, b *bridge) {
	s := Step{Action: CreateBridge, Link: name}
	if len(b.macs) > 0 {
		b.at = smallest(b.macs)
	}
	s.MAC = b.at
	if len(b.mtus) > 0 {
		s.MTU = slices.Min(slices.Collect(maps.Keys(b.mtus)))
	}
	p.do(s)
	var v4, v6 bool
	for a := range b.addrs {
		v4, v6 = v4 || a.Addr().Is4(), v6 || a.Addr().Is6()
	}
	set := func(sysctl, value string) {
		p.do(Step{Action: SetSysctl, Link: name, Sysctl: sysctl, Value: value})
	}
	if v6 {
		dir := "net/ipv6/conf/" + name + "/"
		set(dir+"accept_ra", "0")
		set(dir+"disable_ipv6", "0")
		set(dir+"accept_dad", "0")
	}
	if b.local && v4 {
		set("net/ipv4/conf/"+name+"/route_localnet", "1")
	}
}

// change mends one that is there. Where the records don't agree, or others have
// ports on it, its MAC and MTU are not ours to say.
func (p *planner) change(name string, b *bridge, have Link) {
	alone := p.host.Ports[name] <= b.ports
	if len(b.macs) == 1 && !b.macs[have.MAC] && alone {
		b.at = smallest(b.macs)
		p.do(Step{Action: SetMAC, Link: name, MAC: b.at})
	}
	if len(b.mtus) == 1 && !b.mtus[have.MTU] && alone {
		p.do(Step{Action: SetMTU, Link: name, MTU: slices.Collect(maps.Keys(b.mtus))[0]})
	}
}

// addAddrs also gives an IPv6 link that has none its link-local address, as the
// kernel does when the link comes up: without one it does not ask for the
// neighbours of packets that it forwards (ndisc_send_ns).
func (p *planner) addAddrs(name string, want []netip.Prefix, have Link, at mac.Addr) {
	v6, local := false, false
	for a := range have.Addrs {
		local = local || a.Addr().Is6() && a.Addr().IsLinkLocalUnicast()
	}
	for _, a := range want {
		v6 = v6 || a.Addr().Is6()
		if !have.Addrs[a] {
			p.do(Step{Action: AddAddr, Link: name, Prefix: a})
		}
	}
	if v6 && !local && !at.IsZero() {
		p.do(Step{Action: AddAddr, Link: name, Prefix: linkLocal(at)})
	}
}

func linkLocal(m mac.Addr) netip.Prefix { return netip.PrefixFrom(attachment.LinkLocal(m), 64) }

func smallest(macs map[mac.Addr]bool) mac.Addr {
	return slices.MinFunc(slices.Collect(maps.Keys(macs)), compareMAC)
}

// mendEnd mends the host's end of a pair.
func (p *planner) mendEnd(r attachment.Attachment) {
	have := p.host.Links[r.HostLink]
	if r.MTU > 0 && have.MTU != r.MTU {
		p.do(Step{Action: SetMTU, Link: r.HostLink, MTU: r.MTU})
	}
	if r.Bridge != nil && !p.bridges[r.Bridge.Name].blocked {
		moved := have.Master != r.Bridge.Name
		if moved {
			p.do(Step{Action: SetMaster, Link: r.HostLink, Master: r.Bridge.Name})
		}
		if r.Bridge.Hairpin && (moved || !have.Hairpin) {
			p.do(Step{Action: SetHairpin, Link: r.HostLink})
		}
	}
	if !have.Up {
		p.do(Step{Action: SetUp, Link: r.HostLink})
	}
	if r.Mode != attachment.ModePTP {
		return
	}
	var gateways []netip.Prefix
	for _, gw := range r.Gateways {
		gateways = append(gateways, netip.PrefixFrom(gw, gw.BitLen()))
	}
	p.addAddrs(r.HostLink, gateways, have, have.MAC)
	for _, to := range r.HostRoutes() {
		link, there := p.host.Routes[to]
		if !there {
			p.do(Step{Action: AddRoute, Link: r.HostLink, Prefix: to})
		} else if link != r.HostLink {
			p.conflicts = append(p.conflicts, fmt.Sprintf("the route to pod %s leads through %s, not through %s",
				to.Addr(), cmp.Or(link, "nothing"), r.HostLink))
		}
	}
}

// mendPorts leads ports of the host to the pods again. One that leads elsewhere
// by now is somebody's, and then none of its pod's is led.
func (p *planner) mendPorts(live []attachment.Attachment) {
	live = slices.DeleteFunc(slices.Clone(live), func(r attachment.Attachment) bool { return len(r.Ports) == 0 })
	if len(live) > 0 && !p.host.PortRules {
		p.do(Step{Action: SetPortRules, Pods: live})
	}
	for _, r := range live {
		if taken := p.host.Taken[r.HostLink]; taken != "" {
			p.conflicts = append(p.conflicts, fmt.Sprintf("%s, not to the pod of %s", taken, r.HostLink))
		} else if !p.host.Led[r.HostLink] {
			p.do(Step{Action: LeadPorts, Link: r.HostLink, Pods: []attachment.Attachment{r}})
		}
	}
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareMAC(a, b mac.Addr) int { return cmp.Compare(string(a[:]), string(b[:])) }
