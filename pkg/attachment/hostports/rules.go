package hostports

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/nft"
)

// The hooks' places: destinations right after kube-proxy's (dstnat, -100),
// sources right before everybody else's (srcnat, 100), weftd's among them.
const (
	dnatPriority = -99
	snatPriority = 99
	rawPriority  = -300
)

// Registers as nft itself uses them: four words each, of which a concatenation
// takes as many as it is long. reg1 begins at word 8.
const (
	reg1   = unix.NFT_REG_1
	reg2   = unix.NFT_REG_2
	word1  = unix.NFT_REG32_01 // the second word of reg1
	word2  = unix.NFT_REG32_02
	word4  = unix.NFT_REG32_04 // the first word of reg2
	word5  = unix.NFT_REG32_05
	fibUse = 2 // RTN_LOCAL
)

func table() *nftables.Table {
	return &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
}

// sets gives the maps and sets; the ids are those of one transaction.
func sets() map[string]*nftables.Set {
	of := func(types ...nftables.SetDatatype) nftables.SetDatatype { return nftables.MustConcatSetType(types...) }
	proto, service, link := nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIFName
	v4, v6 := nftables.TypeIPAddr, nftables.TypeIP6Addr
	all := map[string]*nftables.Set{
		setAddr4: {KeyType: of(v4, proto, service), DataType: of(v4, service), IsMap: true, ID: 1},
		setAny4:  {KeyType: of(proto, service), DataType: of(v4, service), IsMap: true, ID: 2},
		setAddr6: {KeyType: of(v6, proto, service), DataType: of(v6, service), IsMap: true, ID: 3},
		setAny6:  {KeyType: of(proto, service), DataType: of(v6, service), IsMap: true, ID: 4},
		setSelf4: {KeyType: of(v4, v4), ID: 5},
		setSelf6: {KeyType: of(v6, v6), ID: 6},
		setBack:  {KeyType: of(link, link), ID: 7},
		setLocal: {KeyType: link, ID: 8},
	}
	for name, s := range all {
		s.Name, s.Table, s.Concatenation = name, table(), name != setLocal
		s.KeyByteOrder = binaryutil.BigEndian
	}
	return all
}

// setNames is the order in which they are made.
func setNames() []string {
	return []string{setAddr4, setAny4, setAddr6, setAny6, setSelf4, setSelf6, setBack, setLocal}
}

// form marks the rules. It is raised when they change, so that those of an older
// program are found to be others.
const form = "weft1"

// chain is one of the table's; kind is "" where no hook leads to it.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority int32
	rules    [][]expr.Any
}

// chains are those, in the order in which they are made: always the same. What
// another one goes to comes first.
func chains() []chain {
	nat, filter := nftables.ChainTypeNAT, nftables.ChainTypeFilter
	prerouting, output := nftables.ChainHookPrerouting, nftables.ChainHookOutput
	postrouting := nftables.ChainHookPostrouting
	return []chain{
		{name: "ports", rules: [][]expr.Any{
			lead(setAddr4, unix.NFPROTO_IPV4, true), lead(setAny4, unix.NFPROTO_IPV4, false),
			lead(setAddr6, unix.NFPROTO_IPV6, true), lead(setAny6, unix.NFPROTO_IPV6, false),
		}},
		{"prerouting", nat, prerouting, dnatPriority, [][]expr.Any{toHost()}},
		{"output", nat, output, dnatPriority, [][]expr.Any{toHost()}},
		{"postrouting", nat, postrouting, snatPriority, [][]expr.Any{
			toItself(setSelf4, unix.NFPROTO_IPV4), toItself(setSelf6, unix.NFPROTO_IPV6), back(), fromLoopback(),
		}},
		{"guard", filter, prerouting, rawPriority, [][]expr.Any{notLoopback()}},
	}
}

// install queues the table with all but elements. What is there already stays,
// but for the rules, which are written anew; all in one transaction.
func install(c *nftables.Conn) {
	t := c.AddTable(table())
	all := sets()
	for _, name := range setNames() {
		_ = c.AddSet(all[name], nil) // an error shows again in Flush
	}
	for _, want := range chains() {
		ch := &nftables.Chain{Name: want.name, Table: t}
		if want.kind != "" {
			ch.Type, ch.Hooknum = want.kind, want.hook
			ch.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(want.priority))
		}
		c.AddChain(ch)
		c.FlushChain(ch)
		for i, exprs := range want.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs, UserData: nft.Data(form, i, len(want.rules))})
		}
	}
}

// toHost: fib daddr type local goto ports.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(fibUse)},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: "ports"},
	}
}

// lead: dnat ip to ip daddr . meta l4proto . th dport map @addr4, and its like.
func lead(set string, family byte, byAddr bool) []expr.Any {
	proto, port, valuePort := uint32(reg1), uint32(word1), uint32(word1)
	rule := ipv(family)
	if byAddr {
		offset, length := uint32(16), uint32(4) // RFC 791
		proto, port = word1, word2
		if family == unix.NFPROTO_IPV6 {
			offset, length = 24, 16 // RFC 8200
			proto, port = word4, word5
		}
		rule = append(rule, &expr.Payload{
			DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length,
		})
	}
	if family == unix.NFPROTO_IPV6 {
		valuePort = reg2
	}
	return append(rule,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		// The destination's port is in the same place for TCP, UDP and SCTP.
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: set},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: reg1, RegProtoMin: valuePort},
	)
}

// ipv: meta nfproto.
func ipv(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{family}},
	}
}

// dnated: ct status dnat.
func dnated() []expr.Any {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: wordSize,
			Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, wordSize),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, wordSize)},
	}
}

// toItself: ct status dnat ip saddr . ip daddr @self4 masquerade. A pod takes no
// packet from its own address.
func toItself(set string, family byte) []expr.Any {
	source, length, second := uint32(12), uint32(4), uint32(word1) // RFC 791
	if family == unix.NFPROTO_IPV6 {
		source, length, second = 8, 16, reg2 // RFC 8200
	}
	load := func(register, offset uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
	}
	return append(append(dnated(), ipv(family)...),
		load(reg1, source), load(second, source+length),
		&expr.Lookup{SourceRegister: reg1, SetName: set},
		&expr.Masq{},
	)
}

// back: ct status dnat iifname . oifname @back masquerade. Another pod behind
// the same bridge would be answered past us, from an address that it did not
// ask. (Not so where bridged packets pass netfilter, br_netfilter: there is no
// iifname then. Kernels before 5.7 never have it here.)
func back() []expr.Any {
	return append(dnated(),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg2},
		&expr.Lookup{SourceRegister: reg1, SetName: setBack},
		&expr.Masq{},
	)
}

// loopback: ip saddr 127.0.0.0/8, or daddr.
func loopback(offset uint32) []expr.Any {
	return append(ipv(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{127}},
	)
}

// fromLoopback: ct status dnat ip saddr 127.0.0.0/8 oifname @local masquerade.
func fromLoopback() []expr.Any {
	const source = 12
	return append(append(dnated(), loopback(source)...),
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1},
		&expr.Lookup{SourceRegister: reg1, SetName: setLocal},
		&expr.Masq{},
	)
}

// notLoopback: ip daddr 127.0.0.0/8 iifname @local drop. The links have
// route_localnet, for packets on their way out; it would let pods in as well.
func notLoopback() []expr.Any {
	const destination = 16
	return append(loopback(destination),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Lookup{SourceRegister: reg1, SetName: setLocal},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}
