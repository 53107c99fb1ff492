package topology

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	dualStack    = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")}
	compareAddrs = cmpopts.EquateComparable(netip.Addr{})
)

// uniqueName is one that no other test uses at the same time.
func uniqueName() string { return fmt.Sprintf("wt-%08x-t", rand.Uint32()) }

// needRoot skips where names in /run/netns can't be made.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("named network namespaces need root")
	}
}

func newTopology(t *testing.T, nodes int, underlay ...netip.Prefix) *Topology {
	t.Helper()
	needRoot(t)
	topo, err := New(Options{Name: uniqueName(), Dir: t.TempDir(), Nodes: nodes, Underlay: underlay})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := topo.Down(); err != nil {
			t.Error(err)
		}
	})
	return topo
}

// within gives a context for one probe of something that should answer.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestNodesReachEachOtherAndTheOutside(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 2, dualStack...)
	want := []netip.Addr{netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd77::2")}
	if diff := cmp.Diff(want, topo.Nodes[1].Addrs, compareAddrs); diff != "" {
		t.Errorf("addresses of the second node (-want +have):\n%s", diff)
	}
	hosts := []*Namespace{&topo.Nodes[0].Namespace, &topo.Nodes[1].Namespace, topo.Outside}
	for _, from := range hosts {
		for _, to := range hosts {
			for i := range dualStack {
				p := Ping{From: from.Addrs[i], To: to.Addrs[i], Size: defaultMTU}
				if _, err := from.Ping(within(t, 5*time.Second), p); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestDefaultRouteLeadsToTheOutside(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	node := topo.Nodes[0]
	for i, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var via []netip.Addr
		err := node.Do(func() error {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
			for _, r := range routes {
				addr, _ := netip.AddrFromSlice(r.Gw)
				via = append(via, addr.Unmap())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]netip.Addr{topo.Outside.Addrs[i]}, via, compareAddrs); diff != "" {
			t.Errorf("default route (-want +have):\n%s", diff)
		}
	}
}

func TestUnderlayHasTheAskedMTU(t *testing.T) {
	t.Parallel()
	needRoot(t)
	topo, err := New(Options{Name: uniqueName(), Dir: t.TempDir(), Nodes: 1, Underlay: dualStack, MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := topo.Down(); err != nil {
			t.Error(err)
		}
	})
	iface, err := topo.Nodes[0].Interface(Eth0)
	if err != nil {
		t.Fatal(err)
	}
	if iface.MTU != 9000 {
		t.Errorf("MTU of eth0: want 9000, have %d", iface.MTU)
	}
	p := Ping{To: topo.Outside.Addrs[1], Size: 9000}
	if _, err := topo.Nodes[0].Ping(within(t, 5*time.Second), p); err != nil {
		t.Error(err)
	}
}

func TestNewRefusesOptionsThatCannotWork(t *testing.T) {
	good := Options{Name: "wt-never", Dir: "unused", Nodes: 1, Underlay: dualStack}
	cases := map[string]func(*Options){
		"empty name":              func(o *Options) { o.Name = "" },
		"name with a slash":       func(o *Options) { o.Name = "a/b" },
		"name like a node's":      func(o *Options) { o.Name = "wt-1" },
		"no nodes":                func(o *Options) { o.Nodes = 0 },
		"more nodes than numbers": func(o *Options) { o.Nodes = 201 },
		"no underlay":             func(o *Options) { o.Underlay = nil },
		"underlay too small":      func(o *Options) { o.Underlay = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/25")} },
		"underlay not valid":      func(o *Options) { o.Underlay = []netip.Prefix{{}} },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			o := good
			spoil(&o)
			if _, err := New(o); err == nil {
				t.Errorf("options %+v were taken", o)
			}
		})
	}
	if err := good.validate(); err != nil {
		t.Errorf("the options that the cases spoil are not good: %v", err)
	}
}

func TestNewLeavesWhatIsThereAlone(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	if _, err := New(topo.options); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second topology of the same name: want fs.ErrExist, have %v", err)
	}
	if _, err := topo.Nodes[0].Ping(within(t, 5*time.Second), Ping{To: topo.Outside.Addrs[0]}); err != nil {
		t.Errorf("the first topology was hurt: %v", err)
	}
}

func TestFailedNewLeavesNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	name, file := uniqueName(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A file stands where the directory should be, which shows late: when
	// the underlay and the outside are there already.
	if _, err := New(Options{Name: name, Dir: file, Nodes: 1, Underlay: dualStack}); !errors.Is(err, unix.ENOTDIR) {
		t.Fatalf("directory below a file: want ENOTDIR, have %v", err)
	}
	wantNoNamespace(t, name)
}

func TestHostGetsNamesOnly(t *testing.T) {
	before := hostLinks(t)
	topo := newTopology(t, 1, dualStack...)
	if diff := cmp.Diff(before, hostLinks(t)); diff != "" {
		t.Errorf("links of the host's namespace (-before +with a topology):\n%s", diff)
	}
	names, err := Find(topo.options.Name)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{topo.options.Name + "-1", topo.options.Name + "-outside", topo.options.Name + "-underlay"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("namespaces (-want +have):\n%s", diff)
	}
}

func hostLinks(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

func wantNoNamespace(t *testing.T, name string) {
	t.Helper()
	names, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		t.Errorf("namespaces are left: %s", names)
	}
}
