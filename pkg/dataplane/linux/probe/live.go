package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Sight is a place of the node and how many packets of the flow were there.
type Sight struct {
	Place   string `json:"place"`
	Packets uint64 `json:"packets"`
}

// Report is what Live saw.
type Report struct {
	Answer  string        `json:"answer"` // as in Answer.What
	RTT     time.Duration `json:"rtt"`    // nanoseconds
	Seen    []Sight       `json:"seen"`   // in the order of the way
	Last    string        `json:"last"`   // where a packet of it was seen last
	Dropped string        `json:"dropped,omitempty"`
}

// listen is how long an answer is awaited.
const listen = 1500 * time.Millisecond

// Live sends one packet of the flow and watches it on the node, which is the
// namespace of the caller. ports are those of VXLAN devices: what leaves in a
// tunnel is seen there too.
func Live(ctx context.Context, f Flow, ports ...int) (Report, error) {
	s, err := Open(f)
	if err != nil {
		return Report{}, err
	}
	defer s.Close()
	t, err := watchTable(f.Dst.Is6())
	if err != nil {
		return Report{}, err
	}
	defer t.close()
	if err := t.place(spots(f, s.ID(), ports)); err != nil {
		return Report{}, err
	}
	tracing, err := listenTrace(t.name)
	if err != nil {
		return Report{}, err
	}
	defer tracing.close()
	answerCtx, cancel := context.WithTimeout(ctx, listen)
	defer cancel()
	answer, err := s.Send(answerCtx)
	if err != nil {
		return Report{}, err
	}
	r := Report{Answer: answer.What, RTT: answer.RTT, Dropped: tracing.dropped()}
	r.Seen, err = t.read()
	for _, sight := range r.Seen {
		if sight.Packets > 0 {
			r.Last = sight.Place
		}
	}
	return r, err
}

// spot is a place where packets are counted.
type spot struct {
	place    string
	hook     nftables.ChainHook
	priority int
	exprs    []expr.Any
}

const (
	first, last = -450, 450 // before and after all that others usually have
	tracked     = -190      // after conntrack (NF_IP_PRI_CONNTRACK)
)

func hook(n uint32) nftables.ChainHook { return nftables.ChainHook(n) }

// spots are the places in the order of a packet's way and that of its answer.
// The flow is known by its addresses as it comes in, and by what conntrack says
// of its beginning after that, so that no translation hides it.
func spots(f Flow, id uint16, ports []int) []spot {
	arrived := append(fresh(f, id), &expr.Immediate{Register: 1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1})
	there, back := ofFlow(f, id, 0), ofFlow(f, id, 1)
	all := []spot{
		{"came in from the pod", hook(unix.NF_INET_PRE_ROUTING), first, arrived},
		{"sent by the node", hook(unix.NF_INET_LOCAL_OUT), first, arrived},
		{"about to be forwarded", hook(unix.NF_INET_FORWARD), first, there},
		{"passed the forward rules", hook(unix.NF_INET_FORWARD), last, there},
		{"about to be taken in by the node", hook(unix.NF_INET_LOCAL_IN), first, there},
		{"passed the input rules", hook(unix.NF_INET_LOCAL_IN), last, there},
		{"passed the postrouting rules, on its way out", hook(unix.NF_INET_POST_ROUTING), last, there},
	}
	for _, port := range ports {
		all = append(all, spot{
			fmt.Sprintf("left in a tunnel to UDP port %d", port), hook(unix.NF_INET_POST_ROUTING), last + 1,
			wrapped(f, port),
		})
	}
	return append(all,
		spot{"the answer came in", hook(unix.NF_INET_PRE_ROUTING), tracked, back},
		spot{"the answer passed the forward rules", hook(unix.NF_INET_FORWARD), last, back},
		spot{"the answer went out", hook(unix.NF_INET_POST_ROUTING), last, back},
	)
}

func same(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func number(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func load(base expr.PayloadBase, offset, size int) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: uint32(offset), Len: uint32(size)}
}

// header is where addresses stand (RFC 791, RFC 8200), and their size.
func header(ipv6 bool) (src, dst, size int) {
	if ipv6 {
		return 8, 24, 16
	}
	return 12, 16, 4
}

// fresh matches the packet as it was sent.
func fresh(f Flow, id uint16) []expr.Any {
	src, dst, size := header(f.Dst.Is6())
	var out []expr.Any
	if f.Src.IsValid() {
		out = append(out, load(expr.PayloadBaseNetworkHeader, src, size), same(f.Src.AsSlice()))
	}
	out = append(out,
		load(expr.PayloadBaseNetworkHeader, dst, size), same(f.Dst.AsSlice()),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, same([]byte{protocol(f)}))
	if f.Proto == "icmp" {
		return append(out, load(expr.PayloadBaseTransportHeader, 4, 2), same(number(id)))
	}
	return append(out,
		load(expr.PayloadBaseTransportHeader, 0, 2), same(number(id)),
		load(expr.PayloadBaseTransportHeader, 2, 2), same(number(f.Port)))
}

func protocol(f Flow) byte {
	switch {
	case f.Proto == "tcp":
		return unix.IPPROTO_TCP
	case f.Proto == "udp":
		return unix.IPPROTO_UDP
	case f.Dst.Is6():
		return unix.IPPROTO_ICMPV6
	}
	return unix.IPPROTO_ICMP
}

// ofFlow matches by conntrack; direction 0 is the flow's own, 1 the answer's.
func ofFlow(f Flow, id uint16, direction byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, same([]byte{direction}),
		&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: 1}, same([]byte{protocol(f)}),
		&expr.Ct{Key: expr.CtKeyDST, Register: 1}, same(f.Dst.AsSlice()), // direction: that of the beginning
		&expr.Ct{Key: expr.CtKeyPROTOSRC, Register: 1}, same(number(id)),
	}
}

// wrapped matches a VXLAN packet (UDP 8, VXLAN 8, Ethernet 14 bytes) with ours
// inside, by the source: the destination may be translated.
func wrapped(f Flow, port int) []expr.Any {
	const inner = 8 + 8 + 14
	src, dst, size := header(f.Dst.Is6())
	at, want := src, f.Src
	if !f.Src.IsValid() {
		at, want = dst, f.Dst
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, same([]byte{unix.IPPROTO_UDP}),
		load(expr.PayloadBaseTransportHeader, 2, 2), same(number(uint16(port))),
		load(expr.PayloadBaseTransportHeader, inner+at, size), same(want.AsSlice()),
	}
}

var errNoOwner = errors.New("this kernel has no nftables tables that belong to a socket (Linux 5.12)")
