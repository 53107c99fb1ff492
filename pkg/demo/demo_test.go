package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/topology"
)

func networks() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}
}

// underlay makes a topology to probe in, without daemons.
func underlay(t *testing.T, nodes int) *topology.Topology {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("named network namespaces need root")
	}
	made, err := topology.New(topology.Options{
		Name: fmt.Sprintf("wd-%08x-t", rand.Uint32()), Dir: t.TempDir(), Nodes: nodes,
		Underlay: Options{Networks: networks()}.underlay(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := made.Down(); err != nil {
			t.Error(err)
		}
	})
	return made
}

// serve serves pages of a place on all of its addresses until the test ends.
func serve(t *testing.T, at *topology.Namespace, name string) {
	t.Helper()
	listeners, err := listenAll(at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- topology.ServePages(ctx, name, listeners...) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestTryFindsEachFault(t *testing.T) {
	t.Parallel()
	net := underlay(t, 2)
	from, to := &net.Nodes[0].Namespace, &net.Nodes[1].Namespace
	serve(t, to, to.Name)
	serve(t, net.Outside, "somebody else")
	nobody := netip.MustParseAddr("192.168.77.99")
	for i, family := range []string{"IPv4", "IPv6"} {
		cases := map[string]struct {
			way  way
			want fault
		}{
			"all is well":          {way{from: from, source: from.Addrs[i], to: to, addr: to.Addrs[i], seen: from.Addrs[i]}, passed},
			"any client's address": {way{from: from, to: to, addr: to.Addrs[i]}, passed},
			"nobody there":         {way{from: from, to: to, addr: nobody}, noPing},
			"no server":            {way{from: to, to: from, addr: from.Addrs[i]}, noPage},
			"another's page":       {way{from: from, to: net.Outside, addr: net.Outside.Addrs[i]}, noPage},
			"another source":       {way{from: from, to: to, addr: to.Addrs[i], seen: net.Outside.Addrs[i]}, addrNAT},
		}
		for name, c := range cases {
			t.Run(family+" "+name, func(t *testing.T) {
				have := c.way.try(t.Context())
				if have.fault != c.want || (have.err != nil) != (c.want != passed) {
					t.Fatalf("want fault %q, have %q: %v", c.want, have.fault, have.err)
				}
				if c.want == passed && (have.mtu != 1500 || have.rtt <= 0 || have.source != from.Addrs[i]) {
					t.Errorf("want 1500 bytes from %s, have %+v", from.Addrs[i], have)
				}
			})
		}
	}
}

func TestTryFindsAnMTUThatDoesNotPass(t *testing.T) {
	t.Parallel()
	net := underlay(t, 2)
	from, to := &net.Nodes[0].Namespace, &net.Nodes[1].Namespace
	serve(t, to, to.Name)
	// The bridge drops what is larger than the port that it has to leave by,
	// and no interface at the two ends can know.
	middle := topology.Namespace{Name: strings.TrimSuffix(from.Name, "-1") + "-underlay"}
	err := middle.Do(func() error {
		port, err := netlink.LinkByName("node2")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(port, 1400)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range to.Addrs {
		if have := (way{from: from, to: to, addr: to.Addrs[i]}).try(t.Context()); have.fault != noMTU {
			t.Errorf("want fault %q, have %q: %v", noMTU, have.fault, have.err)
		}
	}
}

func TestWaysAreTriedUntilTheNetworkHasSettled(t *testing.T) {
	t.Parallel()
	net := underlay(t, 2)
	var out strings.Builder
	c := &cluster{out: &printer{out: &out}}
	from, to := &net.Nodes[0].Namespace, &net.Nodes[1].Namespace
	ways := []way{{from: from, to: to, addr: to.Addrs[0]}}

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if have := c.goWays(over, t.Context(), "", ways)[0]; have.fault != noPage {
		t.Fatalf("settled before the server came: want fault %q, have %q", noPage, have.fault)
	}

	// The first page is another's.
	listeners, err := listenAll(to)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page := topology.Page{Name: "somebody else"}
		if asked.Add(1) > 1 {
			page.Name = to.Name
		}
		_ = json.NewEncoder(w).Encode(page)
	})}
	t.Cleanup(func() { _ = server.Close() })
	for _, l := range listeners {
		go func() { _ = server.Serve(l) }()
	}
	if have := c.goWays(t.Context(), t.Context(), "late", ways)[0]; have.fault != passed {
		t.Errorf("the page came late: %s: %v", have.fault, have.err)
	}
	if !strings.Contains(out.String(), ", 1 of them not at the first try") {
		t.Errorf("the second try was not told:\n%s", &out)
	}
}

func TestUntilReadyWaitsForTheDaemon(t *testing.T) {
	t.Parallel()
	node := underlay(t, 1).Nodes[0]
	daemon, err := node.Start(exec.Command("/bin/sh", "-c", "exec sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	health, err := node.Listen(netip.MustParseAddrPort("127.0.0.1:10248"))
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "no lease yet", http.StatusServiceUnavailable)
		}
	})}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(health) }()

	if err := untilReady(t.Context(), node, daemon); err != nil {
		t.Fatal(err)
	}
	if have := asked.Load(); have != 3 {
		t.Errorf("want ready at the third question, have %d", have)
	}

	asked.Store(-1 << 30)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("not ready in time"))
	defer cancel()
	err = untilReady(ctx, node, daemon)
	for _, want := range []string{"not ready in time", "no lease yet"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in the error, have %v", want, err)
		}
	}
}

func TestUntilReadyNoticesAnEnd(t *testing.T) {
	t.Parallel()
	node := underlay(t, 1).Nodes[0]
	daemon, err := node.Start(exec.Command("/bin/sh", "-c", "exit 4"))
	if err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if err := untilReady(t.Context(), node, daemon); !errors.As(err, &status) || status.ExitCode() != 4 {
		t.Errorf("want exit status 4, have %v", err)
	}
}

func TestRunRefusesOptionsThatCannotWork(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{weftd, plugin} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	v4, v6 := networks()[0], networks()[1]
	good := Options{
		Name: "wd-never", Bin: bin, State: t.TempDir(), Nodes: 1, Pods: 1, Networks: networks(), Out: io.Discard,
	}
	cases := map[string]func(*Options){
		"no pods":               func(o *Options) { o.Pods = 0 },
		"more pods than names":  func(o *Options) { o.Pods = 27 },
		"no network":            func(o *Options) { o.Networks = nil },
		"two of one family":     func(o *Options) { o.Networks = []netip.Prefix{v4, v4} },
		"families out of order": func(o *Options) { o.Networks = []netip.Prefix{v6, v4} },
		"programs not built":    func(o *Options) { o.Bin = t.TempDir() },
		"no nodes":              func(o *Options) { o.Nodes = 0 },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			o := good
			spoil(&o)
			if err := Run(t.Context(), o); err == nil {
				t.Error("the options were taken")
			}
		})
	}
	if err := good.validate(); err != nil && os.Geteuid() == 0 {
		t.Errorf("the options that the cases spoil are not good: %v", err)
	}
}

// A daemon that can't start shows all that surrounds it: the log's end is
// printed, the node is named, and nothing is left.
func TestRunWithABrokenDaemonSaysSoAndLeavesNothing(t *testing.T) {
	t.Parallel()
	o, out := brokenDemo(t)
	err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), o.Name+"-1") {
		t.Errorf("want an error that names the node, have %v", err)
	}
	if !strings.Contains(out.String(), "cannot do that") {
		t.Errorf("the log's end was not printed:\n%s", out)
	}
	wantGone(t, o)
}

func TestKeptDemoStaysUntilDown(t *testing.T) {
	t.Parallel()
	o, out := brokenDemo(t)
	o.Keep = true
	if err := Run(t.Context(), o); err == nil {
		t.Error("a broken daemon gave no error")
	}
	if names, err := topology.Find(o.Name); err != nil || len(names) != 4 {
		t.Errorf("want four namespaces kept, have %v, %v", names, err)
	}
	if !strings.Contains(out.String(), o.downCommand()) {
		t.Errorf("the command that removes it was not printed:\n%s", out)
	}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), o.downCommand()) {
		t.Errorf("second run: want an error with the command that helps, have %v", err)
	}
	if err := Down(o); err != nil {
		t.Error(err)
	}
	wantGone(t, o)
}

func TestInterruptedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	o, _ := brokenDemo(t)
	o.Keep = true // an interrupt goes before it
	sleeper := "#!/bin/sh\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(o.Bin, weftd), []byte(sleeper), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	o.Out = writerFunc(func(b []byte) (int, error) {
		if strings.Contains(string(b), "weftd on") { // the daemons run, and are waited for
			interrupt()
		}
		return len(b), nil
	})
	o.Terminal = true // where steps are told as they begin
	if err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("want context.Canceled, have %v", err)
	}
	wantGone(t, o)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// brokenDemo has a weftd that says a word and ends.
func brokenDemo(t *testing.T) (Options, *strings.Builder) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("named network namespaces need root")
	}
	bin := t.TempDir()
	script := "#!/bin/sh\necho cannot do that\nexit 1\n"
	for _, name := range []string{weftd, plugin} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	out := new(strings.Builder)
	o := Options{
		Name: fmt.Sprintf("wd-%08x-t", rand.Uint32()), Bin: bin, State: filepath.Join(t.TempDir(), "state"),
		Nodes: 2, Pods: 1, Networks: networks(), Out: out,
	}
	t.Cleanup(func() {
		if err := topology.Clean(o.Name, o.State); err != nil {
			t.Error(err)
		}
	})
	return o, out
}

func wantGone(t *testing.T, o Options) {
	t.Helper()
	names, err := topology.Find(o.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		t.Errorf("namespaces are left: %s", names)
	}
	if _, err := os.Stat(o.State); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory: want it gone, have %v", err)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "flannel") || l.Name == "cni0" {
			t.Errorf("link %s stands in the host's namespace", l.Name)
		}
	}
}
