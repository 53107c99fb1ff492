package gather

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

// host makes a root directory with files.
func host(t *testing.T, files map[string]string) Options {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Root: root}
}

func TestCNI(t *testing.T) {
	o := host(t, map[string]string{
		"etc/cni/net.d/20-weft.conflist":  `{"plugins": [{"type": "weft"}, {"type": "portmap"}]}`,
		"etc/cni/net.d/10-calico.conf":    `{"type": "calico"}`,
		"etc/cni/net.d/05-broken.conf":    `{`,
		"etc/cni/net.d/01-notes.txt":      `{"type": "nothing"}`,
		"etc/cni/net.d/00-dir.conf/a.txt": ``,
	})
	want := []doctor.CNI{
		{File: "/etc/cni/net.d/10-calico.conf", Types: []string{"calico"}},
		{File: "/etc/cni/net.d/20-weft.conflist", Types: []string{"weft", "portmap"}},
	}
	if d := cmp.Diff(want, o.cni()); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestNetworkManager(t *testing.T) {
	o := host(t, map[string]string{
		"run/NetworkManager/pid":                           "1",
		"etc/NetworkManager/NetworkManager.conf":           "[keyfile]\nunmanaged-devices=interface-name:cni*;mac:02:00:00:00:00:01",
		"etc/NetworkManager/conf.d/weft.conf":              "# ours\n[keyfile]\nunmanaged-devices+=interface-name:=flannel.1,interface-name:veth*\n",
		"usr/lib/NetworkManager/conf.d/10-other.conf":      "[main]\nplugins=keyfile\n",
		"etc/NetworkManager/system-connections/wired.conf": "unmanaged-devices=interface-name:*",
	})
	want := doctor.NetworkManager{Runs: true, Unmanaged: []string{"cni*", "flannel.1", "veth*"}}
	if d := cmp.Diff(want, o.manager()); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}

func TestNetworkd(t *testing.T) {
	o := host(t, map[string]string{
		"run/systemd/netif/state":                 "",
		"usr/lib/systemd/network/80-vm.network":   "[Match]\nName=ve-* host0\n[Network]\nDHCP=yes\n",
		"etc/systemd/network/10-weft.network":     "[Match]\nName=flannel*\n[Link]\nUnmanaged=yes\n",
		"etc/systemd/network/50-mac.network":      "[Match]\nMACAddress=02:00:00:00:00:01\n",
		"etc/systemd/networkd.conf":               "[Network]\nManageForeignRoutes=yes\n",
		"etc/systemd/networkd.conf.d/weft.conf":   "[Network]\nManageForeignRoutes=no\nManageForeignNextHops=no\n",
		"usr/lib/systemd/network/99-default.link": "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n",
		"etc/systemd/network/10-weft.link":        "[Match]\nOriginalName=flannel*\n[Link]\nMACAddressPolicy=none\n",
	})
	want := doctor.Networkd{Runs: true, KeepsForeign: true, Files: []doctor.NetworkdFile{
		{Path: "/etc/systemd/network/10-weft.network", Names: []string{"flannel*"}, Unmanaged: true},
		{Path: "/usr/lib/systemd/network/80-vm.network", Names: []string{"ve-*", "host0"}},
	}}
	if d := cmp.Diff(want, o.networkd()); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	if d := cmp.Diff([]string{"/usr/lib/systemd/network/99-default.link"}, o.macPolicies()); d != "" {
		t.Errorf("MAC policies (-want +have):\n%s", d)
	}
}

func TestCounters(t *testing.T) {
	o := host(t, map[string]string{
		"stat": "entries  allocs   table_fulls \n00000008  00000001 0000000a\n00000008  00000001 00000002\n",
		"udp": "  sl  local_address rem_address   st tx_queue\n" +
			"  1: 00000000:2118 00000000:0000 07 00000000:00000000\n  2: 0100007F:0035 00000000:0000 07\nnonsense\n",
	})
	if n := tableFulls(o.path("stat")); n != 12 {
		t.Errorf("table_fulls: %d", n)
	}
	if d := cmp.Diff([]uint16{8472, 53}, boundPorts(o.path("udp"))); d != "" {
		t.Errorf("ports (-want +have):\n%s", d)
	}
}

// What was saved of all leases may be older than what was saved of ours.
func TestMembers(t *testing.T) {
	lease := func(id, m string) subnet.Lease {
		return subnet.Lease{ID: id, Shares: []subnet.Share{{
			Subnet: netip.MustParsePrefix("10.42.1.0/24"), Public: netip.MustParseAddr("192.0.2.1"),
			Data: []byte(`{"VNI":1,"VtepMAC":"` + m + `"}`),
		}}}
	}
	own := lease("a", "02:00:00:00:00:01")
	all := []subnet.Lease{lease("a", "02:00:00:00:00:02"), lease("b", "02:00:00:00:00:03")}
	for fromStore, want := range map[bool]mac.Addr{false: {2, 0, 0, 0, 0, 1}, true: {2, 0, 0, 0, 0, 2}} {
		self, peers := members(own, all, fromStore, nil)
		if len(self) != 1 || len(peers) != 1 || self[0].MAC != want || peers[0].Node != "b" {
			t.Errorf("from the store %v: we are %+v, peers %+v", fromStore, self, peers)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("[Match]\nName=a b\n; no\n[Link]\nUnmanaged=yes")
	f.Fuzz(func(t *testing.T, content string) {
		settings(content, func(_, key, value string) {
			if len(key)+len(value) > len(content) {
				t.Errorf("%q gives %q=%q", content, key, value)
			}
		})
	})
}
