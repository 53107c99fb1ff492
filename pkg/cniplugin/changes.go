package cniplugin

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/exchange"
	"github.com/weftnet/weft/pkg/mac"
)

// change is one write to the kernel, and how its refusal is told.
type change struct {
	request *nl.NetlinkRequest
	tried   string
	// taken is what it means that the thing is there already; nil: a refusal as any
	// other.
	taken error
}

// rtnetlink is a socket of rtnetlink(7) in one network namespace.
type rtnetlink struct {
	conn *exchange.Conn
	seq  uint32
}

func openRtnetlink() (*rtnetlink, error) {
	c, err := exchange.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, refused("open netlink", err)
	}
	return &rtnetlink{conn: c}, nil
}

func (r *rtnetlink) close() {
	if r != nil {
		r.conn.Close()
	}
}

// apply makes the changes, in their order, all in one message to the kernel. What is
// behind one that is refused is done all the same; the error is of the first.
func (r *rtnetlink) apply(changes ...change) error {
	if len(changes) == 0 {
		return nil
	}
	changes[len(changes)-1].request.Flags |= unix.NLM_F_ACK
	first := r.seq + 1
	var requests []byte
	for _, c := range changes {
		r.seq++
		c.request.Seq = r.seq
		requests = append(requests, c.request.Serialize()...)
	}
	var failed error
	err := r.conn.Do(requests, func(a exchange.Answer) bool {
		if err := a.Err(); err != nil && failed == nil && a.Seq >= first {
			failed = changes[a.Seq-first].explain(err)
		}
		return a.Seq == r.seq
	})
	if failed == nil && err != nil {
		failed = refused(changes[0].tried, err)
	}
	return failed
}

func (c change) explain(err error) error {
	if c.taken != nil && errors.Is(err, unix.EEXIST) {
		return c.taken
	}
	return refused(c.tried, err)
}

// link reads one, by its name or its index. One that is not there is unix.ENODEV.
func (r *rtnetlink) link(name string, index int) (link netlink.Link, err error) {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: they are the most of an answer
	req := linkRequest(unix.RTM_GETLINK, 0, index)
	if name != "" {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	r.seq++
	req.Seq = r.seq
	var failed error
	err = r.conn.Do(req.Serialize(), func(a exchange.Answer) bool {
		if failed = a.Err(); failed == nil && a.Kind == unix.RTM_NEWLINK {
			link, failed = netlink.LinkDeserialize(&unix.NlMsghdr{Type: a.Kind}, a.Data)
		}
		return a.Seq == r.seq
	})
	if err = errors.Join(failed, err); err == nil && link == nil {
		err = unix.ENODEV
	}
	return link, err
}

// linkIndex is the link's index in the thread's namespace; 0 is no link.
func linkIndex(name string) (int, error) {
	c, err := exchange.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, refused("open netlink", err)
	}
	defer c.Close()
	index, err := c.LinkIndex(name)
	if err != nil {
		return 0, refused("find "+name, err)
	}
	return index, nil
}

// ownLink is a link that was just made.
func (r *rtnetlink) ownLink(name string) (int, error) {
	index, err := r.conn.LinkIndex(name)
	if err == nil && index == 0 {
		err = unix.ENODEV
	}
	if err != nil {
		return 0, refused("find "+name, err)
	}
	return index, nil
}

// exclusive is of a request for something that must not be there yet.
const exclusive = unix.NLM_F_CREATE | unix.NLM_F_EXCL

func linkRequest(kind, flags, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	return req
}

// newPair makes a veth pair, whose second end is in another namespace from the start.
func newPair(a plan, podNS int) *nl.NetlinkRequest {
	end := func(add func(kind int, data []byte), name string, m mac.Addr) {
		add(unix.IFLA_IFNAME, nl.ZeroTerminated(name))
		add(unix.IFLA_MTU, nl.Uint32Attr(uint32(a.mtu)))
		add(unix.IFLA_ADDRESS, m[:])
	}
	req := linkRequest(unix.RTM_NEWLINK, exclusive, 0)
	end(func(kind int, data []byte) { req.AddData(nl.NewRtAttr(kind, data)) }, a.hostIf, a.hostMAC)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	end(func(kind int, data []byte) { peer.AddRtAttr(kind, data) }, a.podIf, a.podMAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(podNS)))
	req.AddData(info)
	return req
}

func setUp(index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return req
}

func setMaster(index, master int) *nl.NetlinkRequest {
	req := linkRequest(unix.RTM_SETLINK, 0, index)
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	return req
}

func setMAC(index int, m mac.Addr) *nl.NetlinkRequest {
	req := linkRequest(unix.RTM_SETLINK, 0, index)
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, m[:]))
	return req
}

// setHairpin is of a port of a bridge.
func setHairpin(index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	req.AddData(port)
	return req
}

// addAddress gives IPv4 its broadcast address, where the prefix has one (RFC 3021).
func addAddress(index int, p netip.Prefix) *nl.NetlinkRequest {
	const noBroadcast = 31
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, exclusive)
	msg := nl.NewIfAddrmsg(family(p.Addr()))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	req.AddData(msg)
	addr := p.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr))
	if p.Addr().Is4() && p.Bits() < noBroadcast {
		last := binary.BigEndian.Uint32(addr) | ^uint32(0)>>p.Bits()
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, last)))
	}
	return req
}

// addRoute adds one to the main table: over a link, and by a gateway if one is said;
// onlink says that this is on no subnet of the link's.
func addRoute(index int, r route, onlink bool) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, exclusive)
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len = uint8(family(r.dst.Addr())), uint8(r.dst.Bits())
	if !r.via.IsValid() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if onlink {
		msg.Flags = unix.RTNH_F_ONLINK
	}
	req.AddData(msg)
	if r.dst.Bits() > 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()))
	}
	if r.via.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.via.AsSlice()))
	}
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return req
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
