package guard

import (
	"encoding/binary"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/nft"
)

// priority: before whatever anybody else has at a link's ingress.
const priority = -500

// The shared chains. A pod's own chain goes to the first or the second.
const (
	bridged = "bridged" // its MAC is looked at, too
	direct  = "direct"
	sent4   = "sent4" // from the pod's IPv4 address
	sent6   = "sent6" // from one of its IPv6 addresses
	refused = "refused"
)

// The sets.
const (
	setMAC     = "own_mac" // link . MAC
	setIP4     = "own_ip4" // link . address
	setIP6     = "own_ip6"
	setRefused = "refusals" // link: how often, in the last hour
)

const (
	regLink = unix.NFT_REG_1 // in a concatenation the link's name fills the first register
	reg     = unix.NFT_REG_2

	dhcpServer, dhcpClient   = 67, 68 // RFC 2131
	dhcp6Server, dhcp6Client = 547, 546
)

func table() *nftables.Table { return &nftables.Table{Name: Table, Family: nftables.TableFamilyNetdev} }

// rule is what one rule matches and does.
type rule []expr.Any

func match(parts ...[]expr.Any) (r rule) {
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

func accept() []expr.Any { return verdict(expr.VerdictAccept, "") }

func to(chain string) []expr.Any { return verdict(expr.VerdictGoto, chain) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func compare(want []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: want} }

func field(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: uint32(len(want))}, compare(want),
	}
}

func network(offset uint32, want ...byte) []expr.Any {
	return field(expr.PayloadBaseNetworkHeader, offset, want)
}

// of looks a part of the packet up for its link: iifname . part @set.
func of(set string, base expr.PayloadBase, offset, length uint32, otherwise bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regLink},
		&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: regLink, SetName: set, Invert: otherwise},
	}
}

// protocol: meta protocol, the frame's.
func protocol(number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg}, compare(binaryutil.BigEndian.PutUint16(number)),
	}
}

// transport: meta l4proto, and what the transport's header begins with. Of a later
// fragment there is none, and of the first the kernel has it behind all of
// the extension headers.
func transport(proto byte, begins ...byte) []expr.Any {
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, compare([]byte{proto}),
	}
	return append(out, field(expr.PayloadBaseTransportHeader, 0, begins)...)
}

func udp(from, to uint16) []expr.Any {
	return transport(unix.IPPROTO_UDP, binary.BigEndian.AppendUint16(binaryutil.BigEndian.PutUint16(from), to)...)
}

func icmpv6(kind byte) []expr.Any { return transport(unix.IPPROTO_ICMPV6, kind) }

// Where things are in a packet.
const (
	frameSource    = 6
	ip4Source      = 12 // RFC 791
	ip6Source      = 8  // RFC 8200
	arpOperation   = 6  // RFC 826
	arpSender      = 8  // MAC, then address
	arpSenderIP    = 14
	neighborTarget = 8 // RFC 4861 section 4.3
)

// source: ip saddr, ip6 saddr.
func source(kind uint16, offset uint32, addr []byte) []expr.Any {
	return append(protocol(kind), network(offset, addr...)...)
}

// none4 and none6 are the source of a host that has no address yet.
func none4() []expr.Any { return source(unix.ETH_P_IP, ip4Source, make([]byte, 4)) }

func none6() []expr.Any { return source(unix.ETH_P_IPV6, ip6Source, make([]byte, 16)) }

// target is that of a solicitation or an advertisement: one of the link's own
// addresses, or otherwise.
func target(otherwise bool) []expr.Any {
	return of(setIP6, expr.PayloadBaseTransportHeader, neighborTarget, 16, otherwise)
}

// chain is one of the shared ones.
type chain struct {
	name  string
	rules []rule
}

// shared are those, always the same.
func shared() []chain {
	const (
		report1, done1, report2                         = 131, 132, 143 // RFC 2710, RFC 3810
		solicitRouter, advertiseRouter                  = 133, 134      // RFC 4861
		solicit, advertise, redirect                    = 135, 136, 137
		linkHeader, networkHeader      expr.PayloadBase = expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader
		arpRequest                                      = 1
	)
	arp := protocol(unix.ETH_P_ARP)
	rules := []rule{
		match(protocol(unix.ETH_P_IP), of(setIP4, networkHeader, ip4Source, 4, false), to(sent4)),
		match(protocol(unix.ETH_P_IPV6), of(setIP6, networkHeader, ip6Source, 16, false), to(sent6)),
		match(arp, of(setIP4, networkHeader, arpSenderIP, 4, false), accept()),
		// Whether somebody has an address (RFC 5227).
		match(arp, network(arpOperation, 0, arpRequest), network(arpSenderIP, 0, 0, 0, 0), accept()),
		match(none4(), udp(dhcpClient, dhcpServer), accept()),
		// The search for duplicates; of another's address it would be a claim.
		match(none6(), icmpv6(solicit), target(false), accept()),
	}
	for _, kind := range []byte{report1, done1, solicitRouter, report2} {
		rules = append(rules, match(none6(), icmpv6(kind), accept()))
	}
	return []chain{
		{refused, []rule{countRefusal(), match([]expr.Any{&expr.Counter{}}, verdict(expr.VerdictDrop, ""))}},
		{sent4, []rule{match(udp(dhcpServer, dhcpClient), to(refused)), accept()}},
		{sent6, []rule{
			match(udp(dhcp6Server, dhcp6Client), to(refused)),
			match(icmpv6(advertiseRouter), to(refused)), match(icmpv6(redirect), to(refused)),
			match(icmpv6(advertise), target(true), to(refused)),
			accept(),
		}},
		{direct, append(rules, to(refused))},
		{bridged, []rule{
			match(of(setMAC, linkHeader, frameSource, 6, true), to(refused)),
			match(arp, of(setMAC, networkHeader, arpSender, 6, true), to(refused)),
			to(direct),
		}},
	}
}

// countRefusal: update @refusals { iifname counter }.
func countRefusal() rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regLink},
		&expr.Dynset{
			SrcRegKey: regLink, SetName: setRefused, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
			Exprs: []expr.Any{&expr.Counter{}},
		},
	}
}

// form is raised when the shared chains change, so that those of an older program
// are found to be others.
const form = "weft1"

// sets gives the sets; the ids are those of one transaction.
func sets() map[string]*nftables.Set {
	link := nftables.TypeIFName
	key := func(with nftables.SetDatatype) nftables.SetDatatype { return nftables.MustConcatSetType(link, with) }
	all := map[string]*nftables.Set{
		setMAC:     {KeyType: key(nftables.TypeEtherAddr), Concatenation: true, ID: 1},
		setIP4:     {KeyType: key(nftables.TypeIPAddr), Concatenation: true, ID: 2},
		setIP6:     {KeyType: key(nftables.TypeIP6Addr), Concatenation: true, ID: 3},
		setRefused: {KeyType: link, Dynamic: true, HasTimeout: true, Timeout: time.Hour, Size: 1 << 16, ID: 4},
	}
	for name, s := range all {
		s.Name, s.Table, s.KeyByteOrder = name, table(), binaryutil.BigEndian
	}
	all[setRefused].KeyByteOrder = binaryutil.NativeEndian // else nft shows no name
	return all
}

// setNames is the order in which they are made; those of keys first.
func setNames() []string { return append(keySets(), setRefused) }

func keySets() []string { return []string{setMAC, setIP4, setIP6} }

// keys are what the sets have of a pod. Pure.
func keys(s attachment.Sources) map[string][][]byte {
	const nameSize, macSize = 16, 8 // as the kernel fills up
	with := func(b []byte, size int) []byte {
		key := make([]byte, nameSize+size)
		copy(key, s.Link)
		copy(key[nameSize:], b)
		return key
	}
	out := map[string][][]byte{}
	if !s.MAC.IsZero() {
		out[setMAC] = [][]byte{with(s.MAC[:], macSize)}
	}
	for _, a := range s.Addrs {
		set := setIP6
		if a.Is4() {
			set = setIP4
		}
		out[set] = append(out[set], with(a.AsSlice(), a.BitLen()/8))
	}
	return out
}

func elements(keys [][]byte) (out []nftables.SetElement) {
	for _, k := range keys {
		out = append(out, nftables.SetElement{Key: k})
	}
	return out
}

func queue(c *nftables.Conn, ch *nftables.Chain, mark string, rules []rule) {
	c.AddChain(ch)
	for _, r := range rulesOf(ch, mark, rules) {
		c.AddRule(r)
	}
}

func rulesOf(ch *nftables.Chain, mark string, rules []rule) (out []*nftables.Rule) {
	for i, r := range rules {
		out = append(out, &nftables.Rule{
			Table: ch.Table, Chain: ch, Exprs: r, UserData: nft.Data(mark, i, len(rules)),
		})
	}
	return out
}

func queueShared(c *nftables.Conn) {
	t := c.AddTable(table())
	all := sets()
	for _, name := range setNames() {
		_ = c.AddSet(all[name], nil) // an error shows again in Flush
	}
	for _, s := range shared() {
		ch := &nftables.Chain{Name: s.name, Table: t}
		c.AddChain(ch)
		c.FlushChain(ch)
		queue(c, ch, form, s.rules)
	}
}

func queueOwn(c *nftables.Conn, s attachment.Sources) {
	all := sets()
	for set, k := range keys(s) {
		_ = c.SetAddElements(all[set], elements(k)) // the same
	}
	queue(c, base(s), entrance(s), own(s))
}

// own is a pod's chain: what nearly all of its packets are is compared at once,
// which takes half as long as to look it up.
func own(s attachment.Sources) (rules []rule) {
	var mac []expr.Any
	if !s.MAC.IsZero() {
		mac = field(expr.PayloadBaseLLHeader, frameSource, s.MAC[:])
	}
	for _, a := range s.Addrs {
		switch {
		case a.Is4():
			rules = append(rules, match(source(unix.ETH_P_IP, ip4Source, a.AsSlice()), mac, to(sent4)))
		case !a.IsLinkLocalUnicast():
			rules = append(rules, match(source(unix.ETH_P_IPV6, ip6Source, a.AsSlice()), mac, to(sent6)))
		}
	}
	return append(rules, to(entrance(s)))
}

func entrance(s attachment.Sources) string {
	if s.MAC.IsZero() {
		return direct
	}
	return bridged
}

func base(s attachment.Sources) *nftables.Chain {
	return &nftables.Chain{
		Name: s.Link, Table: table(), Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(priority), Device: s.Link,
	}
}
