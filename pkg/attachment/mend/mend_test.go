package mend_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/mend"
	"github.com/weftnet/weft/pkg/mac"
)

func hardware(n byte) mac.Addr { return mac.Addr{2, 0, 0, 0, 0, n} }

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func gateways() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.42.1.1"), netip.MustParseAddr("fd00::1")}
}

func bridged(container string, n byte) attachment.Attachment {
	return attachment.Attachment{
		Key:  attachment.Key{Network: "cbr0", Container: container, Interface: "eth0"},
		Mode: attachment.ModeBridge, HostLink: "veth" + container, HostMAC: hardware(n), MTU: 1450,
		Bridge: &attachment.Bridge{
			Name: "cni0", MAC: hardware(0xff), Addr: prefixes("10.42.1.1/24", "fd00::1/64"), Hairpin: true,
		},
		Addrs: prefixes("10.42.1.5/24", "fd00::5/64"), Gateways: gateways(),
	}
}

func ptp(container string, n byte) attachment.Attachment {
	a := bridged(container, n)
	a.Mode, a.Bridge, a.Addrs = attachment.ModePTP, nil, prefixes("10.42.1.9/32", "fd00::9/128")
	return a
}

func set(p ...netip.Prefix) map[netip.Prefix]bool {
	out := map[netip.Prefix]bool{}
	for _, x := range p {
		out[x] = true
	}
	return out
}

// whole is a host with two pods on a bridge and one of its own link.
func whole() mend.Host {
	port := func(n byte) mend.Link {
		return mend.Link{Kind: "veth", MAC: hardware(n), MTU: 1450, Up: true, Master: "cni0", Hairpin: true, Addrs: set()}
	}
	own := port(3)
	own.Master, own.Hairpin, own.Addrs = "", false, set(prefixes("10.42.1.1/32", "fd00::1/128", "fe80::3/64")...)
	return mend.Host{
		Links: map[string]mend.Link{
			"cni0": {
				Kind: "bridge", MAC: hardware(0xff), MTU: 1450, Up: true,
				Addrs: set(prefixes("10.42.1.1/24", "fd00::1/64", "fe80::1/64", "192.0.2.1/24")...), // the last is another's
			},
			"vetha": port(1), "vethb": port(2), "vethc": own,
		},
		Routes: map[netip.Prefix]string{
			netip.MustParsePrefix("10.42.1.9/32"): "vethc", netip.MustParsePrefix("fd00::9/128"): "vethc",
		},
		Ports: map[string]int{"cni0": 2},
	}
}

func records() []attachment.Attachment {
	return []attachment.Attachment{bridged("a", 1), bridged("b", 2), ptp("c", 3)}
}

// What a pod may send as is held to while its link is there, where the kernel can.
func TestGuards(t *testing.T) {
	held, free := bridged("a", 1), ptp("c", 3)
	held.Guard, held.MAC = true, hardware(0x51)
	want, _ := held.Sources()
	if n := mend.Needs([]attachment.Attachment{held, free}); len(n.Guards) != 1 || n.Guards[0].Link != "vetha" {
		t.Errorf("needs %v", n.Guards)
	}
	for name, c := range map[string]struct {
		change func(*mend.Host)
		steps  int
	}{
		"is gone":           {func(*mend.Host) {}, 1},
		"is another's":      {func(h *mend.Host) { h.Guarded = map[string]bool{"vethc": true} }, 1},
		"is there":          {func(h *mend.Host) { h.Guarded = map[string]bool{"vetha": true} }, 0},
		"can't be":          {func(h *mend.Host) { h.NoGuard = true }, 0},
		"is of a link gone": {func(h *mend.Host) { delete(h.Links, "vetha") }, 0},
	} {
		host := whole()
		c.change(&host)
		steps, conflicts := mend.Plan([]attachment.Attachment{held, free}, host)
		if len(steps) != c.steps || len(conflicts) > 0 {
			t.Errorf("%s: %v %v", name, steps, conflicts)
		}
		for _, s := range steps {
			if s.String() != "guard vetha" || s.Sources.Link != want.Link {
				t.Errorf("%s: %s %v", name, s, s.Sources)
			}
		}
	}
}

// Ports of the host lead to a pod while its link is there, by rules that are
// as they were, and by nothing else that leads there already.
func TestHostPorts(t *testing.T) {
	a, b, none := bridged("a", 1), ptp("c", 3), bridged("b", 2)
	a.Ports = []attachment.Port{{Protocol: "tcp", Host: 8080, Container: 80}}
	b.Ports = []attachment.Port{{Protocol: "udp", Host: 8053, Container: 53}}
	all := []attachment.Attachment{a, none, b}
	if n := mend.Needs(all); len(n.Led) != 2 || n.Led[0].HostLink != "vetha" || n.Led[1].HostLink != "vethc" {
		t.Errorf("needs %v", n.Led)
	}
	for name, c := range map[string]struct {
		change           func(*mend.Host)
		steps, conflicts []string
	}{
		"all is as it was": {func(*mend.Host) {}, nil, nil},
		"all is gone": {
			func(h *mend.Host) { h.PortRules = false; clear(h.Led) },
			[]string{
				"write rules of host ports", "lead host ports to the pod of vetha", "lead host ports to the pod of vethc",
			}, nil,
		},
		"the rules are others": {func(h *mend.Host) { h.PortRules = false }, []string{"write rules of host ports"}, nil},
		"a pod's are gone": {
			func(h *mend.Host) { delete(h.Led, "vethc") }, []string{"lead host ports to the pod of vethc"}, nil,
		},
		"one leads elsewhere": {
			func(h *mend.Host) {
				clear(h.Led)
				h.Taken = map[string]string{"vetha": "host port 8080/tcp leads to 10.42.1.9 already"}
			},
			[]string{"lead host ports to the pod of vethc"},
			[]string{"host port 8080/tcp leads to 10.42.1.9 already, not to the pod of vetha"},
		},
		"links are gone": {
			func(h *mend.Host) {
				delete(h.Links, "vetha")
				delete(h.Links, "vethc")
				h.Ports["cni0"], h.PortRules, h.Led = 1, false, nil
			}, nil, nil,
		},
	} {
		host := whole()
		host.PortRules, host.Led = true, map[string]bool{"vetha": true, "vethc": true}
		c.change(&host)
		steps, conflicts := mend.Plan(all, host)
		var have []string
		for _, s := range steps {
			have = append(have, s.String())
			if want := map[mend.Action]int{mend.SetPortRules: 2, mend.LeadPorts: 1}[s.Action]; len(s.Pods) != want {
				t.Errorf("%s: %s has %d pods, want %d", name, s, len(s.Pods), want)
			}
		}
		if d := cmp.Diff(c.steps, have); d != "" {
			t.Errorf("%s: steps (-want +have)\n%s", name, d)
		}
		if d := cmp.Diff(c.conflicts, conflicts); d != "" {
			t.Errorf("%s: conflicts (-want +have)\n%s", name, d)
		}
	}
}

func TestPlan(t *testing.T) {
	change := func(name string, f func(*mend.Link)) func(*mend.Host, []attachment.Attachment) {
		return func(h *mend.Host, _ []attachment.Attachment) {
			l := h.Links[name]
			f(&l)
			h.Links[name] = l
		}
	}
	for name, c := range map[string]struct {
		change    func(*mend.Host, []attachment.Attachment)
		steps     []string
		conflicts []string
	}{
		"all is as it was": {change: func(*mend.Host, []attachment.Attachment) {}},
		"the bridge is gone": {func(h *mend.Host, _ []attachment.Attachment) {
			delete(h.Links, "cni0")
			delete(h.Ports, "cni0")
			for _, name := range []string{"vetha", "vethb"} {
				l := h.Links[name]
				l.Master, l.Hairpin = "", false
				h.Links[name] = l
			}
		}, []string{
			"create bridge cni0 address 02:00:00:00:00:ff mtu 1450",
			"set sysctl net/ipv6/conf/cni0/accept_ra=0",
			"set sysctl net/ipv6/conf/cni0/disable_ipv6=0",
			"set sysctl net/ipv6/conf/cni0/accept_dad=0",
			"set up cni0", "add address 10.42.1.1/24 dev cni0", "add address fd00::1/64 dev cni0",
			"add address fe80::ff:fe00:ff/64 dev cni0",
			"make port vetha of cni0", "set hairpin mode vetha", "make port vethb of cni0", "set hairpin mode vethb",
		}, nil},
		"the bridge is flushed": {
			change("cni0", func(l *mend.Link) { l.Addrs = set() }),
			[]string{
				"add address 10.42.1.1/24 dev cni0", "add address fd00::1/64 dev cni0",
				"add address fe80::ff:fe00:ff/64 dev cni0",
			}, nil,
		},
		"the bridge is down": {change("cni0", func(l *mend.Link) { l.Up = false }), []string{"set up cni0"}, nil},
		"the bridge has another MAC": {
			change("cni0", func(l *mend.Link) { l.MAC = hardware(9) }), []string{"set MAC cni0 02:00:00:00:00:ff"}, nil,
		},
		"the bridge has another MTU": {change("cni0", func(l *mend.Link) { l.MTU = 1500 }), []string{"set MTU cni0 1450"}, nil},
		"another plugin's pods are on it, which knows its MAC": {func(h *mend.Host, _ []attachment.Attachment) {
			change("cni0", func(l *mend.Link) { l.MAC, l.MTU = hardware(9), 1500 })(h, nil)
			h.Ports["cni0"] = 3
		}, nil, nil},
		"a bridge of a plugin that kept no records": {func(h *mend.Host, r []attachment.Attachment) {
			change("cni0", func(l *mend.Link) { l.Up, l.Addrs = false, set() })(h, nil)
			copy(r, []attachment.Attachment{ptp("c", 3), ptp("c", 3)})
		}, nil, nil},
		"a port is removed": {
			change("vethb", func(l *mend.Link) { l.Master, l.Hairpin = "", false }),
			[]string{"make port vethb of cni0", "set hairpin mode vethb"}, nil,
		},
		"hairpin mode is lost": {
			change("vetha", func(l *mend.Link) { l.Hairpin = false }), []string{"set hairpin mode vetha"}, nil,
		},
		"a port is down, with another MTU": {
			change("vetha", func(l *mend.Link) { l.Up, l.MTU = false, 1500 }),
			[]string{"set MTU vetha 1450", "set up vetha"}, nil,
		},
		"a pod is gone, its record is not": {
			func(h *mend.Host, _ []attachment.Attachment) { delete(h.Links, "vetha"); h.Ports["cni0"] = 1 }, nil, nil,
		},
		"another link has its name": {change("vetha", func(l *mend.Link) { l.MAC, l.Up = hardware(77), false }), nil, nil},
		"no pod is left on a bridge that is gone": {func(h *mend.Host, _ []attachment.Attachment) {
			h.Links = map[string]mend.Link{"vethc": h.Links["vethc"]}
		}, nil, nil},
		"something else has the bridge's name": {
			change("cni0", func(l *mend.Link) { l.Kind, l.Addrs = "dummy", set() }), nil,
			[]string{"link cni0 is a dummy, where pods need a bridge"},
		},
		"the routes to a pod are gone": {
			func(h *mend.Host, _ []attachment.Attachment) { clear(h.Routes) },
			[]string{"add route 10.42.1.9/32 dev vethc", "add route fd00::9/128 dev vethc"}, nil,
		},
		"a route leads elsewhere": {
			func(h *mend.Host, _ []attachment.Attachment) {
				h.Routes[netip.MustParsePrefix("10.42.1.9/32")] = "eth0"
			}, nil,
			[]string{"the route to pod 10.42.1.9 leads through eth0, not through vethc"},
		},
		"a pod's own link is down and flushed": {
			change("vethc", func(l *mend.Link) { l.Up, l.Addrs = false, set() }),
			[]string{
				"set up vethc", "add address 10.42.1.1/32 dev vethc", "add address fd00::1/128 dev vethc",
				"add address fe80::ff:fe00:3/64 dev vethc",
			}, nil,
		},
		"host ports, and the bridge is gone": {func(h *mend.Host, r []attachment.Attachment) {
			delete(h.Links, "cni0")
			h.Links = map[string]mend.Link{"vetha": h.Links["vetha"], "vethc": h.Links["vethc"]}
			r[0].Ports, r[0].Bridge.Promisc, r[0].Bridge.Hairpin = []attachment.Port{{Protocol: "tcp"}}, true, false
			r[0].Bridge.Addr = prefixes("10.42.1.1/24")
			h.PortRules, h.Led = true, map[string]bool{"vetha": true}
			l := h.Links["vetha"]
			l.Master = ""
			h.Links["vetha"] = l
		}, []string{
			"create bridge cni0 address 02:00:00:00:00:ff mtu 1450", "set sysctl net/ipv4/conf/cni0/route_localnet=1",
			"set promiscuous mode cni0", "set up cni0", "add address 10.42.1.1/24 dev cni0", "make port vetha of cni0",
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			host, all := whole(), records()
			c.change(&host, all)
			steps, conflicts := mend.Plan(all, host)
			var have []string
			for _, s := range steps {
				have = append(have, s.String())
			}
			if d := cmp.Diff(c.steps, have); d != "" {
				t.Errorf("steps (-want +have)\n%s", d)
			}
			if d := cmp.Diff(c.conflicts, conflicts); d != "" {
				t.Errorf("conflicts (-want +have)\n%s", d)
			}
			slices.Reverse(all)
			again, _ := mend.Plan(all, host)
			if len(again) != len(steps) {
				t.Errorf("in another order of records: %v", again)
			}
		})
	}
}

func TestNeeds(t *testing.T) {
	have := mend.Needs(records())
	want := mend.Names{
		Links:  map[string]bool{"cni0": true, "vetha": true, "vethb": true, "vethc": true},
		Routes: set(prefixes("10.42.1.9/32", "fd00::9/128")...),
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("(-want +have)\n%s", d)
	}
}
