package cniplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/mac"
)

// check is CHECK: it tells all that is not as ADD left it.
func (c Call) check(conf config, req request) error {
	if conf.delegation != nil {
		saved, err := savedOf(conf.savedDir, req).get(conf.network)
		if err == nil && saved.foreign() != "" {
			saved["prevResult"] = conf.runtime.PrevResult
			_, err := execute("CHECK", req, saved, c.Stderr)
			return explainAbsent(err, saved.foreign())
		}
	}
	prev, err := previous(conf)
	if err != nil {
		return err
	}
	if prev == nil {
		return invalid("prevResult is missing", "CHECK is for a container runtime to call, with what ADD gave")
	}
	record, err := conf.records.Get(req.key(conf.network))
	if errors.Is(err, fs.ErrNotExist) {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("%s is no attachment of ours", req.holder()),
			"ADD by this version of weft has not been called for it, or its record in "+string(conf.records)+" was removed")
	}
	if err != nil {
		return explainRecord(err)
	}
	k, err := openPod(req.netns)
	if err != nil {
		return err
	}
	defer k.close()
	wrong, err := k.differences(expected(conf, record, prev, req))
	if err != nil {
		return err
	}
	store := hostlocal.At(conf.dataDir, conf.network, machine())
	for _, addr := range addrsOf(record) {
		if h, ok := store.Holder(addr); !ok || h != req.holder() {
			wrong = append(wrong, fmt.Sprintf("address %s is not reserved for the pod", addr))
		}
	}
	if record.Boot != bootID() {
		wrong = append(wrong, "the attachment is of another boot")
	}
	if len(wrong) == 0 {
		return nil
	}
	return types.NewError(codeDiffers,
		fmt.Sprintf("%s is not as ADD left it: %s", req.holder(), strings.Join(wrong, "; ")),
		"delete the pod and let it be made again")
}

// expectation is what CHECK compares with.
type expectation struct {
	record  attachment.Attachment
	req     request
	records attachment.Dir
	routes  []route // in the pod, as ADD told them
}

// expected takes the record, and of the result what no record has: the pod's
// routes.
func expected(conf config, record attachment.Attachment, prev *types100.Result, req request) expectation {
	e := expectation{record: record, req: req, records: conf.records}
	for _, r := range prev.Routes {
		dst, okDst := netip.AddrFromSlice(r.Dst.IP)
		via, okVia := netip.AddrFromSlice(r.GW)
		ones, _ := r.Dst.Mask.Size()
		if okDst && okVia {
			e.routes = append(e.routes, route{netip.PrefixFrom(dst.Unmap(), ones), via.Unmap()})
		}
	}
	return e
}

// differences says in words what of an expectation is not in the kernel.
func (k *kernel) differences(e expectation) ([]string, error) {
	r := e.record
	inside, err := k.podHandle()
	if err != nil {
		return nil, err
	}
	var wrong wrongs
	host := wrong.link(k.host, r.HostLink, "of the host", linkWant{"veth", r.MTU, r.HostMAC})
	pod := wrong.link(inside, e.req.ifName, "in the pod", linkWant{"veth", r.MTU, r.MAC})
	if pod != nil {
		wrong.addrs(inside, pod, "in the pod", r.Addrs)
		wrong.routes(inside, pod, "in the pod", e.routes)
	}
	var onLink []netip.Prefix
	if r.Mode == attachment.ModePTP && host != nil {
		for _, gw := range r.Gateways {
			onLink = append(onLink, netip.PrefixFrom(gw, gw.BitLen()))
		}
		wrong.addrs(k.host, host, "of the host", onLink)
		var routes []route
		for _, p := range r.HostRoutes() {
			routes = append(routes, route{dst: p})
		}
		wrong.routes(k.host, host, "of the host", routes)
	}
	if r.Bridge != nil {
		bridge := wrong.link(k.host, r.Bridge.Name, "of the host", linkWant{"bridge", 0, r.Bridge.MAC})
		if bridge != nil {
			wrong.addrs(k.host, bridge, "of the host", r.Bridge.Addr)
		}
		if bridge != nil && host != nil {
			wrong.port(k.host, host, bridge, r.Bridge.Hairpin)
		}
	}
	if host != nil {
		wrong.guard(e)
	}
	wrong.ports(r)
	return wrong.said, wrong.err
}

// guard wants the link to be held to the pod's addresses. Where the kernel can't,
// ADD did without.
func (w *wrongs) guard(e expectation) {
	s, guarded := e.record.Sources()
	if !guarded || saidUnguarded(e.record.Boot, e.records) {
		return
	}
	have, err := guard.Read()
	if err != nil {
		w.refused("read the guard of the pod's link", err)
	} else if !have.Holds(s) {
		w.say("nftables' table netdev %s does not hold %s to the pod's addresses", guard.Table, s.Link)
	}
}

// ports wants the host's ports to lead to the pod.
func (w *wrongs) ports(r attachment.Attachment) {
	if len(r.Ports) == 0 {
		return
	}
	have, err := hostports.Read()
	if err != nil {
		w.refused("read the pod's host ports", err)
		return
	}
	w.said = append(w.said, have.Missing(r)...)
}

// wrongs collects what is not right, and the first thing that the kernel
// refused to tell.
type wrongs struct {
	said []string
	err  error
}

func (w *wrongs) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

func (w *wrongs) refused(tried string, err error) {
	if w.err == nil {
		w.err = refused(tried, err)
	}
}

type linkWant struct {
	kind string
	mtu  int // 0: any
	mac  mac.Addr
}

// link gives the link if it is there.
func (w *wrongs) link(h *netlink.Handle, name, where string, want linkWant) netlink.Link {
	l, err := h.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		w.say("%s %s is gone", name, where)
		return nil
	}
	if err != nil {
		w.refused("find "+name, err)
		return nil
	}
	a := l.Attrs()
	if l.Type() != want.kind {
		w.say("%s %s is a %s, not a %s", name, where, l.Type(), want.kind)
	}
	if a.Flags&net.FlagUp == 0 {
		w.say("%s %s is down", name, where)
	}
	if want.mtu > 0 && a.MTU != want.mtu {
		w.say("%s %s has MTU %d, not %d", name, where, a.MTU, want.mtu)
	}
	if have := mac.FromBytes(a.HardwareAddr); have != want.mac {
		w.say("%s %s has MAC %s, not %s", name, where, have, want.mac)
	}
	return l
}

func (w *wrongs) addrs(h *netlink.Handle, l netlink.Link, where string, want []netip.Prefix) {
	have, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		w.refused("read the addresses of "+l.Attrs().Name, err)
		return
	}
	for _, p := range want {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == p }) {
			w.say("%s %s has no address %s", l.Attrs().Name, where, p)
		}
	}
}

// routes wants each prefix to lead over the link, and by the gateway if one is
// said.
func (w *wrongs) routes(h *netlink.Handle, l netlink.Link, where string, want []route) {
	have, err := h.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		w.refused("read the routes over "+l.Attrs().Name, err)
		return
	}
	for _, r := range want {
		if slices.ContainsFunc(have, func(k netlink.Route) bool {
			via, _ := netip.AddrFromSlice(k.Gw)
			return routePrefix(k) == r.dst && via.Unmap() == r.via
		}) {
			continue
		}
		by := ""
		if r.via.IsValid() {
			by = " via " + r.via.String()
		}
		w.say("the route to %s%s over %s is gone %s", r.dst, by, l.Attrs().Name, where)
	}
}

// port wants the link to be a port of the bridge.
func (w *wrongs) port(h *netlink.Handle, l, bridge netlink.Link, hairpin bool) {
	if l.Attrs().MasterIndex != bridge.Attrs().Index {
		w.say("%s is no port of %s", l.Attrs().Name, bridge.Attrs().Name)
		return
	}
	info, err := h.LinkGetProtinfo(l)
	if err != nil {
		w.refused("read the bridge port "+l.Attrs().Name, err)
		return
	}
	if info.Hairpin != hairpin {
		w.say("hairpin mode of %s is %t, not %t", l.Attrs().Name, info.Hairpin, hairpin)
	}
}

// routePrefix is a route's destination; a default route has none in the library.
func routePrefix(r netlink.Route) netip.Prefix {
	if r.Dst != nil {
		return prefixOf(r.Dst)
	}
	if r.Family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}
