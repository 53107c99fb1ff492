package netnstest_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

func TestNamespacesAreApart(t *testing.T) {
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	a, b := netnstest.New(t), netnstest.New(t)
	var inA, inB []string
	a.Do(func() {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "only-in-a"}}); err != nil {
			t.Fatal(err)
		}
		b.Do(func() { inB = names(t) })
		inA = names(t)
	})
	if diff := cmp.Diff([]string{"lo", "only-in-a"}, inA); diff != "" {
		t.Errorf("links of a (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"lo"}, inB); diff != "" {
		t.Errorf("links of b (-want +have):\n%s", diff)
	}
	after, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = after.Close() }()
	if !before.Equal(after) {
		t.Errorf("the test came back to %s, not to %s", after, before)
	}
}

func TestPathLeadsToTheNamespace(t *testing.T) {
	n := netnstest.New(t)
	h, err := netns.GetFromPath(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if !h.Equal(n.Handle()) {
		t.Errorf("path leads to %s, not to %s", h, n.Handle())
	}
}

func names(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	return out
}
