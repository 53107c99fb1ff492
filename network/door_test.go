package network

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/network/tunnel"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// filtered is a node that has the filter of the name, and one peer.
func filtered(t *testing.T, f tunnel.Filter, run func(*bench)) {
	t.Helper()
	inBubble(t, func(b *bench) {
		b.tune = func(o *Options) { o.Tunnel = TunnelOptions{Filter: f, Untrack: true} }
		b.server.SetConfig([]byte(config1))
		b.peer(2, peerMAC)
		run(b)
	})
}

// chain wants each word in the line about a chain, and no chain where there are none.
func (b *bench) chain(chain string, words ...string) {
	b.t.Helper()
	for line := range strings.Lines(b.kernel.Dump()) {
		if !strings.HasPrefix(line, "chain ip weft "+chain+" ") {
			continue
		}
		for _, w := range words {
			if !strings.Contains(line, w) {
				b.t.Errorf("%s has no %q: %s", chain, w, line)
			}
		}
		if len(words) == 0 {
			b.t.Errorf("want no %s, have %s", chain, line)
		}
		return
	}
	if len(words) > 0 {
		b.t.Errorf("there is no chain %s:\n%s", chain, b.kernel.Dump())
	}
}

func TestTheDoorIsOpenedAtTheEnd(t *testing.T) {
	filtered(t, tunnel.Strict, func(b *bench) {
		b.start()
		b.ready(true, "")
		b.chain("tunnel-input", "counter drop")
		b.chain("tunnel-prerouting", "notrack", "counter drop")
		b.stop()
		b.chain("tunnel-input")
		b.chain("tunnel-prerouting", "notrack")
		if dump := b.kernel.Dump(); strings.Contains(dump, "counter drop") {
			t.Errorf("something is still shut:\n%s", dump)
		}
		b.start()
		b.chain("tunnel-input", "counter drop")
		b.stop()
	})
}

// Until the store speaks, new peers would be shut out: nothing is closed, and what a
// process before has closed stays as it is.
func TestTheDoorIsClosedByTheStoreAlone(t *testing.T) {
	filtered(t, tunnel.Strict, func(b *bench) {
		b.start()
		b.settle(10 * time.Second)
		b.stop()
		b.client.Cut()
		b.kernel = b.kernel.Restarted()
		b.start()
		b.ready(true, "")
		b.chain("tunnel-input")
		b.client.Heal()
		b.settle(30 * time.Second)
		b.chain("tunnel-input", "counter drop")
		b.stop()
	})
}

func TestFirewallsTurnUntrackingOff(t *testing.T) {
	filtered(t, tunnel.VTEPOnly, func(b *bench) {
		b.start()
		b.chain("tunnel-output", "notrack")
		const clause = "ip filter INPUT drops by its policy"
		b.kernel.SetFirewall(ruleset.Facts{Stateful: []string{clause}})
		b.node.onFacts()
		b.settle(time.Second)
		b.chain("tunnel-output")
		b.chain("tunnel-prerouting", "counter drop")
		if s := b.node.Status().Tunnel; s.Untracked || !strings.Contains(s.Reason, clause) || s.Filter != "vtep-only" {
			t.Errorf("status %+v", s)
		}
		b.kernel.SetFirewall(ruleset.Facts{})
		b.node.onFacts()
		b.settle(time.Second)
		b.chain("tunnel-output", "notrack")
		b.stop()
	})
}

func TestPeersHaveElements(t *testing.T) {
	for f, want := range map[tunnel.Filter][]string{
		tunnel.Strict: {
			"element ip weft inner24 { 192.168.77.2 . 10.42.2.0 }", "element ip weft vteps { 192.168.77.2 . 192.168.77.2 }",
		},
		tunnel.Off: {"element ip weft vteps { 192.168.77.2 . 192.168.77.2 }"},
	} {
		filtered(t, f, func(b *bench) {
			elements := func() (out []string) {
				for line := range strings.Lines(b.kernel.Dump()) {
					if strings.HasPrefix(line, "element") {
						out = append(out, strings.TrimSpace(line))
					}
				}
				return out
			}
			b.start()
			if have := elements(); !slices.Equal(want, have) {
				t.Errorf("%s: have %q", f, have)
			}
			b.kernel.SetFirewall(ruleset.Facts{NoNFTables: true})
			b.stop()
			b.kernel = b.kernel.Restarted()
			b.start()
			b.settle(time.Minute)
			if have := elements(); len(have) > 0 {
				t.Errorf("%s, without nf_tables: have %q", f, have)
			}
			b.stop()
		})
	}
}

// A peer with a subnet of another length is let in as well.
func TestLengthsOfSubnets(t *testing.T) {
	d := door{wish: TunnelOptions{Filter: tunnel.Strict}, table: "weft", devices: []tunnel.Device{{Port: 8472, VNI: 1}}}
	first := d.fragments(true, true)
	if again := d.fragments(true, true); &again[0] != &first[0] {
		t.Error("rules are made anew for nothing")
	}
	d.devices[0].Learn(26)
	next := d.fragments(true, true)
	if slices.Equal(next, first) || len(next) != 1 {
		t.Error("a new length makes no difference")
	}
	if none := d.fragments(false, true); none != nil {
		t.Errorf("before the store has spoken: %v", maps.Collect(slices.All(none)))
	}
}
