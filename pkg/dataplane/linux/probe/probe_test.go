package probe_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/linux/probe"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

// pair is two namespaces with a link between, .1 and .2 in both families.
func pair(t *testing.T) (a, b *netnstest.NS) {
	t.Helper()
	a, b = netnstest.New(t), netnstest.New(t)
	a.Exec("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", b.Path())
	for i, ns := range []*netnstest.NS{a, b} {
		host := string(rune('1' + i))
		ns.Exec("ip", "addr", "add", "192.0.2."+host+"/24", "dev", "v0")
		ns.Exec("ip", "addr", "add", "2001:db8::"+host+"/64", "dev", "v0", "nodad")
		ns.Exec("ip", "link", "set", "v0", "up")
	}
	return a, b
}

func TestAnswers(t *testing.T) {
	a, b := pair(t)
	b.Do(func() {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	})
	b.Exec("nft", "add table inet x; add chain inet x i { type filter hook input priority 0; };"+
		"add rule inet x i meta l4proto { tcp, udp } th dport 9 drop; add rule inet x i meta length > 1400 drop")
	for name, c := range map[string]struct {
		proto string
		port  uint16
		size  int
		want  string
	}{
		"an echo":                    {"icmp", 0, 0, "reply"},
		"an echo that is too large":  {"icmp", 0, 1500, ""},
		"a server":                   {"tcp", 80, 0, "connected"},
		"no server":                  {"tcp", 81, 0, "refused"},
		"a port that is dropped":     {"tcp", 9, 0, ""},
		"a datagram that nobody has": {"udp", 81, 0, "refused"},
		"a datagram that is dropped": {"udp", 9, 0, ""},
	} {
		for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
			t.Run(name+" to "+to, func(t *testing.T) {
				t.Parallel()
				f := probe.Flow{Path: a.Path(), Dst: netip.MustParseAddr(to), Proto: c.proto, Port: c.port, Size: c.size}
				s, err := probe.Open(f)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				patience := 10 * time.Second
				if c.want == "" {
					patience = 300 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				have, err := s.Send(ctx)
				if err != nil || have.What != c.want || have.Came() != (c.want != "") {
					t.Errorf("answer %+v, %v; want %q", have, err, c.want)
				}
			})
		}
	}
	for _, ends := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		for port, want := range map[uint16]bool{80: true, 81: true, 9: false} {
			patience := 10 * time.Second
			if !want {
				patience = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			have, err := probe.RawSYN(ctx, probe.Flow{
				Path: a.Path(), Src: netip.MustParseAddr(ends[0]), Dst: netip.MustParseAddr(ends[1]), Proto: "tcp", Port: port,
			})
			cancel()
			if err != nil || have.Came() != want {
				t.Errorf("a finished SYN to %s port %d: %+v, %v", ends[1], port, have, err)
			}
		}
	}
}

// Somebody else has our address: he answers; nobody has it: nobody does.
func TestClaimed(t *testing.T) {
	a, b := pair(t)
	ask := func(ip string, patience time.Duration) string {
		var who string
		a.Do(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			m, err := probe.Claimed(ctx, "v0", netip.MustParseAddr(ip))
			if err != nil {
				t.Error(err)
			}
			who = m.String()
		})
		return who
	}
	if who := ask("192.0.2.1", 500*time.Millisecond); who != "" {
		t.Errorf("%s has our address", who)
	}
	b.Exec("ip", "addr", "add", "192.0.2.1/32", "dev", "v0")
	if who := ask("192.0.2.1", 20*time.Second); who == "" || !strings.Contains(b.Exec("ip", "link", "show", "v0"), who) {
		t.Errorf("%q has our address", who)
	}
}

// What comes is counted before it is dropped, and the table goes with Close.
func TestArrivals(t *testing.T) {
	a, b := pair(t)
	b.Exec("nft", "add table inet x; add chain inet x p { type filter hook prerouting priority -300; policy drop; }")
	b.Do(func() {
		w, err := probe.Watch(8472, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")})
		if err != nil {
			t.Fatal(err)
		}
		a.Do(func() {
			conn, err := net.Dial("udp", "192.0.2.2:8472")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range 3 {
				_, _ = conn.Write([]byte("x"))
			}
		})
		// The packets may wait for the neighbour's answer.
		tick, late := time.NewTicker(5*time.Millisecond), time.After(10*time.Second)
		defer tick.Stop()
		for done := false; !done; {
			have, err := w.Read()
			done = have[netip.MustParseAddr("192.0.2.1")] == 3
			if err != nil || have[netip.MustParseAddr("192.0.2.9")] != 0 {
				t.Fatalf("counted %v, %v", have, err)
			}
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("counted %v", have)
			}
		}
		w.Close()
	})
	if left := b.Exec("nft", "list", "tables"); strings.Contains(left, "weft") {
		t.Errorf("left: %s", left)
	}
}

// An answer that has come counts, though nobody looked before the end. The kernel may
// take its time with one of them, and with the neighbour's.
func TestAnswerThatWaits(t *testing.T) {
	a, _ := pair(t)
	for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
		heard := false
		for end := time.Now().Add(20 * time.Second); !heard && time.Now().Before(end); {
			s, err := probe.Open(probe.Flow{Path: a.Path(), Dst: netip.MustParseAddr(to), Proto: "icmp"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			have, err := s.Send(ctx)
			s.Close()
			if err != nil {
				t.Fatal(err)
			}
			heard = have.What == "reply"
		}
		if !heard {
			t.Errorf("%s was never heard", to)
		}
	}
}
