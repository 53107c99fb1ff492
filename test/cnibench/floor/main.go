// Command floor is what a CNI plugin can't be quicker than: a static Go program
// that does the netlink work of one point-to-point pod of weft's and nothing
// else. It keeps no state, sets no sysctl, waits for nothing, checks nothing and
// cleans nothing up; it is for comparison.
package main

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Getenv("CNI_COMMAND"), "veth"+os.Getenv("CNI_CONTAINERID")); err != nil {
		_, _ = fmt.Fprintf(os.Stdout, `{"cniVersion":"1.0.0","code":100,"msg":%q}`, err.Error())
		os.Exit(1)
	}
}

func run(command, hostEnd string) error {
	runtime.LockOSThread()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if command == "DEL" {
		if link, err := host.LinkByName(hostEnd); err == nil {
			return host.LinkDel(link)
		}
		return nil
	}
	ns, err := netns.GetFromPath(os.Getenv("CNI_NETNS"))
	if err != nil {
		return err
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	var last byte
	if _, err := fmt.Sscanf(os.Getenv("CNI_CONTAINERID"), "f%d", &last); err != nil {
		return err
	}
	if err := attach(host, pod, ns, hostEnd, net.IPv4(10, 43, 1, last)); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(`{"cniVersion":"1.0.0"}`)
	return err
}

func attach(host, pod *netlink.Handle, ns netns.NsHandle, hostEnd string, addr net.IP) error {
	gateway, one := net.IPv4(10, 43, 1, 1), net.CIDRMask(32, 32)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = hostEnd, 1450, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(ns)
	pair.PeerHardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	if err := host.LinkAdd(pair); err != nil {
		return err
	}
	link, err := host.LinkByName(hostEnd)
	if err != nil {
		return err
	}
	eth0, err := pod.LinkByName("eth0")
	if err != nil {
		return err
	}
	route := func(dst *net.IPNet) func() error {
		return func() error {
			return pod.RouteAdd(&netlink.Route{
				LinkIndex: eth0.Attrs().Index, Dst: dst, Gw: gateway, Flags: int(netlink.FLAG_ONLINK),
			})
		}
	}
	for _, do := range []func() error{
		func() error { return host.LinkSetUp(link) },
		func() error {
			return host.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: gateway, Mask: one}})
		},
		func() error {
			return host.RouteAdd(&netlink.Route{
				LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: addr, Mask: one}, Scope: netlink.SCOPE_LINK,
			})
		},
		func() error { return pod.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 1}}) }, // lo
		func() error { return pod.LinkSetUp(eth0) },
		func() error { return pod.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: addr, Mask: one}}) },
		route(&net.IPNet{IP: net.IPv4(10, 43, 0, 0), Mask: net.CIDRMask(16, 32)}),
		route(nil),
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
