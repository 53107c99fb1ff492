package network

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestConfigurationIsFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string // parts of the kernel's dump or of subnet.env
		gone   []string
	}{
		"MTU": {
			`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}`,
			[]string{"MTU:1350", "FLANNEL_MTU=1350\n"}, []string{"MTU:1450"},
		},
		"port": {
			`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","Port":4789}}`,
			[]string{"Port:4789"}, []string{"Port:8472"},
		},
		"VNI": {
			`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":7}}`,
			[]string{"link flannel.7", "dev flannel.7", "chain ip weft-7 forward"}, []string{"flannel.1", "chain ip weft "},
		},
		"network enlarged": {
			`{"Network":"10.42.0.0/15","SubnetLen":24,"Backend":{"Type":"vxlan"}}`,
			[]string{"FLANNEL_NETWORK=10.42.0.0/15\n", "ip saddr 10.42.0.0/15 accept"}, []string{"10.42.0.0/16"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.server.SetConfig([]byte(config1))
				b.start()
				defer b.stop()
				b.settle(time.Second)
				lease := b.node.Status().Node.Lease
				b.server.SetConfig([]byte(c.config))
				b.settle(5 * time.Second)
				b.ready(true, "")
				if s := b.node.Status(); s.Node.Lease != lease || s.Store.Refused != "" {
					t.Errorf("lease %s, want %s; refused: %q", s.Node.Lease, lease, s.Store.Refused)
				}
				env, err := os.ReadFile(b.subnetFile())
				if err != nil {
					t.Fatal(err)
				}
				all := b.kernel.Dump() + string(env)
				for _, w := range c.want {
					if !strings.Contains(all, w) {
						t.Errorf("no %q in\n%s", w, all)
					}
				}
				for _, g := range c.gone {
					if strings.Contains(all, g) {
						t.Errorf("%q is still in\n%s", g, all)
					}
				}
				if plan, err := b.node.loop.Plan(b.t.Context()); err != nil || !plan.Empty() {
					t.Errorf("left to do: %v %v", plan, err)
				}
			})
		})
	}
}

// A peer's VNI is announced anew by the peer itself; until then it is left out.
func TestPeersFollowTheVNI(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		l := b.peer(2, peerMAC)
		b.start()
		defer b.stop()
		b.settle(time.Second)
		b.peers(1)
		b.server.SetConfig([]byte(`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":7}}`))
		b.settle(time.Second)
		b.peers(0)
		l.Shares[0].Data = []byte(`{"VNI":7,"VtepMAC":"` + peerMAC + `"}`)
		b.server.Put(l)
		b.settle(time.Second)
		b.peers(1)
	})
}

func TestConfigurationIsRefusedWhole(t *testing.T) {
	for name, c := range map[string]struct{ config, reason string }{
		"another network":        {`{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}`, "drain this node"},
		"another subnet length":  {`{"Network":"10.42.0.0/16","SubnetLen":25,"Backend":{"Type":"vxlan"}}`, "drain this node"},
		"a family more":          {`{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}`, "drain this node"},
		"an unknown backend":     {`{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}`, "udp"},
		"an MTU that is too big": {`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","MTU":100}}`, "MTU"},
		"a VNI out of range":     {`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":99999999}}`, "VNI"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.server.SetConfig([]byte(config1))
				b.peer(2, peerMAC)
				b.start()
				defer b.stop()
				b.settle(time.Second)
				before, writes := b.kernel.Dump(), b.kernel.Writes()
				b.server.SetConfig([]byte(c.config))
				b.settle(5 * time.Second)
				b.ready(true, "")
				if s := b.node.Status(); !strings.Contains(s.Store.Refused, c.reason) {
					t.Errorf("refused %q, want %q", s.Store.Refused, c.reason)
				}
				if after := b.kernel.Dump(); after != before || b.kernel.Writes() != writes {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
				b.server.SetConfig([]byte(config1))
				b.settle(time.Second)
				if s := b.node.Status(); s.Store.Refused != "" {
					t.Errorf("still refused: %s", s.Store.Refused)
				}
			})
		})
	}
}

// After a restart the store's word counts: the old lease does not fit, so a new
// one is taken, and nothing of the old network is left.
func TestRestartTakesAnotherNetwork(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(config1))
		b.start()
		b.settle(10 * time.Second)
		b.server.SetConfig([]byte(`{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}`))
		b.settle(10 * time.Second)
		b.stop()
		b.start()
		b.settle(10 * time.Second)
		b.ready(true, "")
		if s := b.node.Status(); !strings.HasPrefix(s.Node.Lease, "10.99.") {
			t.Errorf("lease %s", s.Node.Lease)
		}
		b.stop()
	})
}

// A claim that the store can't serve doesn't outlive the configuration that it
// was made of.
func TestAMendedConfigurationGivesALease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.SetConfig([]byte(`{"Network":"10.42.0.0/22","SubnetLen":24,"Backend":{"Type":"vxlan"}}`))
		for i, last := range []string{"2", "3", "4"} { // the first subnet is left out
			b.peer(i+1, "02:00:00:00:00:0"+last)
		}
		b.start()
		defer b.stop()
		b.settle(time.Minute)
		b.ready(false, "no free subnet")
		b.server.SetConfig([]byte(config1))
		b.settle(2 * time.Second)
		b.ready(true, "")
	})
}
