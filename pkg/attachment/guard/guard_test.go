package guard_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

func sources(link string, m byte) attachment.Sources {
	s := attachment.Sources{Link: link, Addrs: []netip.Addr{
		netip.MustParseAddr("10.42.1.5"), netip.MustParseAddr("fd00::5"), netip.MustParseAddr("fe80::1"),
	}}
	if m > 0 {
		s.MAC = mac.Addr{2, 0, 0, 0, 0, m}
	}
	return s
}

// with runs f with an open Guard, and reads.
func with(t *testing.T, n *netnstest.NS, f func(*guard.Guard) error) (have guard.State) {
	t.Helper()
	n.Do(func() {
		g, err := guard.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if err := f(g); err != nil {
			t.Error(err)
		}
		if have, err = guard.Read(); err != nil {
			t.Error(err)
		}
	})
	return have
}

func TestGuard(t *testing.T) {
	n := netnstest.New(t)
	a, b := sources("vetha", 1), sources("vethb", 0)
	nothing := with(t, n, func(*guard.Guard) error { return nil })
	if nothing.Holds(a) {
		t.Error("held before")
	}
	for _, s := range []attachment.Sources{a, b} {
		n.Exec("ip", "link", "add", s.Link, "type", "veth", "peer", "name", "peer"+s.Link)
		if have := with(t, n, func(*guard.Guard) error { return guard.Put(s) }); !have.Holds(s) {
			t.Errorf("%s is not held", s.Link)
		}
	}
	// Both ways to write it write the same.
	put := n.Exec("nft", "-n", "list", "table", "netdev", "weft-guard")
	n.Exec("nft", "flush ruleset")
	with(t, n, func(g *guard.Guard) error { return errors.Join(g.Renew(a), g.Renew(b)) })
	if d := cmp.Diff(put, n.Exec("nft", "-n", "list", "table", "netdev", "weft-guard")); d != "" {
		t.Errorf("put, and written anew: %s", d)
	}
	for _, what := range []string{
		"flush ruleset", "delete table netdev weft-guard", "flush chain netdev weft-guard direct",
		"flush chain netdev weft-guard sent6", "insert rule netdev weft-guard refused accept",
		"insert rule netdev weft-guard vetha accept", "add rule netdev weft-guard vetha accept",
		"flush chain netdev weft-guard vetha", "delete chain netdev weft-guard vetha", "flush set netdev weft-guard own_mac",
		"delete element netdev weft-guard own_ip4 { vetha . 10.42.1.5 }", "flush set netdev weft-guard own_ip6",
	} {
		n.Exec("nft", what)
		if with(t, n, func(*guard.Guard) error { return nil }).Holds(a) {
			t.Errorf("%s: held, after that", what)
		}
		have := with(t, n, func(g *guard.Guard) error { return errors.Join(g.Renew(a), g.Renew(b)) })
		if !have.Holds(a) || !have.Holds(b) {
			t.Errorf("%s: not held again", what)
		}
	}
	// A further address, by an operator's hand, is left to him.
	n.Exec("nft", "add element netdev weft-guard own_ip4 { vetha . 10.42.1.9 }")
	other := sources("vetha", 9)
	have := with(t, n, func(*guard.Guard) error { return nil })
	if !have.Holds(a) || have.Holds(other) {
		t.Error("with one more address")
	}
	n.Exec("nft", "delete element netdev weft-guard own_ip4 { vetha . 10.42.1.9 }")
}

func TestRemove(t *testing.T) {
	n := netnstest.New(t)
	a, b := sources("vetha", 1), sources("vethb", 0)
	for _, s := range []attachment.Sources{a, b} {
		n.Exec("ip", "link", "add", s.Link, "type", "veth", "peer", "name", "peer"+s.Link)
	}
	for name, remove := range map[string]func(*guard.Guard) error{
		"by its sources":     func(g *guard.Guard) error { return g.Remove(a) },
		"twice":              func(g *guard.Guard) error { return errors.Join(g.Remove(a), g.Remove(a)) },
		"by its link":        func(g *guard.Guard) error { return g.RemoveLink("vetha") },
		"by its link, twice": func(g *guard.Guard) error { return errors.Join(g.RemoveLink("vetha"), g.RemoveLink("vetha")) },
		"when a part is gone": func(g *guard.Guard) error {
			n.Exec("nft", "delete chain netdev weft-guard vetha")
			return g.Remove(a)
		},
		"when another part is gone": func(g *guard.Guard) error {
			n.Exec("nft", "delete element netdev weft-guard own_ip4 { vetha . 10.42.1.5 }")
			return g.Remove(a)
		},
		"when all is gone": func(g *guard.Guard) error {
			n.Exec("nft", "flush ruleset")
			return errors.Join(g.Remove(a), g.RemoveLink("vetha"), guard.Put(b))
		},
	} {
		with(t, n, func(g *guard.Guard) error { return errors.Join(g.Renew(a), g.Renew(b)) })
		have := with(t, n, remove)
		if links := have.Links(); len(links) != 1 || links[0] != "vethb" || !have.Holds(b) {
			t.Errorf("%s: left: %v", name, links)
		}
	}
	// Since Linux 6.16 a chain may wait for its link.
	left := with(t, n, func(*guard.Guard) error {
		if err := guard.Put(sources("vethc", 1)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	})
	t.Logf("of a link that is not there: %v", left.Links())
	n.Do(func() {
		for i, want := range []bool{true, true, false, false} {
			if there, err := guard.Clear(i == 0 || i == 3); err != nil || there != want {
				t.Errorf("clear, %d: %v, %v", i, there, err)
			}
		}
	})
}
