// Package hostports leads ports of the host to pods, in one nftables table of
// its own for both families:
//
//	prerouting, output   to an address of the host: goes to
//	ports                (address,) protocol, number ─ map ─▶ pod's address, number
//	postrouting          to itself, back to its bridge, from 127.0.0.1: masquerade
//	guard                nobody but the host itself speaks to 127.0.0.0/8
//
// The rules are always the same; a pod's ports are elements of maps and sets, so
// a packet's way does not grow with them. Who put an element in is not said in
// it: what it leads to tells, and the records of attachments.
//
// It refuses to know about rules of others. A port that kube-proxy serves goes
// to kube-proxy, which comes first (priority).
package hostports

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/pkg/attachment"
)

// Table is the name of the nftables table, in family inet.
const Table = "weft-hostports"

// entry is one element of a map or set. Keys and values are as the kernel has
// them: big endian, each part filled up to 4 bytes.
type entry struct {
	set        string
	key, value []byte
}

// The maps and sets. The maps are looked at in this order: what is said of one
// address goes before what is said of all.
const (
	setAddr4 = "addr4" // host address, protocol, port → pod's address, port
	setAny4  = "any4"  // protocol, port → pod's address, port
	setAddr6 = "addr6"
	setAny6  = "any6"
	setSelf4 = "self4" // pod . pod: it reaches itself by a port of the host
	setSelf6 = "self6"
	setBack  = "back"  // bridge . bridge: its pods reach each other so
	setLocal = "local" // links to which 127.0.0.1 speaks
)

const (
	wordSize   = 4
	ifNameSize = 16
)

// portSet names the map for a port of a host address.
func portSet(pod netip.Addr, all bool) string {
	switch {
	case pod.Is4() && all:
		return setAny4
	case pod.Is4():
		return setAddr4
	case all:
		return setAny6
	}
	return setAddr6
}

func protocols() map[string]byte { return map[string]byte{"tcp": 6, "udp": 17, "sctp": 132} } // IANA

// entries is what an attachment's ports are in the kernel; without ports it is
// nothing. Pure.
func entries(a attachment.Attachment) []entry {
	var out []entry
	for _, p := range a.Ports {
		for _, pod := range a.Addrs {
			if e, ok := portEntry(p, pod.Addr()); ok {
				out = append(out, e)
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	for _, pod := range a.Addrs {
		addr, set := pod.Addr().AsSlice(), setSelf4
		if pod.Addr().Is6() {
			set = setSelf6
		}
		out = append(out, entry{set, append(addr, addr...), nil})
	}
	link := linkName(Link(a))
	if a.Bridge != nil {
		out = append(out, entry{setBack, append(link, link...), nil})
	}
	return append(out, entry{setLocal, link, nil})
}

// portEntry is false where the port is of an address of the other family.
func portEntry(p attachment.Port, pod netip.Addr) (entry, bool) {
	if p.HostIP.IsValid() && p.HostIP.BitLen() != pod.BitLen() {
		return entry{}, false
	}
	all := !p.HostIP.IsValid() || p.HostIP.IsUnspecified()
	e := entry{set: portSet(pod, all)}
	if !all {
		e.key = append(e.key, p.HostIP.AsSlice()...)
	}
	e.key = append(e.key, protocols()[p.Protocol], 0, 0, 0)
	e.key = append(e.key, port(p.Host)...)
	e.value = append(pod.AsSlice(), port(p.Container)...)
	return e, true
}

func port(n uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, n), 0, 0) }

func linkName(name string) []byte { return append([]byte(name), make([]byte, ifNameSize-len(name))...) }

// Link is the host's link over which the pod is reached.
func Link(a attachment.Attachment) string {
	if a.Bridge != nil {
		return a.Bridge.Name
	}
	return a.HostLink
}

// shared tells the entries that other pods may need too: those of a bridge.
func shared(e entry, a attachment.Attachment) bool {
	return a.Bridge != nil && (e.set == setBack || e.set == setLocal)
}

// target is the pod that a map's value leads to; in a set it is none.
func target(set string, value []byte) netip.Addr {
	length := map[string]int{setAddr4: 4, setAny4: 4, setAddr6: 16, setAny6: 16}[set]
	if length == 0 || len(value) < length {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(value[:length])
	return addr
}

// describe says a map's key as a user does.
func describe(set string, key []byte) string {
	host := ""
	if length := map[string]int{setAddr4: 4, setAddr6: 16}[set]; length > 0 && len(key) > length {
		if a, ok := netip.AddrFromSlice(key[:length]); ok {
			host = a.String() + " "
		}
		key = key[length:]
	}
	if len(key) < 2*wordSize {
		return host + "port"
	}
	for name, number := range protocols() {
		if number == key[0] {
			return fmt.Sprintf("%s%d/%s", host, binary.BigEndian.Uint16(key[wordSize:]), name)
		}
	}
	return fmt.Sprintf("%s%d", host, binary.BigEndian.Uint16(key[wordSize:]))
}
