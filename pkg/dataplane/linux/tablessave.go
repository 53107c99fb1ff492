package linux

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/tables"
	"github.com/weftnet/weft/pkg/tables/firewall"
)

// This file reads rules of iptables-legacy: from its program, which is the only
// one that knows how they are kept.

// spaceLegacy adds the rules of both families, or says that they are not read.
func (k *Kernel) spaceLegacy(ctx context.Context, s *tables.Space) {
	for _, f := range []struct{ file, family, program string }{
		{"/proc/thread-self/net/ip_tables_names", "ip", "iptables-legacy-save"},
		{"/proc/thread-self/net/ip6_tables_names", "ip6", "ip6tables-legacy-save"},
	} {
		var b []byte
		_ = k.ns.do(func() error {
			b, _ = os.ReadFile(f.file) // no such file: no such tables
			return nil
		})
		used := strings.Fields(string(b))
		if len(used) == 0 {
			continue
		}
		out, err := k.run(ctx, "", f.program)
		if err != nil {
			s.Unread = append(s.Unread, fmt.Sprintf("rules of iptables-legacy (tables %s): %v", strings.Join(used, ", "), err))
			continue
		}
		s.Firewall.Chains = append(s.Firewall.Chains, parseSave(f.family, out)...)
	}
}

// parseSave reads what iptables-save prints. What it does not know of a rule is
// kept as unread.
func parseSave(family, text string) (out []firewall.Chain) {
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			if words := strings.Fields(line[1:]); len(words) > 1 {
				out = append(out, savedChain(family, table, words[0], words[1]))
			}
		case strings.HasPrefix(line, "-A "):
			words, ok := splitWords(line)
			if !ok || len(words) < 2 {
				continue
			}
			i := slices.IndexFunc(out, func(c firewall.Chain) bool {
				return c.Name == words[1] && c.Table == savedTable(table)
			})
			if i >= 0 {
				out[i].Rules = append(out[i].Rules, savedRule(family, words[2:]))
			}
		}
	}
	return out
}

func savedTable(table string) string { return "legacy " + table }

// savedChain: a built-in one is hooked in with the priority of its table
// (NF_IP_PRI_*, linux/netfilter_ipv4.h).
func savedChain(family, table, name, policy string) firewall.Chain {
	c := firewall.Chain{
		Family: family, Table: savedTable(table), Name: name, Type: "filter", Drops: policy == "DROP",
	}
	hook, builtin := map[string]firewall.Hook{
		"PREROUTING": firewall.Prerouting, "INPUT": firewall.Input, "FORWARD": firewall.Forward,
		"OUTPUT": firewall.Output, "POSTROUTING": firewall.Postrouting,
	}[name]
	if !builtin || policy == "-" {
		return c
	}
	c.Hook = hook
	c.Priority = map[string]int{"raw": -300, "mangle": -150, "filter": 0, "security": 50}[table]
	if table == "nat" {
		c.Type, c.Priority = "nat", -100
		if hook == firewall.Input || hook == firewall.Postrouting {
			c.Priority = 100
		}
	}
	return c
}

// saved is one rule on its way from words.
type saved struct {
	rule  ruleReader // only its conditions and acts are used
	ipv6  bool
	not   bool
	match string // that was named last, whose the options are
}

func savedRule(family string, words []string) firewall.Rule {
	r := saved{ipv6: family == "ip6"}
	for len(words) > 0 {
		if words[0] == "!" {
			r.not, words = true, words[1:]
			continue
		}
		words = r.option(words)
		r.not = false
	}
	return r.rule.out
}

// option takes one option with its values, and gives the rest.
func (r *saved) option(words []string) []string {
	name := words[0]
	value := ""
	if len(words) > 1 {
		value = words[1]
	}
	if slices.Contains([]string{"--random-fully", "--random", "--persistent"}, name) {
		return words[1:] // they have no value, and decide nothing here
	}
	if !r.test(name, value) && !r.target(name, value) {
		r.rule.unread(name)
		if len(words) > 1 && !strings.HasPrefix(value, "-") && value != "!" {
			return words[2:]
		}
		return words[1:]
	}
	return words[min(2, len(words)):]
}

// test is about the packet. The name of a match says nothing by itself.
func (r *saved) test(name, value string) bool {
	switch name {
	case "-m":
		if r.match = value; value == "statistic" {
			r.rule.out.Conds = append(r.rule.out.Conds, firewall.Cond{Chance: true})
		}
	case "--mode", "--probability", "--every", "--packet": // of statistic
	case "--comment":
		r.rule.out.Comment = value
	default:
		return r.header(name, value)
	}
	return true
}

// header is about addresses, ports, links and what the kernel knows besides.
func (r *saved) header(name, value string) bool {
	switch name {
	case "-s":
		return r.prefix(firewall.SrcAddr, value)
	case "-d":
		return r.prefix(firewall.DstAddr, value)
	case "-i":
		return r.link(firewall.InName, value)
	case "-o":
		return r.link(firewall.OutName, value)
	case "-p":
		return r.protocol(value)
	case "--sport", "--sports", "--source-ports":
		return r.ports(firewall.SrcPort, value)
	case "--dport", "--dports", "--destination-ports":
		return r.ports(firewall.DstPort, value)
	case "--mark": // of connmark as well, which is another mark
		return r.match == "mark" && r.mark(value)
	case "--ctstate", "--state":
		return r.states(value)
	case "--src-type", "--dst-type":
		return r.addrType(name, value)
	}
	return false
}

func (r *saved) prefix(f firewall.Field, value string) bool {
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Addr().Is6() != r.ipv6 {
		return false
	}
	b := p.Masked().Addr().AsSlice()
	r.rule.test(f, ones(p.Bits(), len(b)), r.not, firewall.Range{From: b, To: b})
	return true
}

// link ends in + where any end will do (iptables(8)).
func (r *saved) link(f firewall.Field, value string) bool {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, value)
	if short, ok := strings.CutSuffix(value, "+"); ok {
		b = []byte(short)
	}
	r.rule.test(f, nil, r.not, firewall.Range{From: b, To: b})
	return true
}

func (r *saved) protocol(value string) bool {
	number, known := map[string]byte{
		"icmp": unix.IPPROTO_ICMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP,
		"ipv6-icmp": unix.IPPROTO_ICMPV6, "icmpv6": unix.IPPROTO_ICMPV6,
	}[value]
	if !known {
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return false
		}
		number = byte(n)
	}
	r.rule.test(firewall.L4Proto, nil, r.not, firewall.Range{From: []byte{number}, To: []byte{number}})
	return true
}

// ports are "53", "8000:8010" or several of them.
func (r *saved) ports(f firewall.Field, value string) bool {
	var values []firewall.Range
	for one := range strings.SplitSeq(value, ",") {
		from, to, isRange := strings.Cut(one, ":")
		if !isRange {
			to = from
		}
		lo, errLo := strconv.ParseUint(from, 10, 16)
		hi, errHi := strconv.ParseUint(to, 10, 16)
		if errLo != nil || errHi != nil {
			return false
		}
		values = append(values, port16(uint16(lo), uint16(hi)))
	}
	r.rule.test(f, nil, r.not, values...)
	return true
}

// markOf reads "0x4000/0x4000"; without a mask it is the whole mark.
func markOf(value string) (mark, mask uint32, ok bool) {
	first, second, masked := strings.Cut(value, "/")
	a, err := strconv.ParseUint(first, 0, 32)
	b, errMask := strconv.ParseUint(second, 0, 32)
	if !masked {
		b, errMask = uint64(^uint32(0)), nil
	}
	return uint32(a), uint32(b), err == nil && errMask == nil
}

func (r *saved) mark(value string) bool {
	mark, mask, ok := markOf(value)
	if ok {
		r.rule.test(firewall.FWMark, word32(mask), r.not, firewall.Range{From: word32(mark), To: word32(mark)})
	}
	return ok
}

func (r *saved) states(value string) bool {
	var bits uint32
	for one := range strings.SplitSeq(value, ",") {
		bit, known := map[string]uint32{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}[one]
		if !known {
			return false
		}
		bits |= bit
	}
	r.rule.test(firewall.CtState, word32(bits), !r.not, firewall.Range{From: word32(0), To: word32(0)})
	return true
}

func (r *saved) addrType(name, value string) bool {
	number, known := map[string]uint32{
		"UNICAST": unix.RTN_UNICAST, "LOCAL": unix.RTN_LOCAL, "BROADCAST": unix.RTN_BROADCAST,
	}[value]
	f := firewall.SrcType
	if name == "--dst-type" {
		f = firewall.DstType
	}
	if known {
		r.rule.test(f, nil, r.not, firewall.Range{From: word32(number), To: word32(number)})
	}
	return known
}

// target is what the rule does.
func (r *saved) target(name, value string) bool {
	switch name {
	case "-j", "-g":
		r.jump(name, value)
	case "--reject-with", "--log-prefix", "--log-level", "--nflog-group", "--nflog-prefix":
	case "--to-destination", "--to-source":
		return r.translate(value)
	case "--set-xmark":
		mark, mask, ok := markOf(value)
		r.last().Mark, r.last().Mask = mark, mask
		return ok
	default:
		return false
	}
	return true
}

// last is the act that options after -j speak of.
func (r *saved) last() *firewall.Act {
	if len(r.rule.out.Acts) == 0 {
		r.rule.act(firewall.Act{Kind: firewall.Other})
	}
	return &r.rule.out.Acts[len(r.rule.out.Acts)-1]
}

func (r *saved) jump(name, value string) {
	kind, known := map[string]firewall.Kind{
		"ACCEPT": firewall.Accept, "DROP": firewall.Drop, "REJECT": firewall.Reject, "RETURN": firewall.Return,
		"MASQUERADE": firewall.Masquerade, "DNAT": firewall.DNAT, "SNAT": firewall.SNAT, "MARK": firewall.Mark,
		"LOG": firewall.Other, "NFLOG": firewall.Other, "CT": firewall.Other, "NOTRACK": firewall.Other,
		"TCPMSS": firewall.Other, "CHECKSUM": firewall.Other, "CONNMARK": firewall.Other,
	}[value]
	a := firewall.Act{Kind: kind}
	switch {
	case known:
	case name == "-g":
		a = firewall.Act{Kind: firewall.Goto, Chain: value}
	default:
		a = firewall.Act{Kind: firewall.Jump, Chain: value}
	}
	r.rule.act(a)
}

// translate reads "10.42.2.5:53", "[fd00::5]:53" or an address alone.
func (r *saved) translate(value string) bool {
	a := r.last()
	if ap, err := netip.ParseAddrPort(value); err == nil {
		a.Addr, a.Port = ap.Addr(), ap.Port()
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(value, "[]"))
	a.Addr = addr
	return err == nil
}
