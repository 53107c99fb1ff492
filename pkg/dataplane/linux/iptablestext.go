package linux

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// maxXtComment is what the comment match holds without its zero (xt_comment.h).
const maxXtComment = 255

// ruleText is what follows `-A CHAIN ` in the line that `iptables -S` prints for
// the rule, which is what iptables-restore reads as well.
func ruleText(ipv6 bool, r ruleset.Rule) (string, error) {
	var b strings.Builder
	for _, side := range []struct {
		match ruleset.Match
		flag  string
	}{{r.Src, "-s"}, {r.Dst, "-d"}} {
		p := side.match.Prefix
		if !p.IsValid() {
			continue
		}
		if p.Addr().Is6() != ipv6 {
			return "", fmt.Errorf("rule %q: %s is of the other address family than its table", r, p)
		}
		if side.match.Not {
			b.WriteString("! ")
		}
		fmt.Fprintf(&b, "%s %s ", side.flag, p.Masked())
	}
	if r.Tunnel != (ruleset.Tunnel{}) {
		return "", fmt.Errorf("rule %q: only nftables has the sets that it looks into", r)
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, "-m mark --mark %#x/%#x ", r.Mark&r.Mask, r.Mask)
	}
	comment, err := commentText(r.Comment)
	if err != nil {
		return "", fmt.Errorf("rule %q: %w", r, err)
	}
	b.WriteString(comment)
	switch r.Verdict {
	case ruleset.Accept, ruleset.Return, ruleset.Drop:
		b.WriteString("-j " + strings.ToUpper(string(r.Verdict)))
	case ruleset.Masquerade:
		b.WriteString("-j MASQUERADE")
	case ruleset.MasqueradeFullyRandom:
		b.WriteString("-j MASQUERADE --random-fully")
	default:
		return "", fmt.Errorf("rule %q: verdict %q can't be written", r, r.Verdict)
	}
	return b.String(), nil
}

// jumpText is the rule of a built-in chain that sends all packets to a chain.
func jumpText(chain, comment string) (string, error) {
	c, err := commentText(comment)
	return c + "-j " + chain, err
}

// commentText ends with a blank unless it is empty.
func commentText(comment string) (string, error) {
	switch {
	case comment == "":
		return "", nil
	case len(comment) > maxXtComment || strings.ContainsFunc(comment, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("its comment is longer than %d bytes or has control characters", maxXtComment)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(comment)
	return `-m comment --comment "` + quoted + `" `, nil
}

// parseRuleText reads back what ruleText writes, in whatever order an iptables
// prints it. What says anything else is a rule with verdict Unknown.
func parseRuleText(s string) ruleset.Rule {
	var r ruleset.Rule
	words, ok := splitWords(s)
	for ok && len(words) > 0 {
		words, ok = takeOption(&r, words)
	}
	if !ok || r.Verdict == "" {
		return ruleset.Rule{Verdict: ruleset.Unknown}
	}
	return r
}

// takeOption puts the first option of a rule into r and gives what follows it.
func takeOption(r *ruleset.Rule, words []string) (rest []string, ok bool) {
	if words[0] == "--random-fully" && r.Verdict == ruleset.Masquerade {
		r.Verdict = ruleset.MasqueradeFullyRandom
		return words[1:], true
	}
	not := words[0] == "!"
	if not {
		words = words[1:]
	}
	if len(words) < 2 {
		return nil, false
	}
	value := words[1]
	switch words[0] {
	case "-s":
		r.Src, ok = parseMatch(value, not, r.Src)
	case "-d":
		r.Dst, ok = parseMatch(value, not, r.Dst)
	default:
		ok = !not && setOption(r, words[0], value)
	}
	return words[2:], ok
}

// setOption knows options that can't be negated here, each once.
func setOption(r *ruleset.Rule, option, value string) (ok bool) {
	once := true
	switch option {
	case "-m":
		ok = value == "mark" || value == "comment"
	case "--comment":
		once = r.Comment == ""
		r.Comment, ok = value, true
	case "--mark":
		once = r.Mask == 0
		r.Mark, r.Mask, ok = parseMark(value)
	case "-j":
		once = r.Verdict == ""
		r.Verdict, ok = targets()[value]
	}
	return ok && once
}

func targets() map[string]ruleset.Verdict {
	return map[string]ruleset.Verdict{
		"ACCEPT": ruleset.Accept, "RETURN": ruleset.Return, "DROP": ruleset.Drop, "MASQUERADE": ruleset.Masquerade,
	}
}

func parseMatch(s string, not bool, before ruleset.Match) (ruleset.Match, bool) {
	p, err := netip.ParsePrefix(s)
	return ruleset.Match{Prefix: p, Not: not}, err == nil && p == p.Masked() && !before.Prefix.IsValid()
}

// parseMark reads "0x4000/0x4000"; without a mask all bits count.
func parseMark(s string) (mark, mask uint32, ok bool) {
	value, bits, masked := strings.Cut(s, "/")
	if !masked {
		bits = "0xffffffff"
	}
	v, err := strconv.ParseUint(value, 0, 32)
	m, maskErr := strconv.ParseUint(bits, 0, 32)
	return uint32(v), uint32(m), err == nil && maskErr == nil && m != 0 && v&m == v
}

// splitWords splits a line as iptables-restore does: at blanks, except between
// double quotes, with a backslash before what is meant as it stands.
func splitWords(s string) (words []string, ok bool) {
	var word strings.Builder
	inWord, quoted, escaped := false, false, false
	for i := range len(s) {
		c := s[i]
		switch {
		case escaped:
			escaped = false
			word.WriteByte(c)
		case c == '\\' && quoted:
			escaped = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, !quoted && !escaped
}

// parseListing reads what `iptables -S` and iptables-save print of one table: the
// rules of each chain, as they follow `-A CHAIN `.
func parseListing(text string) map[string][]string {
	chains := map[string][]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		command, rest, _ := strings.Cut(line, " ")
		name, rule, _ := strings.Cut(rest, " ")
		switch {
		case strings.HasPrefix(command, ":"):
			name = command[1:]
		case command == "-N" || command == "-P":
		case command == "-A":
			chains[name] = append(chains[name], rule)
			continue
		default:
			continue
		}
		if _, known := chains[name]; !known {
			chains[name] = nil
		}
	}
	return chains
}

// leadsTo tells whether a rule sends packets to a chain.
func leadsTo(rule, chain string) bool {
	words, _ := splitWords(rule)
	for i := range len(words) - 1 {
		if (words[i] == "-j" || words[i] == "-g") && words[i+1] == chain {
			return true
		}
	}
	return false
}

// plainJump gives the comment of a rule that does nothing but send all packets
// to the chain.
func plainJump(rule, chain string) (comment string, ok bool) {
	words, ok := splitWords(rule)
	if ok && len(words) >= 4 && words[0] == "-m" && words[1] == "comment" && words[2] == "--comment" {
		comment, words = words[3], words[4:]
	}
	return comment, ok && len(words) == 2 && words[0] == "-j" && words[1] == chain
}
