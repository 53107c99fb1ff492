package demo

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/topology"
)

// shown compares with a file under testdata. Escape sequences are spelled out
// there, so that a diff can be read.
func shown(t *testing.T, name, have string) {
	t.Helper()
	have = strings.NewReplacer("\x1b", `\e`, "\r", `\r`).Replace(have)
	golden.File(t, filepath.Join("testdata", name), have)
}

func TestNodesTable(t *testing.T) {
	rows := []nodeRow{
		{
			node: "weft-demo-1", underlay: netip.MustParseAddr("192.168.77.1"), lease: netip.MustParsePrefix("10.42.7.0/24"),
			device: "flannel.1", mac: "2e:13:b9:65:3e:03", mtu: 1450,
		},
		{
			node: "weft-demo-1", underlay: netip.MustParseAddr("fd77::1"), lease: netip.MustParsePrefix("fd00:42:0:beef::/64"),
			device: "flannel-v6.1", mac: "2e:13:b9:65:3e:04", mtu: 1430,
		},
		{
			node: "weft-demo-12", underlay: netip.MustParseAddr("192.168.77.12"), lease: netip.MustParsePrefix("10.42.131.0/24"),
			device: "flannel.1", mac: "2e:13:b9:65:3e:05", mtu: 1450,
		},
	}
	shown(t, "nodes.txt", nodesTable(rows).render(false))
}

func someFindings() []finding {
	const a, b, c = "weft-demo-1-a", "weft-demo-1-b", "weft-demo-2-a"
	good := func(from, to string, rtt time.Duration) finding {
		return finding{from: from, to: to, rtt: rtt, mtu: 1430, source: netip.MustParseAddr("10.42.7.2")}
	}
	bad := func(from, to string, f fault, err error) finding {
		return finding{from: from, to: to, fault: f, err: err}
	}
	return []finding{
		good(a, b, 31*time.Microsecond), good(a, c, 12345*time.Microsecond),
		bad(b, a, noPing, context.DeadlineExceeded), bad(b, c, noMTU, errors.New("message too long")),
		bad(c, a, noPage, errors.New("connection refused")),
		bad(c, b, addrNAT, errors.New("the server saw 192.168.77.2, not 10.42.9.2")),
	}
}

func TestMatrix(t *testing.T) {
	names := []string{"weft-demo-1-a", "weft-demo-1-b", "weft-demo-2-a"}
	grid := matrix(names, "weft-demo-", someFindings())
	shown(t, "matrix.txt", grid.render(false))
	shown(t, "matrix-colours.txt", grid.render(true))
}

func TestVerdictCountsAndTellsWhatFailed(t *testing.T) {
	var out bytes.Buffer
	c := &cluster{out: &printer{out: &out}}
	err := c.verdict(someFindings())
	if !errors.Is(err, ErrFailed) {
		t.Errorf("want ErrFailed, have %v", err)
	}
	out.WriteString(err.Error() + "\n")
	if err := c.verdict(someFindings()[:2]); err != nil {
		t.Errorf("no check failed, have %v", err)
	}
	shown(t, "verdict.txt", out.String())
}

func TestSentences(t *testing.T) {
	var all []string
	noted := someFindings()[0]
	noted.note = "the node's"
	for _, f := range append(someFindings(), noted) {
		all = append(all, f.sentence())
	}
	shown(t, "sentences.txt", strings.Join(all, "\n")+"\n")
}

func TestHints(t *testing.T) {
	a := hintArgs{
		node: "weft-demo-1", device: "flannel.1", log: "/run/weft-demo/weft-demo-1/weftd.log",
		pod: "weft-demo-1-a", peer: "10.42.9.3",
		ctl: "bin/weftctl", socket: "/run/weft-demo/weft-demo-1/weftd.sock", down: "bin/weftctl demo --down",
	}
	shown(t, "hints.txt", hints(a))
	a.pod, a.peer = "", ""
	shown(t, "hints-without-pods.txt", hints(a))
}

func TestSteps(t *testing.T) {
	for name, terminal := range map[string]bool{"steps.txt": false, "steps-terminal.txt": true} {
		var out bytes.Buffer
		p := &printer{out: &out, terminal: terminal}
		want := errors.New("no such file")
		outcomes := []error{nil, want, context.Canceled}
		for _, outcome := range outcomes {
			have := p.step("start it", func() (string, error) { return "ready after 0.2s", outcome })
			if !errors.Is(have, outcome) {
				t.Errorf("error of the step: want %v, have %v", outcome, have)
			}
		}
		p.done("node weft-demo-1", "eth0")
		shown(t, name, out.String())
	}
}

func TestDaemonArgs(t *testing.T) {
	node := func(name string, addrs ...string) *topology.Node {
		n := &topology.Node{Namespace: topology.Namespace{Name: name}, Dir: "/run/d/" + name}
		for _, a := range addrs {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
		}
		return n
	}
	v4, v6 := netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")
	cases := map[string]struct {
		networks []netip.Prefix
		first    *topology.Node
	}{
		"dual-stack": {[]netip.Prefix{v4, v6}, node("d-1", "192.168.77.1", "fd77::1")},
		"ipv6-only":  {[]netip.Prefix{v6}, node("d-1", "fd77::1")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := Options{Networks: c.networks}
			have := strings.Join(o.daemonArgs(c.first, c.first, true), "\n") + "\n\n" +
				strings.Join(o.daemonArgs(node("d-2"), c.first, false), "\n") + "\n"
			shown(t, "args-"+name+".txt", have)
		})
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for lines, want := range map[int]string{2: "    two\n    three", 9: "    one\n    two\n    three"} {
		if have := tail(path, lines); have != want {
			t.Errorf("last %d lines: want %q, have %q", lines, want, have)
		}
	}
	if have := tail(path+".not", 2); !strings.Contains(have, "no such file") {
		t.Errorf("a log that is not there: have %q", have)
	}
}
