package linux

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func equatePrefixes() cmp.Option { return cmpopts.EquateComparable(netip.Prefix{}) }

func matching(s string, not bool) ruleset.Match {
	return ruleset.Match{Prefix: netip.MustParsePrefix(s), Not: not}
}

// flannel's lines, verbatim.
func flannelLines() map[string]ruleset.Rule {
	masq, fwd := "flanneld masq", "flanneld forward"
	all, own := matching("10.42.0.0/16", false), matching("10.42.1.0/24", false)
	outside := matching("10.42.0.0/16", true)
	return map[string]ruleset.Rule{
		`-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN`: {
			Mark: 0x4000, Mask: 0x4000, Verdict: ruleset.Return, Comment: masq,
		},
		`-s 10.42.1.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN`: {
			Src: own, Dst: all, Verdict: ruleset.Return, Comment: masq,
		},
		`! -s 10.42.0.0/16 -d 10.42.1.0/24 -m comment --comment "flanneld masq" -j RETURN`: {
			Src: outside, Dst: own, Verdict: ruleset.Return, Comment: masq,
		},
		`-s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`: {
			Src: all, Dst: matching("224.0.0.0/4", true), Verdict: ruleset.MasqueradeFullyRandom, Comment: masq,
		},
		`! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE`: {
			Src: outside, Dst: all, Verdict: ruleset.Masquerade, Comment: masq,
		},
		`-s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`: {
			Src: all, Verdict: ruleset.Accept, Comment: fwd,
		},
	}
}

func TestRuleTextIsFlannels(t *testing.T) {
	for want, rule := range flannelLines() {
		have, err := ruleText(false, rule)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(rule, parseRuleText(want), equatePrefixes()); d != "" {
			t.Errorf("%s (-want +have):\n%s", want, d)
		}
	}
	jump, err := jumpText("FLANNEL-POSTRTG", "flanneld masq")
	if d := cmp.Diff(`-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`, jump); d != "" || err != nil {
		t.Error(d, err)
	}
	six := ruleset.Rule{Src: matching("fd00:42::/48", false), Dst: matching("ff00::/8", true), Verdict: ruleset.Drop}
	have, err := ruleText(true, six)
	if d := cmp.Diff(`-s fd00:42::/48 ! -d ff00::/8 -j DROP`, have); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestRulesThatIPTablesCantSay(t *testing.T) {
	for name, rule := range map[string]ruleset.Rule{
		"the other family":       {Src: matching("fd00::/8", false), Verdict: ruleset.Accept},
		"no verdict":             {},
		"unknown":                {Verdict: ruleset.Unknown},
		"a line in the comment":  {Verdict: ruleset.Accept, Comment: "a\nCOMMIT"},
		"a comment of 256 bytes": {Verdict: ruleset.Accept, Comment: strings.Repeat("x", 256)},
	} {
		if text, err := ruleText(false, rule); err == nil {
			t.Errorf("%s: written as %q", name, text)
		}
	}
}

// What iptables may print of the same rule, and of others.
func TestParseRuleText(t *testing.T) {
	accept := func(r ruleset.Rule) ruleset.Rule { r.Verdict = ruleset.Accept; return r }
	unknown := ruleset.Rule{Verdict: ruleset.Unknown}
	for text, want := range map[string]ruleset.Rule{
		`-j ACCEPT`:                                       accept(ruleset.Rule{}),
		`-m comment --comment one -j ACCEPT`:              accept(ruleset.Rule{Comment: "one"}),
		`-m comment --comment "it\'s \"a\" \\" -j ACCEPT`: accept(ruleset.Rule{Comment: `it's "a" \`}),
		`-m comment --comment "-j DROP" -j ACCEPT`:        accept(ruleset.Rule{Comment: "-j DROP"}),
		`-m mark --mark 0x7 -j ACCEPT`:                    accept(ruleset.Rule{Mark: 7, Mask: 0xffffffff}),
		`-m comment --comment c -m mark --mark 0x1/0x3 -j ACCEPT`: accept(ruleset.Rule{
			Mark: 1, Mask: 3, Comment: "c",
		}),
		`-s 10.0.0.1/32 -j ACCEPT`: accept(ruleset.Rule{Src: matching("10.0.0.1/32", false)}),

		"":                                      unknown,
		"!":                                     unknown,
		"-j":                                    unknown,
		"-s":                                    unknown,
		`-j LOG`:                                unknown,
		`-j ACCEPT -j DROP`:                     unknown,
		`-g ACCEPT`:                             unknown,
		`! -j ACCEPT`:                           unknown,
		`-p tcp -j ACCEPT`:                      unknown,
		`-i eth0 -j ACCEPT`:                     unknown,
		`-m mark ! --mark 0x1/0x1 -j ACCEPT`:    unknown,
		`-m mark --mark 0x3/0x1 -j ACCEPT`:      unknown,
		`-m mark --mark x -j ACCEPT`:            unknown,
		`-m mark --mark 1/0 -j ACCEPT`:          unknown,
		`-m conntrack --ctstate NEW -j ACCEPT`:  unknown,
		`-s 10.0.0.0/255.0.255.0 -j ACCEPT`:     unknown,
		`-s 10.0.0.1/24 -j ACCEPT`:              unknown,
		`-s 10.0.0.0/8 -s 11.0.0.0/8 -j ACCEPT`: unknown,
		`-m comment --comment "open -j ACCEPT`:  unknown,
		`--random-fully -j MASQUERADE`:          unknown,
		`-j ACCEPT --random-fully`:              unknown,
		`-j MASQUERADE ! --random-fully`:        unknown,
		`-j MASQUERADE --to-ports 1-2`:          unknown,
		`-m comment --comment a --comment b -j ACCEPT`: unknown,
	} {
		if d := cmp.Diff(want, parseRuleText(text), equatePrefixes()); d != "" {
			t.Errorf("%s (-want +have):\n%s", text, d)
		}
	}
}

func FuzzParseRuleText(f *testing.F) {
	for line := range flannelLines() {
		f.Add(line)
	}
	f.Add(`-m comment --comment "it\'s \"a\" \\" ! -d ff00::/8 -j ACCEPT`)
	f.Fuzz(func(t *testing.T, text string) {
		r := parseRuleText(text)
		if r.Verdict == ruleset.Unknown {
			return
		}
		six := false
		for _, m := range []ruleset.Match{r.Src, r.Dst} {
			six = six || m.Prefix.IsValid() && m.Prefix.Addr().Is6()
		}
		written, err := ruleText(six, r)
		if err != nil {
			return // both families in one rule, or a comment that no iptables prints
		}
		if d := cmp.Diff(r, parseRuleText(written), equatePrefixes()); d != "" {
			t.Errorf("%q becomes %q (-first +second):\n%s", text, written, d)
		}
	})
}

func TestParseListing(t *testing.T) {
	const listing = `# Generated by iptables-save v1.8.9
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING DROP [12:3456]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -j MASQUERADE
COMMIT
# Completed
-P FORWARD ACCEPT
-N OTHER
`
	want := map[string][]string{
		"PREROUTING": nil, "FORWARD": nil, "OTHER": nil,
		"POSTROUTING":     {`-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`},
		"FLANNEL-POSTRTG": {"-s 10.42.0.0/16 -j RETURN", "-j MASQUERADE"},
	}
	if d := cmp.Diff(want, parseListing(listing)); d != "" {
		t.Error(d)
	}
}

func TestJumpsInText(t *testing.T) {
	for rule, want := range map[string]struct {
		leads, plain bool
		comment      string
	}{
		`-j X`:                                   {true, true, ""},
		`-m comment --comment "a b" -j X`:        {true, true, "a b"},
		`-m comment --comment "a b" -p tcp -j X`: {true, false, "a b"},
		`-s 10.0.0.0/8 -j X`:                     {true, false, ""},
		`-g X`:                                   {true, false, ""},
		`-j XY`:                                  {},
		`-m comment --comment "-j X" -j ACCEPT`:  {comment: "-j X"},
		`-m comment --comment "a" -g X`:          {true, false, "a"},
		`-j X --some-option`:                     {true, false, ""},
		`-m comment --comment a -m mark --mark 1 -j X`: {true, false, "a"},
	} {
		comment, plain := plainJump(rule, "X")
		if leads := leadsTo(rule, "X"); leads != want.leads || plain != want.plain || comment != want.comment {
			t.Errorf("%s: leads %v, plain %v, comment %q; want %+v", rule, leads, plain, comment, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]program{
		"iptables v1.8.9 (nf_tables)\n": {engine: ruleset.IPTablesNFT, version: version{1, 8, 9}},
		"iptables v1.8.9 (legacy)":      {engine: ruleset.IPTablesLegacy, version: version{1, 8, 9}},
		"iptables v1.6.1":               {engine: ruleset.IPTablesLegacy, version: version{1, 6, 1}},
		"ip6tables v1.10":               {engine: ruleset.IPTablesLegacy, version: version{1, 10, 0}},
	} {
		have, err := parseVersion(text)
		if err != nil || have != want {
			t.Errorf("%q: %+v, %v", text, have, err)
		}
		if old := text == "iptables v1.6.1"; have.version.randomFully() == old || have.version.restoreWaits() == old {
			t.Errorf("%q: random-fully %v, waits %v", text, have.version.randomFully(), have.version.restoreWaits())
		}
	}
	if p, err := parseVersion("sh: not found"); err == nil {
		t.Errorf("taken as %+v", p)
	}
}

func TestProgramErrors(t *testing.T) {
	failed := os.ErrInvalid
	for said, want := range map[string]string{
		"": "iptables: invalid argument",
		"# Warning: iptables-legacy tables present\niptables v1.8.9: bad rule\n\nTry `iptables -h' for more information.\n": "iptables: " +
			"invalid argument: iptables v1.8.9: bad rule",
		"Another app is currently holding the xtables lock. Stopped waiting after 1s.\n": errLocked.Error(),
	} {
		if d := cmp.Diff(want, programError("iptables", failed, said).Error()); d != "" {
			t.Error(d)
		}
	}
}

// legacyDump is a table as Linux 6.18 on amd64 gave it: ipt_getinfo, then the
// entries.
func legacyDump(t testing.TB, name string) (info, entries []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b[:legacyInfoSize], b[legacyInfoSize:]
}

func TestParseLegacy(t *testing.T) {
	for file, ipv6 := range map[string]bool{"legacy-filter.hex": false, "legacy-filter6.hex": true} {
		info, entries := legacyDump(t, file)
		first, err := layoutOf(ipv6).parse(info, slices.Clone(entries))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if d := cmp.Diff([]string{"FLANNEL-FWD", "THEIRS"}, first.chains); d != "" || !first.drops {
			t.Errorf("%s: drops %v, chains (-want +have):\n%s", file, first.drops, d)
		}
		counted := slices.Clone(entries)
		binary.NativeEndian.PutUint64(counted[layoutOf(ipv6).counters:], 77)
		if again, err := layoutOf(ipv6).parse(info, counted); err != nil || again.digest != first.digest {
			t.Errorf("%s: counters count: %v", file, err)
		}
		changed := slices.Clone(entries)
		changed[0]++ // an address of the first rule
		if again, err := layoutOf(ipv6).parse(info, changed); err != nil || again.digest == first.digest {
			t.Errorf("%s: a change of a rule does not show: %v", file, err)
		}
	}
}

func FuzzParseLegacy(f *testing.F) {
	for _, file := range []string{"legacy-filter.hex", "legacy-filter6.hex"} {
		info, entries := legacyDump(f, file)
		f.Add(info, entries, strings.Contains(file, "6"))
	}
	f.Fuzz(func(t *testing.T, info, entries []byte, ipv6 bool) {
		table, err := layoutOf(ipv6).parse(info, entries)
		if err == nil && len(table.chains)*layoutOf(ipv6).size > len(entries) {
			t.Errorf("%d chains in %d bytes", len(table.chains), len(entries))
		}
	})
}

// It must take whatever it is given.
func FuzzParseJump(f *testing.F) {
	f.Add([]byte{12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Fuzz(func(_ *testing.T, b []byte) { parseJump(b) })
}
