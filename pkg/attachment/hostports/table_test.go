package hostports_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/hostports"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

func pod(link, addr string, port uint16) attachment.Attachment {
	return attachment.Attachment{
		Mode: attachment.ModePTP, HostLink: link, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)},
		Ports: []attachment.Port{{Protocol: "tcp", Host: port, Container: 80}},
	}
}

// with runs f with an open Ports, and reads.
func with(t *testing.T, n *netnstest.NS, f func(*hostports.Ports) error) (have hostports.State) {
	t.Helper()
	n.Do(func() {
		p, err := hostports.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := f(p); err != nil {
			t.Error(err)
		}
		if have, err = hostports.Read(); err != nil {
			t.Error(err)
		}
	})
	return have
}

func holds(s hostports.State, all ...attachment.Attachment) bool {
	for _, a := range all {
		if len(s.Missing(a)) > 0 {
			return false
		}
	}
	return s.Whole
}

func TestStateTellsWhatIsMissing(t *testing.T) {
	n := netnstest.New(t)
	a, b := pod("vetha", "10.42.1.5/32", 8080), pod("vethb", "fd00::5/128", 8081)
	nothing := func(*hostports.Ports) error { return nil }
	if with(t, n, nothing).Whole {
		t.Error("whole before there is anything")
	}
	both := func(p *hostports.Ports) error { return errors.Join(p.Add(a), p.Add(b)) }
	if !holds(with(t, n, both), a, b) {
		t.Fatal("ports that were added are missing")
	}
	for _, what := range []string{
		"flush ruleset", "delete table inet weft-hostports", "flush chain inet weft-hostports ports",
		"flush chain inet weft-hostports guard", "insert rule inet weft-hostports ports accept",
		"add rule inet weft-hostports postrouting accept", "flush map inet weft-hostports any4",
		"flush set inet weft-hostports self4", "delete element inet weft-hostports local { vetha }",
	} {
		n.Exec("nft", what)
		if holds(with(t, n, nothing), a, b) {
			t.Errorf("%s: nothing is missing after that", what)
		}
		if !holds(with(t, n, func(p *hostports.Ports) error { return errors.Join(p.Install(), both(p)) }), a, b) {
			t.Errorf("%s: not put right", what)
		}
	}
	n.Exec("nft", "delete element inet weft-hostports any4 { tcp . 8080 }")
	n.Exec("nft", "add element inet weft-hostports any4 { tcp . 8080 : 10.42.1.9 . 80 }")
	have := with(t, n, nothing)
	taken := have.Taken(a)
	if have.Taken(b) != nil || !errors.As(taken, new(*hostports.TakenError)) ||
		!strings.Contains(taken.Error(), "10.42.1.9") {
		t.Errorf("taken: %v", taken)
	}
}

func TestRemoveTells(t *testing.T) {
	n := netnstest.New(t)
	a, b := pod("vetha", "10.42.1.5/32", 8080), pod("vethb", "fd00::5/128", 8081)
	have := with(t, n, func(p *hostports.Ports) error {
		if err := errors.Join(p.Add(a), p.Add(b)); err != nil {
			return err
		}
		for i, want := range []bool{true, false} {
			if removed, err := p.Remove(a); err != nil || removed != want {
				t.Errorf("remove, %d: %v %v", i, removed, err)
			}
		}
		return nil
	})
	if len(have.Missing(a)) != 3 || !holds(have, b) {
		t.Errorf("of the one are missing %v, of the other %v", have.Missing(a), have.Missing(b))
	}
}

// The table stays while ports lead to pods.
func TestClear(t *testing.T) {
	n := netnstest.New(t)
	a := pod("vetha", "10.42.1.5/32", 8080)
	wipe := func(dry, force, wantThere, wantStays bool) {
		t.Helper()
		n.Do(func() {
			there, why, err := hostports.Clear(dry, force)
			if err != nil || there != wantThere || (why != "") != wantStays {
				t.Errorf("clear: %v %q %v", there, why, err)
			}
		})
	}
	wipe(false, false, false, false)
	with(t, n, func(p *hostports.Ports) error { return p.Add(a) })
	wipe(false, false, true, true)
	wipe(true, true, true, false)
	if !holds(with(t, n, func(*hostports.Ports) error { return nil }), a) {
		t.Error("it went")
	}
	with(t, n, func(p *hostports.Ports) error { _, err := p.Remove(a); return err })
	wipe(true, false, true, false)
	wipe(false, false, true, false)
	wipe(false, false, false, false)
	with(t, n, func(p *hostports.Ports) error { return p.Add(a) })
	wipe(false, true, true, false)
	wipe(false, false, false, false)
}
