package topology

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var podAddrs = []netip.Addr{netip.MustParseAddr("10.42.1.2"), netip.MustParseAddr("fd00:42:0:1::2")}

// addPodByHand joins a pod to its node by a veth pair, with the smaller MTU on
// the pod's end or on the node's, as asked.
func addPodByHand(t *testing.T, n *Node, podMTU, nodeMTU int) *Namespace {
	t.Helper()
	pod, err := newNamespace(n.Name + "-a")
	if err != nil {
		t.Fatal(err)
	}
	pod.Addrs = podAddrs
	inPod, err := pod.open()
	if err != nil {
		t.Fatal(err)
	}
	defer inPod.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "pod", nodeMTU
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: Eth0, PeerMTU: uint32(podMTU), PeerNamespace: netlink.NsFd(int(inPod)),
		})
	}))
	must(n.Do(func() error { return disableDAD("pod") }))
	must(pod.Do(func() error { return disableDAD(Eth0) }))
	gateways := []string{"10.42.1.1/24", "fd00:42:0:1::1/64"}
	for i, gateway := range gateways {
		p := netip.MustParsePrefix(gateway)
		must(n.Do(func() error { return addAddress("pod", p) }))
		must(pod.Do(func() error { return addAddress(Eth0, netip.PrefixFrom(podAddrs[i], p.Bits())) }))
	}
	must(n.Do(func() error { return linkUp("pod") }))
	must(pod.Do(func() error { return linkUp(Eth0) }))
	must(n.Do(func() error { return awaitCarrier("pod") }))
	must(pod.Do(func() error { return awaitCarrier(Eth0) }))
	must(n.Do(func() error { return awaitAddresses("pod") }))
	must(pod.Do(func() error { return awaitAddresses(Eth0) }))
	return pod
}

func TestPodAnswersPingAndFetch(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	node := topo.Nodes[0]
	pod := addPodByHand(t, node, 1430, 1430)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	first, second := netip.AddrPortFrom(pod.Addrs[0], 8080), netip.AddrPortFrom(pod.Addrs[1], 8080)
	listener, err := pod.Listen(first)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pod.Listen(second)
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- ServePages(ctx, pod.Name, listener, other) }()

	gateways := []netip.Addr{netip.MustParseAddr("10.42.1.1"), netip.MustParseAddr("fd00:42:0:1::1")}
	for i, at := range []netip.AddrPort{first, second} {
		rtt, err := node.Ping(within(t, 5*time.Second), Ping{From: gateways[i], To: at.Addr(), Size: 1430})
		if err != nil {
			t.Error(err)
		} else if rtt <= 0 {
			t.Errorf("round-trip time %s", rtt)
		}
		have, err := node.Fetch(within(t, 5*time.Second), at)
		if err != nil {
			t.Error(err)
		}
		want := Page{Name: pod.Name, Client: gateways[i]}
		if diff := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("page (-want +have):\n%s", diff)
		}
	}

	stop()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("server's end: want context.Canceled, have %v", err)
	}
	if _, err := node.Fetch(within(t, 5*time.Second), first); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("page of a stopped server: want ECONNREFUSED, have %v", err)
	}
}

func TestPingMeasuresTheMTU(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	node := topo.Nodes[0]
	pod := addPodByHand(t, node, 1430, 1500)
	for _, to := range pod.Addrs {
		if _, err := pod.Ping(within(t, 5*time.Second), Ping{To: to, Size: 1431}); err != nil {
			t.Errorf("to itself over lo: %v", err)
		}
		// The node's end lets it out, the pod's end can't take it in: only
		// its absence tells.
		_, err := node.Ping(within(t, 300*time.Millisecond), Ping{To: to, Size: 1500})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("larger than the far end's MTU: want a timeout, have %v", err)
		}
		if _, err := node.Ping(within(t, 5*time.Second), Ping{To: to, Size: 1501}); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("larger than the own MTU: want EMSGSIZE, have %v", err)
		}
	}
}

func TestPingOfNobodyEndsWithTheContext(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	for _, nobody := range []string{"192.168.77.99", "fd77::99"} {
		_, err := topo.Nodes[0].Ping(within(t, 100*time.Millisecond), Ping{To: netip.MustParseAddr(nobody)})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping %s: want context.DeadlineExceeded, have %v", nobody, err)
		}
	}
}

func TestPingRefusesASizeBelowTheHeaders(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	for i, smallest := range []int{28, 48} {
		to := topo.Outside.Addrs[i]
		if _, err := topo.Nodes[0].Ping(within(t, 5*time.Second), Ping{To: to, Size: smallest}); err != nil {
			t.Error(err)
		}
		if _, err := topo.Nodes[0].Ping(within(t, 5*time.Second), Ping{To: to, Size: smallest - 1}); err == nil {
			t.Errorf("ping of %d bytes to %s was taken", smallest-1, to)
		}
	}
}

func TestDoGivesBackTheErrorAndTheThread(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	boom := errors.New("boom")
	if err := topo.Nodes[0].Do(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("want the function's error, have %v", err)
	}
	if err := (&Namespace{Name: topo.options.Name + "-99"}).Do(func() error { return nil }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("namespace that is not there: want ENOENT, have %v", err)
	}
}

func TestProcessTellsItsEnd(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	node := topo.Nodes[0]
	p, err := node.Start(exec.Command("/bin/sh", "-c", "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if !errors.As(p.Err(), &status) || status.ExitCode() != 3 {
		t.Errorf("want exit status 3, have %v", p.Err())
	}
	if _, err := node.Start(exec.Command("/nowhere")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("program that is not there: want ENOENT, have %v", err)
	}
	polite := startShell(t, node, `trap "exit 7" TERM; echo ready; while :; do sleep 0.01; done`)
	if err := polite.Stop(within(t, 10*time.Second)); !errors.As(err, &status) || status.ExitCode() != 7 {
		t.Errorf("stop: want the process's own exit status 7, have %v", err)
	}
	deaf := startShell(t, node, `trap "" TERM; echo ready; exec sleep 1000`)
	if err := deaf.Stop(within(t, 100*time.Millisecond)); !errors.As(err, &status) || status.ExitCode() != -1 {
		t.Errorf("stop of a process that ignores it: want a kill, have %v", err)
	}
}
