package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/mend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
)

// Pods reads and mends the host's side of pods' attachments. It has sockets of
// its own: one goroutine may call Observe and Apply beside that of a Kernel, and
// one may Watch.
type Pods struct {
	k *Kernel

	mu      sync.Mutex // guards what Watch looks for: that of the last Observe
	names   mend.Names
	indices map[int]bool

	noGuard bool // this kernel can't; found out by trying
	tables  podTables
}

// NewPods opens it; Close releases it.
func NewPods(o Options) (*Pods, error) {
	k, err := New(o)
	if err != nil {
		return nil, err
	}
	return &Pods{k: k, indices: map[int]bool{}}, nil
}

// Close releases sockets and the namespace. End every Watch before.
func (p *Pods) Close() { p.k.Close() }

const defaultMetric6 = 1024 // IP6_RT_PRIO_USER

// podRoute is the key of the route to one pod.
func podRoute(to netip.Prefix) dataplane.RouteKey {
	key := dataplane.RouteKey{Prefix: to}
	if to.Addr().Is6() {
		key.Metric = defaultMetric6
	}
	return key
}

// podLink is a link, as far as attachments go.
type podLink struct {
	mend.Link
	name          string
	index, master int
}

// Observe reads the named links and routes.
func (p *Pods) Observe(_ context.Context, names mend.Names) (mend.Host, error) {
	p.mu.Lock()
	p.names = names
	p.mu.Unlock()
	host := mend.Host{
		Links: map[string]mend.Link{}, Routes: map[netip.Prefix]string{}, Ports: map[string]int{},
	}
	all, err := dump(p.k, unix.RTM_GETLINK, parsePodLink,
		nl.NewIfInfomsg(unix.AF_UNSPEC), uint32Attr(unix.IFLA_EXT_MASK, skipStats))
	if err != nil {
		return host, fmt.Errorf("list interfaces: %w", err)
	}
	hairpin, err := p.hairpins()
	if err != nil {
		return host, err
	}
	byIndex, named := map[int]string{}, map[int]bool{}
	for _, l := range all {
		byIndex[l.index] = l.name
	}
	for _, l := range all {
		if l.master != 0 {
			l.Master, l.Hairpin = byIndex[l.master], hairpin[l.index]
			host.Ports[l.Master]++
		}
		if names.Links[l.name] {
			named[l.index] = true
			host.Links[l.name] = l.Link
		}
	}
	p.mu.Lock()
	p.indices = named
	p.mu.Unlock()
	if err := p.held(names, &host); err != nil {
		return host, err
	}
	addrs, err := p.k.addresses(0)
	if err != nil {
		return host, err
	}
	for _, a := range addrs {
		if named[a.index] {
			host.Links[byIndex[a.index]].Addrs[a.prefix] = true
		}
	}
	for to := range names.Routes {
		r, is, err := p.k.routeAt(podRoute(to))
		if err != nil {
			return host, err
		}
		if is == found {
			host.Routes[to] = byIndex[r.index]
		}
	}
	return host, nil
}

func parsePodLink(m []byte) (podLink, bool) {
	if len(m) < unix.SizeofIfInfomsg || m[0] != unix.AF_UNSPEC {
		return podLink{}, false
	}
	l := podLink{index: int(int32(binary.NativeEndian.Uint32(m[4:])))}
	flags := binary.NativeEndian.Uint32(m[8:])
	l.Up, l.Promisc, l.Addrs = flags&unix.IFF_UP != 0, flags&unix.IFF_PROMISC != 0, map[netip.Prefix]bool{}
	for a := range attrs(m[unix.SizeofIfInfomsg:]) {
		switch a.kind {
		case unix.IFLA_IFNAME:
			l.name = a.text()
		case unix.IFLA_ADDRESS:
			l.MAC = mac.FromBytes(a.value)
		case unix.IFLA_MTU:
			l.MTU = int(a.uint32())
		case unix.IFLA_MASTER:
			l.master = int(a.uint32())
		case unix.IFLA_LINKINFO:
			for info := range attrs(a.value) {
				if info.kind == unix.IFLA_INFO_KIND {
					l.Kind = info.text()
				}
			}
		}
	}
	return l, l.name != ""
}

// hairpins tells which ports of bridges send back where a packet came from.
func (p *Pods) hairpins() (map[int]bool, error) {
	out := map[int]bool{}
	_, err := dump(p.k, unix.RTM_GETLINK, func(m []byte) (struct{}, bool) {
		if len(m) < unix.SizeofIfInfomsg || m[0] != unix.AF_BRIDGE {
			return struct{}{}, false
		}
		for a := range attrs(m[unix.SizeofIfInfomsg:]) {
			if a.kind != unix.IFLA_PROTINFO {
				continue
			}
			for info := range attrs(a.value) {
				if info.kind == nl.IFLA_BRPORT_MODE && len(info.value) > 0 {
					out[int(int32(binary.NativeEndian.Uint32(m[4:])))] = info.value[0] != 0
				}
			}
		}
		return struct{}{}, false
	}, nl.NewIfInfomsg(unix.AF_BRIDGE))
	if err != nil {
		return nil, fmt.Errorf("list ports of bridges: %w", err)
	}
	return out, nil
}

// Apply writes the steps in order, and gives an error for each that failed.
// What is done already, by the CNI plugin at this moment, is a success.
func (p *Pods) Apply(_ context.Context, steps []mend.Step) (errs []error) {
	g := guards{p: p}
	defer g.close()
	for _, s := range steps {
		apply := p.apply
		switch s.Action {
		case mend.Guard:
			apply = g.apply
		case mend.SetPortRules:
			apply = p.setPortRules
		case mend.LeadPorts:
			apply = p.leadPorts
		}
		if err := apply(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
		}
	}
	return errs
}

func (p *Pods) apply(s mend.Step) error {
	switch s.Action {
	case mend.CreateBridge:
		return p.createBridge(s)
	case mend.SetSysctl:
		return p.k.writeSysctl(s.Sysctl, s.Value)
	}
	l, there, err := p.k.linkByName(s.Link)
	if err != nil {
		return err
	}
	if !there {
		return nil // the pod went meanwhile, and its link with it
	}
	switch s.Action {
	case mend.AddAddr:
		return p.k.putAddr(l.index, s.Prefix)
	case mend.AddRoute:
		return p.addRoute(l.index, s.Prefix)
	case mend.SetHairpin:
		header := nl.NewIfInfomsg(unix.AF_BRIDGE)
		header.Index = int32(l.index)
		info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
		info.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
		return p.k.write(unix.RTM_SETLINK, 0, header, info)
	}
	return p.setLink(l.index, s)
}

func (p *Pods) createBridge(s mend.Step) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.Link)), info,
	}
	if s.MTU > 0 {
		data = append(data, uint32Attr(unix.IFLA_MTU, uint32(s.MTU)))
	}
	if !s.MAC.IsZero() {
		data = append(data, nl.NewRtAttr(unix.IFLA_ADDRESS, s.MAC.Hardware()))
	}
	err := p.k.write(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// setLink changes one thing of a link.
func (p *Pods) setLink(index int, s mend.Step) error {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	data := []nl.NetlinkRequestData{header}
	switch s.Action {
	case mend.SetUp:
		header.Flags, header.Change = unix.IFF_UP, unix.IFF_UP
	case mend.SetPromisc:
		header.Flags, header.Change = unix.IFF_PROMISC, unix.IFF_PROMISC
	case mend.SetMTU:
		data = append(data, uint32Attr(unix.IFLA_MTU, uint32(s.MTU)))
	case mend.SetMAC:
		data = append(data, nl.NewRtAttr(unix.IFLA_ADDRESS, s.MAC.Hardware()))
	case mend.SetMaster:
		master, there, err := p.k.linkByName(s.Master)
		if err != nil || !there {
			return err // the next look makes it
		}
		data = append(data, uint32Attr(unix.IFLA_MASTER, uint32(master.index)))
	default:
		return fmt.Errorf("unknown action %q", s.Action)
	}
	return ignoreGone(p.k.write(unix.RTM_NEWLINK, 0, data...))
}

// addRoute is the route that the CNI plugin makes to a pod of its own link.
func (p *Pods) addRoute(index int, to netip.Prefix) error {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: family(to.Addr()), Dst_len: uint8(to.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST,
	}}
	data := []nl.NetlinkRequestData{header, addrAttr(unix.RTA_DST, to.Addr()), uint32Attr(unix.RTA_OIF, uint32(index))}
	if to.Addr().Is6() {
		data = append(data, uint32Attr(unix.RTA_PRIORITY, defaultMetric6))
	}
	err := p.k.write(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
	if errors.Is(err, unix.EEXIST) {
		if r, is, err := p.k.routeAt(podRoute(to)); err == nil && is == found && r.index == index {
			return nil
		}
		return dataplane.ErrOccupied
	}
	return ignoreGone(err)
}
