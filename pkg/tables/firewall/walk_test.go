package firewall_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/tables/firewall"
)

func is(f firewall.Field, b ...byte) firewall.Cond {
	return firewall.Cond{Fields: []firewall.Field{f}, Values: []firewall.Range{{From: b, To: b}}}
}

func rule(act firewall.Act, conds ...firewall.Cond) firewall.Rule {
	return firewall.Rule{Conds: conds, Acts: []firewall.Act{act}}
}

func do(k firewall.Kind) firewall.Act { return firewall.Act{Kind: k} }

func jump(to string) firewall.Act { return firewall.Act{Kind: firewall.Jump, Chain: to} }

func dnat(to string) firewall.Act {
	ap := netip.MustParseAddrPort(to)
	return firewall.Act{Kind: firewall.DNAT, Addr: ap.Addr(), Port: ap.Port()}
}

func base(priority int, rules ...firewall.Rule) firewall.Chain {
	return firewall.Chain{
		Family: "ip", Table: "t", Name: "base", Hook: firewall.Prerouting, Type: "filter", Priority: priority, Rules: rules,
	}
}

func named(name string, rules ...firewall.Rule) firewall.Chain {
	return firewall.Chain{Family: "ip", Table: "t", Name: name, Rules: rules}
}

func port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func TestWalk(t *testing.T) {
	packet := firewall.Packet{
		Src: netip.MustParseAddr("10.42.1.2"), Dst: netip.MustParseAddr("10.96.0.10"),
		Proto: 6, SrcPort: 40000, DstPort: 80, In: "cni0", Mark: 0x1,
	}
	drop, accept := do(firewall.Drop), do(firewall.Accept)
	key := firewall.SetKey{Family: "ip", Table: "t", Name: "m"}
	service := append(append([]byte{10, 96, 0, 10, 6, 0, 0, 0}, port(80)...), 0, 0)
	fields := []firewall.Field{firewall.DstAddr, firewall.L4Proto, firewall.DstPort}
	vmap := firewall.Act{Kind: firewall.VMap, Set: "m", Fields: fields}
	a, b := jump("a"), jump("b")
	set := func(elems ...firewall.Elem) map[firewall.SetKey]firewall.Set {
		return map[firewall.SetKey]firewall.Set{key: {Elems: elems}}
	}
	elem := func(k []byte, act *firewall.Act, data ...byte) firewall.Elem {
		return firewall.Elem{Key: firewall.Range{From: k, To: k}, Act: act, Data: data}
	}
	for name, c := range map[string]struct {
		chains  []firewall.Chain
		sets    map[firewall.SetKey]firewall.Set
		packet  func(*firewall.Packet)
		dropped string // part of it
		to      string // where it goes after translation
		others  []string
		unread  int
		mark    uint32
	}{
		"nothing":                       {},
		"a drop":                        {chains: []firewall.Chain{base(0, rule(drop, is(firewall.DstPort, port(80)...)))}, dropped: "dport 80 drop"},
		"a drop of another port":        {chains: []firewall.Chain{base(0, rule(drop, is(firewall.DstPort, port(81)...)))}},
		"ports of what has none":        {chains: []firewall.Chain{base(0, rule(drop, is(firewall.DstPort, port(80)...)))}, packet: func(p *firewall.Packet) { p.Proto = 1 }},
		"an accept ends its chain only": {chains: []firewall.Chain{base(0, rule(accept), rule(drop)), base(1, rule(drop))}, dropped: "drop"},
		"chains in order of priority":   {chains: []firewall.Chain{base(5, rule(drop, is(firewall.FWMark, 2, 0, 0, 0))), base(1, rule(firewall.Act{Kind: firewall.Mark, Mark: 2, Mask: 3}))}, dropped: "mark 0x2", mark: 2},
		"a prefix of a name":            {chains: []firewall.Chain{base(0, rule(drop, is(firewall.InName, []byte("cni")...)))}, dropped: `iifname cni*`},
		"a jump that returns":           {chains: []firewall.Chain{base(0, rule(jump("x")), rule(drop)), named("x", rule(do(firewall.Return)), rule(accept))}, dropped: "base: drop"},
		"a goto does not":               {chains: []firewall.Chain{base(0, rule(firewall.Act{Kind: firewall.Goto, Chain: "x"}), rule(drop)), named("x")}},
		"a chain that jumps to itself":  {chains: []firewall.Chain{base(0, rule(jump("x")), rule(drop)), named("x", rule(jump("x")))}, dropped: "drop"},
		"a jump to nowhere":             {chains: []firewall.Chain{base(0, rule(jump("gone")))}, unread: 1},
		"what can't be read":            {chains: []firewall.Chain{base(0, firewall.Rule{Unread: []string{"limit"}, Acts: []firewall.Act{drop}})}, unread: 1},
		"nor matters":                   {chains: []firewall.Chain{base(0, firewall.Rule{Unread: []string{"limit"}, Acts: []firewall.Act{do(firewall.Other)}})}},
		"nor could match":               {chains: []firewall.Chain{base(0, firewall.Rule{Unread: []string{"limit"}, Conds: []firewall.Cond{is(firewall.L4Proto, 17)}, Acts: []firewall.Act{drop}})}},
		"a field that nobody knows":     {chains: []firewall.Chain{base(0, rule(drop, is(firewall.None, 1)))}, unread: 1},
		"a tunnel of ours":              {chains: []firewall.Chain{base(0, rule(drop, is(firewall.VNI, 0, 0, 1, 0)))}, packet: func(p *firewall.Packet) { p.Proto, p.VNI = 17, 1 }, dropped: "vni 1 drop"},
		"another tunnel":                {chains: []firewall.Chain{base(0, rule(drop, is(firewall.VNI, 0, 0, 1, 0)))}, packet: func(p *firewall.Packet) { p.Proto, p.VNI = 17, 7 }},
		"what may be a tunnel":          {chains: []firewall.Chain{base(0, rule(drop, is(firewall.VNI, 0, 0, 1, 0)))}, packet: func(p *firewall.Packet) { p.Proto = 17 }, unread: 1},
		"what is none":                  {chains: []firewall.Chain{base(0, rule(drop, is(firewall.VNI, 0, 0, 1, 0)))}},
		"a policy":                      {chains: []firewall.Chain{{Family: "inet", Table: "t", Name: "p", Hook: firewall.Prerouting, Drops: true}}, dropped: "policy of chain inet t p"},
		"another family's":              {chains: []firewall.Chain{{Family: "ip6", Table: "t", Name: "p", Hook: firewall.Prerouting, Drops: true}}},
		"a translation":                 {chains: []firewall.Chain{base(0, rule(dnat("10.42.2.5:8080")))}, to: "10.42.2.5:8080"},
		"the first translation counts":  {chains: []firewall.Chain{nat(-100, rule(dnat("10.42.2.5:8080"))), nat(-99, rule(dnat("10.42.2.6:8080")))}, to: "10.42.2.5:8080"},
		"kube-proxy in iptables":        {chains: []firewall.Chain{base(0, rule(jump("svc"))), named("svc", rule(a, firewall.Cond{Chance: true}), rule(b)), named("a", rule(dnat("10.42.2.5:8080"))), named("b", rule(dnat("10.42.3.5:8080")))}, to: "10.42.2.5:8080", others: []string{"10.42.3.5:8080"}},
		"kube-proxy in nftables":        {chains: []firewall.Chain{base(0, rule(vmap)), named("a", rule(dnat("10.42.2.5:8080")))}, sets: set(elem(service, &a)), to: "10.42.2.5:8080"},
		"a map without the packet":      {chains: []firewall.Chain{base(0, rule(vmap)), named("a", rule(dnat("10.42.2.5:8080")))}, sets: set(elem(service, &a)), packet: func(p *firewall.Packet) { p.DstPort = 81 }},
		"a map that is not there":       {chains: []firewall.Chain{base(0, rule(vmap))}, unread: 1},
		"one of several by chance":      {chains: []firewall.Chain{base(0, rule(firewall.Act{Kind: firewall.VMap, Set: "m", Random: true})), named("a", rule(dnat("10.42.2.5:8080"))), named("b", rule(dnat("10.42.3.5:8080")))}, sets: set(elem([]byte{0, 0, 0, 0}, &a), elem([]byte{1, 0, 0, 0}, &b)), to: "10.42.2.5:8080", others: []string{"10.42.3.5:8080"}},
		"a translation that a map says": {chains: []firewall.Chain{base(0, rule(firewall.Act{Kind: firewall.DNAT, Set: "m", Fields: []firewall.Field{firewall.DstPort}}))}, sets: set(elem(port(80), nil, append([]byte{10, 42, 1, 9}, port(8080)...)...)), to: "10.42.1.9:8080"},
		"and that has nothing to say":   {chains: []firewall.Chain{base(0, rule(firewall.Act{Kind: firewall.DNAT, Set: "m", Fields: []firewall.Field{firewall.DstPort}}), rule(drop))}, sets: set(elem(port(81), nil)), dropped: "drop"},
		"not among many":                {chains: []firewall.Chain{base(0, rule(drop, firewall.Cond{Fields: []firewall.Field{firewall.DstPort}, Set: "m", Not: true}))}, sets: set(elem(port(80), nil))},
		"under a mask":                  {chains: []firewall.Chain{base(0, rule(drop, firewall.Cond{Fields: []firewall.Field{firewall.SrcAddr}, Mask: []byte{255, 255, 252, 0}, Values: []firewall.Range{{From: []byte{10, 42, 0, 0}, To: []byte{10, 42, 0, 0}}}}))}, dropped: "saddr 10.42.0.0/22 drop"},
		"a new flow is not established": {chains: []firewall.Chain{base(0, rule(accept, firewall.Cond{Fields: []firewall.Field{firewall.CtState}, Mask: []byte{6, 0, 0, 0}, Not: true, Values: []firewall.Range{{From: make([]byte, 4), To: make([]byte, 4)}}}), rule(do(firewall.Reject)))}, dropped: "reject"},
	} {
		t.Run(name, func(t *testing.T) {
			p := packet
			if c.packet != nil {
				c.packet(&p)
			}
			if c.mark == 0 {
				c.mark = 1
			}
			res := firewall.Ruleset{Chains: c.chains, Sets: c.sets}.Walk(firewall.Prerouting, p)
			if (res.Dropped == "") != (c.dropped == "") || !strings.Contains(res.Dropped, c.dropped) {
				t.Errorf("dropped by %q, want %q", res.Dropped, c.dropped)
			}
			if c.to == "" {
				c.to = netip.AddrPortFrom(p.Dst, p.DstPort).String()
			}
			if have := netip.AddrPortFrom(res.Packet.Dst, res.Packet.DstPort).String(); have != c.to {
				t.Errorf("goes to %s, want %s", have, c.to)
			}
			var others []string
			for _, o := range res.Others {
				others = append(others, o.String())
			}
			if d := cmp.Diff(c.others, others, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("others (-want +have):\n%s", d)
			}
			if len(res.Unread) != c.unread || res.Packet.Mark != c.mark {
				t.Errorf("unread %q, mark %#x; want %d and %#x", res.Unread, res.Packet.Mark, c.unread, c.mark)
			}
		})
	}
}

func nat(priority int, rules ...firewall.Rule) firewall.Chain {
	c := base(priority, rules...)
	c.Type = "nat"
	return c
}
