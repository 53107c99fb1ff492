package linux_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

// TestSourceFollowsLocal sends through a device before and after its address
// changes, and looks where the packets come from.
func TestSourceFollowsLocal(t *testing.T) {
	for _, underlay := range []string{"192.0.2.%d/24", "2001:db8::%d/64"} {
		at := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(underlay, n)) }
		t.Run(at(1).String(), func(t *testing.T) {
			here, there := netnstest.New(t), netnstest.New(t)
			join(t, here, there, []netip.Prefix{at(1), at(2)}, at(9))
			from := sourcesOf(t, there, netip.AddrPortFrom(at(9).Addr(), 8472))
			h := &host{T: t, Kernel: open(t, here), ns: here}
			want := peerBehind(at(9).Addr())
			for _, n := range []int{1, 2, 1} {
				l := want.Links[dev]
				l.Local = at(n).Addr()
				want.Links[dev] = l
				h.settle(want)
				if have := from(here); have != at(n).Addr() {
					t.Errorf("with local %s packets come from %s", at(n).Addr(), have)
				}
			}
		})
	}
}

// peerBehind is one peer on our device.
func peerBehind(vtep netip.Addr) dataplane.State {
	s := links()
	l := s.Links[dev]
	l.MTU = 1400
	s.Links[dev] = l
	hw, gateway := mac.Addr{2, 0x42, 0, 0, 0, 9}, netip.MustParseAddr("10.42.9.0")
	s.Addrs = map[dataplane.AddrKey]struct{}{{Link: dev, Prefix: netip.MustParsePrefix("10.42.1.0/32")}: {}}
	s.FDB = map[dataplane.FDBKey]netip.Addr{{Link: dev, MAC: hw}: vtep}
	s.Neighs = map[dataplane.NeighKey]mac.Addr{{Link: dev, IP: gateway}: hw}
	s.Routes = map[dataplane.RouteKey]dataplane.Route{
		{Prefix: netip.MustParsePrefix("10.42.9.0/24")}: {Via: gateway, Link: dev, OnLink: true},
	}
	return s
}

// join connects two namespaces by a veth pair, here as the uplink.
func join(t *testing.T, here, there *netnstest.NS, ours []netip.Prefix, theirs netip.Prefix) {
	t.Helper()
	setUp := func(name string, addrs ...netip.Prefix) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetUp(link)}
		for _, p := range addrs {
			ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
			errs = append(errs, netlink.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}))
		}
		return errors.Join(errs...)
	}
	here.Do(func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = uplink
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerNamespace: netlink.NsFd(there.Handle())}
		if err := errors.Join(netlink.LinkAdd(veth), setUp(uplink, ours...)); err != nil {
			t.Fatal(err)
		}
	})
	there.Do(func() {
		if err := setUp(uplink, theirs); err != nil {
			t.Fatal(err)
		}
	})
}

// sourcesOf listens as a VTEP does. What it gives sends to a pod behind that VTEP,
// and tells the outer source of what arrives.
func sourcesOf(t *testing.T, ns *netnstest.NS, at netip.AddrPort) func(*netnstest.NS) netip.Addr {
	t.Helper()
	var conn *net.UDPConn
	ns.Do(func() {
		var err error
		if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = conn.Close() })
	return func(from *netnstest.NS) netip.Addr {
		t.Helper()
		from.Do(func() {
			out, err := net.Dial("udp", "10.42.9.2:9")
			if err == nil {
				_, err = out.Write([]byte("x"))
				err = errors.Join(err, out.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, source, err := conn.ReadFromUDPAddrPort(make([]byte, 2048))
		if err != nil {
			t.Fatal(err)
		}
		return source.Addr().Unmap()
	}
}
