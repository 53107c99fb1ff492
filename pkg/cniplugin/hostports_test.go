package cniplugin_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/netnstest"
)

const (
	hostAddr4, hostAddr6 = "192.0.2.1", "2001:db8::1"
	otherAddr4           = "192.0.2.7" // of the host, too
)

// withPorts is the node with host ports for the next pod.
func (n *node) withPorts(ports ...map[string]any) *node {
	return n.with("runtimeConfig", map[string]any{"portMappings": ports})
}

func mapping(protocol string, host, container int, hostIP string) map[string]any {
	return map[string]any{"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": hostIP}
}

// outside makes a namespace with a link to the host, which forwards.
func (n *node) outside() *netnstest.NS {
	n.t.Helper()
	out := netnstest.New(n.t)
	n.host.Do(func() {
		forward(n.t.(*testing.T), n.host)
		pair := netlink.NewVeth(netlink.LinkAttrs{Name: "up0", TxQLen: -1})
		pair.PeerName, pair.PeerNamespace = "up0", netlink.NsFd(out.Handle())
		if err := netlink.LinkAdd(pair); err != nil {
			n.t.Fatal(err)
		}
	})
	n.host.Exec("sh", "-ec", "ip link set up0 up; ip addr add "+hostAddr4+"/24 dev up0;"+
		"ip addr add "+otherAddr4+"/24 dev up0; ip addr add "+hostAddr6+"/64 dev up0 nodad")
	out.Exec("sh", "-ec", "ip link set up0 up; ip addr add 192.0.2.9/24 dev up0; ip addr add 2001:db8::9/64 dev up0 nodad")
	return out
}

// serve answers in a namespace on a port with its name, until the test ends.
func serve(t *testing.T, ns *netnstest.NS, network string, port int, name string) {
	t.Helper()
	ns.Do(func() {
		if network == "udp" {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				for buf := make([]byte, 16); ; {
					_, from, err := conn.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo([]byte(name), from)
				}
			}()
			return
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(name))
				_ = c.Close()
			}
		}()
	})
}

// ask connects once, and gives the name of who answers.
func ask(from *netnstest.NS, network, addr string, wait time.Duration) (name string, err error) {
	from.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, addr, wait); err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(wait))
		if network == "udp" {
			_, err = c.Write([]byte("?"))
		}
		buf := make([]byte, 64)
		var got int
		if err == nil {
			got, err = c.Read(buf)
		}
		name = string(buf[:got])
	})
	return name, err
}

func wantAnswer(t *testing.T, what string, from *netnstest.NS, network, addr, want string) {
	t.Helper()
	if have, err := ask(from, network, addr, patience); have != want {
		t.Errorf("%s, %s to %s: want %q, have %q, %v", what, network, addr, want, have, err)
	}
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ mode, netfilter string }{
		"bridge":                              {"bridge", "0"},
		"bridge whose packets pass netfilter": {"bridge", "1"},
		"ptp":                                 {"ptp", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			mode := c.mode
			n := newNode(t, ipv4, ipv6).with("mode", mode)
			n.t = t
			n.host.Exec("sh", "-c", "cd /proc/sys/net/bridge && for f in iptables ip6tables; do echo "+c.netfilter+
				" > bridge-nf-call-$f; done || true")
			out := n.outside()
			other, otherNS := newPod(t, 9)
			n.add(other)
			first, firstNS := newPod(t, 1)
			ports := n.withPorts(mapping("tcp", 8080, 80, ""), mapping("UDP", 8053, 53, ""), mapping("", 8081, 81, otherAddr4),
				mapping("tcp", 8082, 82, "127.0.0.1"))
			ports.add(first)
			for _, network := range []string{"tcp", "udp"} {
				inside := map[string]int{"tcp": 80, "udp": 53}[network]
				outsidePort := map[string]string{"tcp": "8080", "udp": "8053"}[network]
				serve(t, firstNS, network, inside, "first")
				for _, host := range []string{hostAddr4, hostAddr6} {
					addr := net.JoinHostPort(host, outsidePort)
					wantAnswer(t, "from outside", out, network, addr, "first")
					wantAnswer(t, "from the host", n.host, network, addr, "first")
					wantAnswer(t, "from the pod itself", firstNS, network, addr, "first")
					wantAnswer(t, "from another pod", otherNS, network, addr, "first")
				}
				wantAnswer(t, "from the host", n.host, network, "127.0.0.1:"+outsidePort, "first")
			}
			serve(t, firstNS, "tcp", 81, "81")
			wantAnswer(t, "one address", out, "tcp", otherAddr4+":8081", "81")
			if have, err := ask(out, "tcp", hostAddr4+":8081", time.Second); err == nil {
				t.Errorf("a port of %s answers at %s: %q", otherAddr4, hostAddr4, have)
			}
			serve(t, firstNS, "tcp", 82, "82")
			wantAnswer(t, "loopback", n.host, "tcp", "127.0.0.1:8082", "82")
			n.notThroughLoopback(firstNS)

			ports.del(first)
			n.wantNoPorts(mode)
			n.del(other)
			if have := n.addresses(); len(have) > 0 {
				t.Errorf("left behind: %v", have)
			}
		})
	}
}

// notThroughLoopback: a pod that sends to 127.0.0.1 by its link meets nobody,
// although the link has route_localnet.
func (n *node) notThroughLoopback(pod *netnstest.NS) {
	n.t.Helper()
	serve(n.t.(*testing.T), n.host, "udp", 9999, "secret")
	pod.Exec("sh", "-ec", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip link set lo down;"+
		"ip addr flush dev lo; ip route flush table local 127.0.0.0/8 || true; ip route add 127.0.0.1/32 via 10.42.1.1 dev eth0 onlink")
	defer pod.Exec("sh", "-ec", "ip route del 127.0.0.1/32; ip link set lo up")
	if have, err := ask(pod, "udp", "127.0.0.1:9999", time.Second); err == nil {
		n.t.Errorf("a pod reached the host's loopback: %q", have)
	}
}

// elements gives the elements of all maps and sets of host ports, as "map key".
func (n *node) elements() (out []string) {
	n.t.Helper()
	n.host.Do(func() {
		c, err := nftables.New()
		if err != nil {
			n.t.Fatal(err)
		}
		sets, err := c.GetSets(&nftables.Table{Name: "weft-hostports", Family: nftables.TableFamilyINet})
		if err != nil {
			return
		}
		for _, s := range sets {
			s.Table = &nftables.Table{Name: "weft-hostports", Family: nftables.TableFamilyINet}
			all, err := c.GetSetElements(s)
			if err != nil {
				n.t.Fatal(err)
			}
			for _, e := range all {
				out = append(out, fmt.Sprintf("%s %x", s.Name, e.Key))
			}
		}
	})
	slices.Sort(out)
	return out
}

func (n *node) wantNoPorts(mode string) {
	n.t.Helper()
	have := n.elements()
	if mode == "bridge" { // the bridge stays
		have = slices.DeleteFunc(have, func(e string) bool {
			return strings.HasPrefix(e, "back") || strings.HasPrefix(e, "local")
		})
	}
	if len(have) > 0 {
		n.t.Errorf("left behind: %v", have)
	}
}

// A client that never stops sending meets the second pod with the port.
func TestUDPClientMeetsTheNextPod(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4).with("mode", "ptp")
	out := n.outside()
	ports := n.withPorts(mapping("udp", 8053, 53, ""))
	first, firstNS := newPod(t, 1)
	second, secondNS := newPod(t, 2)
	serve(t, firstNS, "udp", 53, "first")
	serve(t, secondNS, "udp", 53, "second")
	var client net.Conn
	var err error
	out.Do(func() { client, err = net.Dial("udp", hostAddr4+":8053") })
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answer := func(want string) {
		t.Helper()
		buf := make([]byte, 16)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			_, _ = client.Write([]byte("?"))
			_ = client.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if got, err := client.Read(buf); err == nil && string(buf[:got]) == want {
				return
			}
		}
		t.Errorf("%s pod never answers", want)
	}
	_, _ = client.Write([]byte("?")) // before any pod: conntrack has it as a flow to the host
	ports.add(first)
	answer("first")
	ports.del(first)
	_, _ = client.Write([]byte("?"))
	ports.add(second)
	answer("second")
	ports.del(second)
}

func TestHostPortIsTaken(t *testing.T) {
	n := newNode(t, ipv4)
	ports := n.withPorts(mapping("tcp", 8080, 80, ""), mapping("tcp", 8081, 81, "192.0.2.1"))
	first, _ := newPod(t, 1)
	second, _ := newPod(t, 2)
	ports.add(first)
	before := n.elements()
	n.withPorts(mapping("tcp", 8090, 80, ""), mapping("tcp", 8081, 80, "192.0.2.1")).refused(
		"ADD", second, 103, "host port 192.0.2.1 8081/tcp leads to 10.42.1.2 already", "another hostPort")
	if have := n.elements(); !slices.Equal(have, before) {
		t.Errorf("have %v, want %v", have, before)
	}
	n.withPorts(mapping("udp", 8080, 80, ""), mapping("tcp", 8081, 81, "192.0.2.2")).add(second)
	n.del(second)
	ports.del(first)
	n.empty()

	// A port of a pod that is gone without DEL is anybody's.
	third, _ := newPod(t, 3)
	ports.add(third)
	n.host.Do(func() {
		for _, v := range veths(t, n.host) {
			if err := netlink.LinkDel(link(t, v)); err != nil {
				t.Fatal(err)
			}
		}
	})
	fourth, _ := newPod(t, 4)
	ports.add(fourth)
	ports.del(third)
	status, out := ports.check(fourth, n.results[fourth.id])
	if status != 0 {
		t.Errorf("the port of the living went with the dead: %s", out)
	}
}

func TestBadPorts(t *testing.T) {
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	for name, c := range map[string]struct {
		port  map[string]any
		words []string
	}{
		"too large":         {mapping("tcp", 70000, 80, ""), []string{"70000/tcp", "no such port", "65535"}},
		"no container port": {mapping("tcp", 80, 0, ""), []string{"80/tcp to 0", "no such port"}},
		"no such protocol":  {mapping("icmp", 80, 80, ""), []string{"80/icmp", "tcp, udp and sctp"}},
		"no address":        {mapping("tcp", 80, 80, "localhost"), []string{"hostIP", `"localhost"`}},
		"the other family":  {mapping("tcp", 80, 80, "2001:db8::1"), []string{"2001:db8::1", "no address of this family"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := n.withPorts(c.port)
			other.t = t
			other.refused("ADD", p, 7, c.words...)
			other.empty()
		})
	}
	zero := n.withPorts(mapping("tcp", 0, 80, ""))
	zero.add(p)
	if have := n.elements(); len(have) > 0 {
		t.Errorf("port 0 led to %v", have)
	}
}

// SCTP has the port where TCP has it, which is all that we rely on.
func TestSCTPHostPort(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4).with("mode", "ptp")
	out := n.outside()
	p, ns := newPod(t, 1)
	n.withPorts(mapping("sctp", 8080, 80, "")).add(p)
	var fd int
	ns.Do(func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: 80})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		if err != nil {
			if _, there := os.Stat("/proc/net/sctp"); there != nil {
				t.Skip("this kernel has no SCTP: ", err)
			}
			t.Fatal(err)
		}
	})
	defer unix.Close(fd)
	out.Do(func() {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(c)
		if err := unix.Connect(c, &unix.SockaddrInet4{Port: 8080, Addr: [4]byte{192, 0, 2, 1}}); err != nil {
			t.Error(err)
		}
	})
}

// Address files that are deleted by hand under a running pod are not given to another,
// and the pod's host port goes with the pod.
func TestAddressFilesDeleted(t *testing.T) {
	for _, mode := range []string{"bridge", "ptp"} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6).with("mode", mode)
			first, _ := newPod(t, 1)
			second, _ := newPod(t, 2)
			had := n.withPorts(mapping("tcp", 8080, 80, "")).add(first)
			if err := os.RemoveAll(filepath.Join(n.dir, "networks")); err != nil {
				t.Fatal(err)
			}
			for i, ip := range n.add(second).IPs {
				if ip.Address.IP.Equal(had.IPs[i].Address.IP) {
					t.Errorf("%s was given twice", ip.Address.IP)
				}
			}
			n.del(first)
			n.wantNoPorts(mode)
			n.del(second)
			n.empty()
		})
	}
}
