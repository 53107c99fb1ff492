package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
)

// TestBlackhole: one for our own subnet, beside the route to the bridge that
// the pods are on; without the flag it goes.
func TestBlackhole(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.tune = func(o *Options) { o.Blackhole = true }
		b.start()
		b.settle(10 * time.Second)
		b.ready(true, "")
		own := b.node.Status().Node.Subnets[0]
		gateway := netip.PrefixFrom(netip.MustParsePrefix(own).Addr().Next(), 24)
		b.world(dataplane.State{
			Links: map[string]dataplane.Link{"cni0": {MTU: 1450, Up: true}},
			Addrs: map[dataplane.AddrKey]struct{}{{Link: "cni0", Prefix: gateway}: {}},
		})
		b.settle(2 * time.Minute)
		b.ready(true, "")
		dump := b.kernel.Dump()
		if !strings.Contains(dump, "route "+own+" metric 2147483647 ") || strings.Count(dump, "Blackhole:true") != 1 {
			t.Errorf("want a blackhole for %s:\n%s", own, dump)
		}
		b.stop()
		b.tune = nil
		b.start()
		b.settle(10 * time.Second)
		if strings.Contains(b.kernel.Dump(), "Blackhole:true") {
			t.Errorf("still there:\n%s", b.kernel.Dump())
		}
		b.stop()
	})
}
