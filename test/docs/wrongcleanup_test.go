package docs

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
)

// refusedByCleanup are the reasons for which weftctl cleanup removes nothing.
func refusedByCleanup(t *testing.T) []mistake {
	t.Helper()
	all := []struct {
		mistake
		prepare func(*network.Cleanup)
	}{
		{mistake{what: "weftd runs", given: "weftctl cleanup"}, func(c *network.Cleanup) {
			l, err := net.Listen("unix", c.Socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}},
		{
			mistake{what: "the state directory is lost, and the subnet file too", given: "weftctl cleanup"},
			func(*network.Cleanup) {},
		},
		{
			mistake{what: "the state directory is lost, and the subnet file damaged", given: "weftctl cleanup"},
			func(c *network.Cleanup) {
				if err := os.WriteFile(c.SubnetFile, []byte("FLANNEL_NETWORK=10.42.0.0/16\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	var out []mistake
	for _, m := range all {
		dir, err := os.MkdirTemp("", "w") //nolint:usetesting // t.TempDir is too long for the path of a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		c := network.Cleanup{
			Kernel: marked(t), Backends: map[string]backend.Backend{"vxlan": vxlan.New()},
			SubnetFile: filepath.Join(dir, "subnet.env"), StateDir: filepath.Join(dir, "state"),
			Socket: filepath.Join(dir, "weftd.sock"),
		}
		m.prepare(&c)
		_, err = c.Run(t.Context())
		if err == nil {
			t.Fatalf("%s: no mistake", m.what)
		}
		usual := strings.NewReplacer(filepath.Join(dir, "weftd.sock"), "/run/weft/weftd.sock",
			c.SubnetFile, "/run/flannel/subnet.env", c.StateDir, "/var/lib/weft")
		m.answer = usual.Replace(err.Error())
		out = append(out, m.mistake)
	}
	return out
}

// marked is a kernel with a route of weft's.
func marked(t *testing.T) *fake.Kernel {
	t.Helper()
	k := fake.New()
	domain := dataplane.Domain{Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}
	if _, err := k.Observe(t.Context(), dataplane.Scope{Domain: domain}); err != nil {
		t.Fatal(err)
	}
	key := dataplane.RouteKey{Prefix: netip.MustParsePrefix("10.42.2.0/24")}
	for _, err := range k.Apply(t.Context(), dataplane.Plan{Ops: []dataplane.Op{
		{Verb: dataplane.Create, Kind: dataplane.KindRoute, Key: key, New: dataplane.Route{Blackhole: true}},
	}}) {
		t.Fatal(err)
	}
	return k
}
