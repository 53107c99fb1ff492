package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Set is a set of nftables' in a table of ours. Its elements are pairs of
// addresses of the table's family: a VTEP's, and one that packets from there may
// have inside.
type Set struct {
	IPv6  bool
	Bits  int // of the second address that count; all: the pairs are of a VTEP and itself
	Table string
}

// Whole is how many bits an address of the family has.
func Whole(ipv6 bool) int {
	if ipv6 {
		return 128
	}
	return 32
}

// Name is "vteps" or, for pairs of a VTEP and a subnet, "inner24".
func (s Set) Name() string {
	if s.Bits == Whole(s.IPv6) {
		return "vteps"
	}
	return fmt.Sprintf("inner%d", s.Bits)
}

// String is the set as `nft list set` wants it.
func (s Set) String() string { return s.Key("").Program() + " " + s.Table + " " + s.Name() }

// Key is that of a chain in the set's table.
func (s Set) Key(chain string) Key { return Key{IPv6: s.IPv6, Table: s.Table, Chain: chain} }

// Elem is one element. One rule looks up what all of them say.
type Elem struct {
	Set         Set
	VTEP, Inner netip.Addr // Inner is the first address of a subnet, or the VTEP itself
}

// String is "ip weft inner24 { 192.168.77.2 . 10.42.2.0 }".
func (e Elem) String() string { return fmt.Sprintf("%s { %s . %s }", e.Set, e.VTEP, e.Inner) }

// Tunnel are conditions on a VXLAN packet (RFC 7348). The zero value matches every
// packet. What has to be read and isn't there (in a fragment, in a packet cut short)
// matches no condition but the port.
type Tunnel struct {
	Port  int   // UDP destination port, never 0 where another field is set
	VNI   int   // 0: whichever
	Other bool  // the VNI is any but that
	Pair  Pair  // these two addresses are in a set
	Bits  int   // that of Set, for pairs with an Inside
	Inner Match // the source of the packet inside, which is of the table's family
}

// Pair is a choice of two addresses of a packet.
type Pair string

// The pairs, and the sets that they are looked for in. From, To and Inside are
// looked for twice over, in the set of VTEPs.
const (
	From       Pair = "saddr"         // a VTEP sent it
	To         Pair = "daddr"         // it goes to a VTEP
	FromInside Pair = "saddr . inner" // its source may have that source inside; in the set of Bits
	Inside     Pair = "inner"         // its source inside is a VTEP
)

// Set is the one that the pair is looked for in.
func (t Tunnel) Set(ipv6 bool, table string) Set {
	s := Set{IPv6: ipv6, Bits: Whole(ipv6), Table: table}
	if t.Pair == FromInside {
		s.Bits = t.Bits
	}
	return s
}

// ReadsInside tells whether a condition looks at the packet inside.
func (t Tunnel) ReadsInside() bool {
	return t.Pair == FromInside || t.Pair == Inside || t.Inner.Prefix.IsValid()
}

func (t Tunnel) write(b *strings.Builder) {
	if t.Port == 0 {
		return
	}
	fmt.Fprintf(b, "udp dport %d ", t.Port)
	switch {
	case t.VNI != 0 && t.Other:
		fmt.Fprintf(b, "vni != %d ", t.VNI)
	case t.VNI != 0:
		fmt.Fprintf(b, "vni %d ", t.VNI)
	}
	if t.Pair == FromInside {
		fmt.Fprintf(b, "%s/%d in a pair ", t.Pair, t.Bits)
	} else if t.Pair != "" {
		fmt.Fprintf(b, "%s of a vtep ", t.Pair)
	}
	t.Inner.write(b, "saddr inside")
}
