package linux

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// This file has the socket filter that keeps others' routes from us: a routing
// daemon changes hundreds of thousands of them in a moment, which would wake us
// for each, and fill the queue in which changes of ours are notified.

// Where a notification of a route has parts of struct rtmsg, and its first two
// attributes: RTA_TABLE and, unless it is a default route, RTA_DST. (Kernel fact:
// fib_dump_info and rt6_fill_node put them in this order.)
const (
	offsetFamily     = unix.SizeofNlMsghdr
	offsetProtocol   = unix.SizeofNlMsghdr + 5
	offsetSecondType = unix.SizeofNlMsghdr + unix.SizeofRtMsg + 8 + 2
	offsetDst        = offsetSecondType + 2
)

// maxFiltered networks are looked at: jumps of BPF reach 255 instructions.
const maxFiltered = 4

// ourRoutes is a filter by which of routes pass: those of our protocol, those that
// may be flannel's or an operator's, default routes, and all in our networks.
// Every other message passes.
func ourRoutes(protocol uint8, networks []netip.Prefix) []unix.SockFilter {
	if len(networks) == 0 || len(networks) > maxFiltered {
		return []unix.SockFilter{give(everything)}
	}
	out := []unix.SockFilter{
		load(unix.BPF_H, offsetType),
		equal(swapped(unix.RTM_NEWROUTE), 2),
		equal(swapped(unix.RTM_DELROUTE), 1),
		give(everything),
		load(unix.BPF_B, offsetProtocol),
		unequal(uint32(protocol), 1),
		give(everything),
		unequal(unix.RTPROT_BOOT, 1),
		give(everything),
		load(unix.BPF_B, offsetLength),
		unequal(0, 1),
		give(everything),
		load(unix.BPF_H, offsetSecondType),
		equal(swapped(unix.RTA_DST), 1),
		give(everything), // not as we know it
	}
	for _, n := range networks {
		out = append(out, passWithin(n)...)
	}
	return append(out,
		load(unix.BPF_B, offsetFamily),
		equal(unix.AF_INET, 2),
		equal(unix.AF_INET6, 1),
		give(everything),
		give(0),
	)
}

// passWithin lets a route pass whose destination lies in a network, and goes on
// with any other.
func passWithin(n netip.Prefix) []unix.SockFilter {
	family, raw := uint32(unix.AF_INET), n.Masked().Addr().AsSlice()
	if n.Addr().Is6() {
		family = unix.AF_INET6
	}
	const perWord = 3
	words := (n.Bits() + 31) / 32
	out := []unix.SockFilter{load(unix.BPF_B, offsetFamily), unequal(family, perWord*words+1)}
	for i := range words {
		mask := ^uint32(0) << max(0, 32*(i+1)-n.Bits())
		out = append(out,
			load(unix.BPF_W, offsetDst+4*i),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
			unequal(binary.BigEndian.Uint32(raw[4*i:]), perWord*(words-i-1)+1))
	}
	return append(out, give(everything))
}

// unequal skips some instructions unless the loaded value is k.
func unequal(k uint32, skip int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(skip), K: k}
}
