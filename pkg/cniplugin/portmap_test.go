package cniplugin

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortmapUndo(t *testing.T) {
	chain := portmapChain("cbr0", "c0ffee")
	if len(chain) != 28 {
		t.Errorf("%q is no name of a chain", chain)
	}
	jump := `-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"c0ffee\"" --dports 80 -j `
	listing := "-P PREROUTING ACCEPT\n-N CNI-HOSTPORT-DNAT\n-N " + chain + "\n-N CNI-DN-0\n" +
		"-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n" + jump + "CNI-DN-0\n" + jump + chain + "\n" +
		"-A " + chain + " -p tcp -j DNAT --to-destination 10.42.1.5:80\n"
	want := "*nat\n-D" + jump[2:] + chain + "\n-F " + chain + "\n-X " + chain + "\nCOMMIT\n"
	if d := cmp.Diff(want, portmapUndo(listing, chain)); d != "" {
		t.Error(d)
	}
	if have := portmapUndo(listing, portmapChain("cbr0", "other")); have != "" {
		t.Errorf("have %q", have)
	}
}
