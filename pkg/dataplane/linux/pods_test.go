package linux_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/mend"
	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

// podHost is a host with a pod on a bridge, one of its own link, and a bridge
// and a veth of another's, in words of iproute2.
const podHost = `
link add cni0 address 02:00:00:00:00:ff mtu 1450 type bridge
link set cni0 up
addr add 10.42.1.1/24 dev cni0
addr add fd00::1/64 dev cni0 nodad
link add vetha address 02:00:00:00:00:01 mtu 1450 type veth peer name poda
link add vethc address 02:00:00:00:00:03 mtu 1450 type veth peer name podc
link set poda up
link set podc up
link set vetha master cni0 up
link set vetha type bridge_slave hairpin on
link set vethc up
addr add 10.42.1.1/32 dev vethc
addr add fd00::1/128 dev vethc nodad
route add 10.42.1.9/32 dev vethc scope link
route add fd00::9/128 dev vethc metric 1024
link add br9 address 02:00:00:00:00:09 type bridge
link add veth9 type veth peer name pod9
`

func podRecords() []attachment.Attachment {
	gateways := []netip.Addr{netip.MustParseAddr("10.42.1.1"), netip.MustParseAddr("fd00::1")}
	p := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	return []attachment.Attachment{
		{
			Key:  attachment.Key{Network: "cbr0", Container: "a", Interface: "eth0"},
			Mode: attachment.ModeBridge, HostLink: "vetha", HostMAC: mac.Addr{2, 0, 0, 0, 0, 1}, MTU: 1450,
			Bridge: &attachment.Bridge{
				Name: "cni0", MAC: mac.Addr{2, 0, 0, 0, 0, 0xff}, Hairpin: true,
				Addr: []netip.Prefix{p("10.42.1.1/24"), p("fd00::1/64")},
			},
			Addrs: []netip.Prefix{p("10.42.1.5/24"), p("fd00::5/64")}, Gateways: gateways,
			MAC: mac.Addr{2, 0, 0, 0, 0, 0x51}, Guard: true,
			Ports: []attachment.Port{{Protocol: "tcp", Host: 8080, Container: 80}, {Protocol: "udp", Host: 8053, Container: 53}},
		},
		{
			Key:  attachment.Key{Network: "cbr0", Container: "c", Interface: "eth0"},
			Mode: attachment.ModePTP, HostLink: "vethc", HostMAC: mac.Addr{2, 0, 0, 0, 0, 3}, MTU: 1450,
			Addrs: []netip.Prefix{p("10.42.1.9/32"), p("fd00::9/128")}, Gateways: gateways,
			MAC: mac.Addr{2, 0, 0, 0, 0, 0x53}, Guard: true,
			Ports: []attachment.Port{{Protocol: "tcp", Host: 8081, Container: 80, HostIP: netip.MustParseAddr("192.0.2.1")}},
		},
	}
}

func TestPodsAreMended(t *testing.T) {
	n := netnstest.New(t)
	run := func(script string) {
		t.Helper()
		for line := range strings.Lines(script) {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			program := "ip"
			if words[0] == "nft" {
				program, words = "nft", words[1:]
			}
			n.Exec(program, words...)
		}
	}
	run(podHost)
	pods, err := linux.NewPods(linux.Options{Namespace: n.Handle()})
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Close()
	look := func() mend.Host {
		t.Helper()
		host, err := pods.Observe(t.Context(), mend.Needs(podRecords()))
		if err != nil {
			t.Fatal(err)
		}
		for name, l := range host.Links {
			for a := range l.Addrs {
				if a.Addr().IsLinkLocalUnicast() { // one counts, whichever it is
					if delete(l.Addrs, a); name == "vetha" {
						continue // a port needs none
					}
					l.Addrs[netip.MustParsePrefix("fe80::/10")] = true
				}
			}
		}
		return host
	}
	// As the CNI plugin would.
	steps, conflicts := mend.Plan(podRecords(), look())
	if errs := pods.Apply(t.Context(), steps); len(steps) != 5 || len(errs)+len(conflicts) > 0 {
		t.Fatalf("guards and ports: %v %v %v", steps, conflicts, errs)
	}
	want := look()
	if steps, conflicts := mend.Plan(podRecords(), want); len(steps)+len(conflicts) > 0 {
		t.Fatalf("a whole host: %v %v", steps, conflicts)
	}
	theirs := n.Exec("ip", "-br", "link", "show", "br9") + n.Exec("ip", "-br", "link", "show", "veth9")

	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- pods.Watch(ctx, changed) }()
	told := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("%s: not told", what)
		}
	}
	told("that it listens")
	for _, what := range []string{
		"nft flush ruleset", "nft delete table netdev weft-guard", "nft delete chain netdev weft-guard vethc",
		"nft insert rule netdev weft-guard vetha accept", "nft flush set netdev weft-guard own_mac",
		"nft flush chain netdev weft-guard sent4",
		"nft delete table inet weft-hostports", "nft flush chain inet weft-hostports ports",
		"nft flush chain inet weft-hostports prerouting", "nft flush ruleset inet",
		"nft insert rule inet weft-hostports ports accept", "nft flush map inet weft-hostports any4",
		"nft delete element inet weft-hostports any4 { tcp . 8080 }", "nft delete element inet weft-hostports local { vethc }",
		"nft delete element inet weft-hostports addr4 { 192.0.2.1 . tcp . 8081 }", "link del cni0", "link set cni0 down", "addr flush dev cni0", "link set cni0 address 02:00:00:00:00:77",
		"link set cni0 mtu 1400", "link set vetha nomaster", "link set vetha master br9", "link set vetha down",
		"link set vetha type bridge_slave hairpin off", "link set vetha mtu 1400", "route del 10.42.1.9/32 dev vethc",
		"route del fd00::9/128 dev vethc", "addr flush dev vethc", "link set vethc down",
	} {
		run(what)
		told(what)
		steps, conflicts := mend.Plan(podRecords(), look())
		if len(steps) == 0 || len(conflicts) > 0 {
			t.Errorf("%s: steps %v, conflicts %v", what, steps, conflicts)
		}
		if errs := pods.Apply(t.Context(), steps); len(errs) > 0 {
			t.Errorf("%s: %v", what, errs)
		}
		if d := cmp.Diff(want, look()); d != "" {
			t.Errorf("%s: (-want +have)\n%s", what, d)
		}
		if errs := pods.Apply(t.Context(), steps); len(errs) > 0 {
			t.Errorf("%s, a second time: %v", what, errs)
		}
		for len(changed) > 0 { // of our own writing, or of what came with it
			<-changed
		}
	}
	if have := n.Exec("ip", "-br", "link", "show", "br9") + n.Exec("ip", "-br", "link", "show", "veth9"); have != theirs {
		t.Errorf("another's: %s, was %s", have, theirs)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
