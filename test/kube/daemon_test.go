package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	weftnode "github.com/weftnet/weft/network"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/alloc"
	"github.com/weftnet/weft/backend/hostgw"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/health"
	"github.com/weftnet/weft/subnet/kube"
)

// daemon is a whole node on a fake kernel, whose eth0 has 192.168.77.1.
type daemon struct {
	*weftnode.Node
	kernel *fake.Kernel
	said   *logtest.Hook
}

func (c *cords) daemon(t testing.TB, s *kube.Store, log *logrus.Logger, said *logtest.Hook) *daemon {
	t.Helper()
	d := &daemon{kernel: fake.New(), said: said}
	for _, s := range []dataplane.State{
		{
			Links: map[string]dataplane.Link{"eth0": {MTU: 1500, Up: true}},
			Addrs: map[dataplane.AddrKey]struct{}{{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.77.1/24")}: {}},
		},
		{Routes: map[dataplane.RouteKey]dataplane.Route{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0")}: {Via: netip.MustParseAddr("192.168.77.254"), Link: "eth0"},
		}},
	} {
		if err := d.kernel.Put(s); err != nil {
			t.Fatal(err)
		}
	}
	d.Node = weftnode.New(weftnode.Options{
		Store: s, Kernel: d.kernel, Health: health.New(), Log: log,
		Backends:   map[string]backend.Backend{"vxlan": vxlan.New(), "host-gw": hostgw.New(), "alloc": alloc.New()},
		SubnetFile: filepath.Join(t.TempDir(), "subnet.env"),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d
}

// serves runs the daemon of node-1, with the network configuration in place.
func (c *cords) serves(t testing.TB, change ...func(*kube.Options)) *daemon {
	t.Helper()
	c.configure(t, network)
	log, said := logtest.NewNullLogger()
	return c.daemon(t, c.open(t, c.server.URL(), append(change, logTo(log))...), log, said)
}

// until waits for a status.
func (d *daemon) until(t testing.TB, what string, f func(weftnode.Status) bool) (now weftnode.Status) {
	t.Helper()
	eventually(t, what, func() error {
		if now = d.Status(); !f(now) {
			return fmt.Errorf("have %+v", now)
		}
		return nil
	})
	return now
}

func serving(peers int) func(weftnode.Status) bool {
	return func(s weftnode.Status) bool { return s.Ready && s.Peers == peers }
}

// warnings are the lines of the log above info so far, with their fields in
// the order of their names.
func (d *daemon) warnings() (out []string) {
	for _, e := range d.said.AllEntries() {
		if e.Level > logrus.WarnLevel {
			continue
		}
		line := e.Message
		for _, key := range slices.Sorted(maps.Keys(e.Data)) {
			line += fmt.Sprintf(", %s: %v", key, e.Data[key])
		}
		out = append(out, line)
	}
	return out
}

// events are those on a Node, as "reason: message".
func (c *cluster) events(t testing.TB, of *corev1.Node) (out []string) {
	t.Helper()
	all, err := c.admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + string(of.UID),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all.Items {
		out = append(out, e.Reason+": "+e.Message)
	}
	slices.Sort(out)
	return out
}
