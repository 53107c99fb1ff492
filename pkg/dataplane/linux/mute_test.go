package linux

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMuting(t *testing.T) {
	tests := map[string]struct {
		own    []uint32
		writer uint32
		typ    int
		passes bool
	}{
		"a route of ours":                     {[]uint32{7}, 7, unix.RTM_NEWROUTE, false},
		"a route that we deleted":             {[]uint32{7}, 7, unix.RTM_DELROUTE, false},
		"by the second of three sockets":      {[]uint32{1, 7, 9}, 7, unix.RTM_NEWNEIGH, false},
		"by the last of three sockets":        {[]uint32{1, 7, 9}, 9, unix.RTM_DELNEXTHOP, false},
		"a link of ours":                      {[]uint32{7}, 7, unix.RTM_NEWLINK, true},
		"an address of ours":                  {[]uint32{7}, 7, unix.RTM_NEWADDR, true},
		"somebody else's route":               {[]uint32{7}, 8, unix.RTM_NEWROUTE, true},
		"the kernel's own":                    {[]uint32{7}, 0, unix.RTM_NEWNEIGH, true},
		"while we have no socket":             {nil, 7, unix.RTM_NEWROUTE, true},
		"a port id of which bytes are common": {[]uint32{0x01020304}, 0x04030201, unix.RTM_NEWROUTE, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var e encoder
			e.begin(test.typ, 0)
			e.end()
			copy(e.buf[offsetPort:], uint32Attr(0, test.writer).Data)
			passes(t, muting(test.own, ourRoutes(RouteProtocol, nil)), e.buf, test.passes)
		})
	}
}

func TestNoForwards(t *testing.T) {
	tests := map[string]struct {
		typ    int
		family uint8
		want   bool
	}{
		"an FDB entry":                   {unix.RTM_NEWNEIGH, unix.AF_BRIDGE, false},
		"one that goes":                  {unix.RTM_DELNEIGH, unix.AF_BRIDGE, false},
		"a neighbour":                    {unix.RTM_NEWNEIGH, unix.AF_INET, true},
		"a neighbour goes":               {unix.RTM_DELNEIGH, unix.AF_INET6, true},
		"a link of a bridge":             {unix.RTM_NEWLINK, unix.AF_BRIDGE, true},
		"a route":                        {unix.RTM_NEWROUTE, unix.AF_INET, true},
		"a route that the rest is about": {unix.RTM_DELROUTE, unix.AF_INET, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var e encoder
			e.begin(test.typ, 0)
			e.bytes(test.family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
			e.end()
			if !test.want && test.family == unix.AF_INET {
				copy(e.buf[offsetPort:], uint32Attr(0, 7).Data)
			}
			passes(t, slices.Concat(noForwards(), muting([]uint32{7}, ourRoutes(RouteProtocol, nil))), e.buf, test.want)
		})
	}
}

func passes(t *testing.T, filter []unix.SockFilter, message []byte, want bool) {
	t.Helper()
	var program []bpf.Instruction
	for _, f := range filter {
		program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := vm.Run(message); err != nil || (n > 0) != want {
		t.Errorf("passes %d bytes, %v", n, err)
	}
}

func TestHostRoutes(t *testing.T) {
	tests := map[string]struct {
		typ    int
		prefix string
		want   bool
	}{
		"to a pod":             {unix.RTM_NEWROUTE, "10.42.1.5/32", true},
		"a pod's goes":         {unix.RTM_DELROUTE, "10.42.1.5/32", true},
		"to a pod, IPv6":       {unix.RTM_NEWROUTE, "fd00::5/128", true},
		"to a peer":            {unix.RTM_NEWROUTE, "10.42.1.0/24", false},
		"a peer's goes":        {unix.RTM_DELROUTE, "fd00::/64", false},
		"no route, but a link": {unix.RTM_NEWLINK, "10.42.1.0/24", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var e encoder
			e.beginRoute(test.typ, 0, dataplane.RouteKey{Prefix: netip.MustParsePrefix(test.prefix)}, unix.RtMsg{})
			e.end()
			passes(t, hostRoutes(), e.buf, test.want)
		})
	}
}

// In the kernel: of two writers the one that is us is not heard, also after our
// socket was opened anew.
func TestMutedInTheKernel(t *testing.T) {
	n := netnstest.New(t)
	open := func() *Kernel {
		k, err := New(Options{Namespace: n.Handle()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return k
	}
	ours, theirs := open(), open()
	l, err := ours.ns.listen(unix.NETLINK_ROUTE, watchBuffer, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	ours.memory.hear(l, unix.NETLINK_ROUTE)
	write := func(k *Kernel, prefix string) {
		t.Helper()
		key := dataplane.RouteKey{Prefix: netip.MustParsePrefix(prefix)}
		hole := dataplane.Route{Blackhole: true}
		if err := k.one(func(e *encoder) {
			e.putRoute(routeWrite{key: key, route: hole, protocol: k.protocol, flags: unix.NLM_F_EXCL})
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i, round := range []func(){func() {}, ours.closeRoute} {
		round()
		write(ours, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24).String())
		write(theirs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i), 0}), 24).String())
		messages, err := l.receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if r, ok := parseRoute(m.Data); !ok || r.key.Prefix.Addr().As4()[1] != 2 {
				t.Errorf("heard %+v", r)
			}
		}
	}
}
