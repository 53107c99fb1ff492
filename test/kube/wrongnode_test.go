package kube_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet/kube"
)

// What is wrong with our own Node is a reason not to be ready, and one Event on
// the Node; when it is mended the daemon goes on by itself.
func TestAWrongNode(t *testing.T) {
	const dual = `{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"fd09::/48","Backend":{"Type":"vxlan"}}`
	for name, tt := range map[string]struct {
		podCIDR string
		user    map[string]string
		config  string
		want    string // the reason
		event   string // "": none
		mend    func(*testing.T, *cords)
	}{
		"without a podCIDR": {
			want: "lease: acquire a lease: node node-1: podCIDR is not assigned",
			event: "WeftWaitsForPodCIDR: podCIDR is not assigned, weftd waits for it; " +
				"let kube-controller-manager give it, by --allocate-node-cidrs and --cluster-cidr, or set it",
			mend: func(t *testing.T, c *cords) { c.assign(t, "node-1", "10.9.1.0/24") },
		},
		"with one outside of the network": {
			podCIDR: "10.8.1.0/24",
			want: "lease: acquire a lease: node node-1: " +
				"podCIDRs has 10.8.1.0/24, which lies outside of the cluster network 10.9.0.0/16",
			event: "WeftCannotUseNode: podCIDRs has 10.8.1.0/24, which lies outside of the cluster network 10.9.0.0/16; " +
				"mend it, weftd follows",
			mend: func(t *testing.T, c *cords) { c.configure(t, `{"Network":"10.8.0.0/15","Backend":{"Type":"vxlan"}}`) },
		},
		"with one family of two": {
			podCIDR: "10.9.1.0/24", config: dual,
			want: "uplink: interface eth0 has no IPv6 address", // which is looked at first
			mend: func(t *testing.T, c *cords) { c.configure(t, network) },
		},
		"with an overwrite that is no address": {
			podCIDR: "10.9.1.0/24", user: map[string]string{prefix + "public-ip-overwrite": "nat.example.com"},
			want: "lease: acquire a lease: node node-1: " + prefix + `public-ip-overwrite "nat.example.com" is not an address`,
			event: "WeftCannotUseNode: " + prefix +
				`public-ip-overwrite "nat.example.com" is not an address; mend it, weftd follows`,
			mend: func(t *testing.T, c *cords) {
				c.annotate(t, "node-1", map[string]string{prefix + "public-ip-overwrite": "203.0.113.7"})
			},
		},
		"with an address that no interface has": {
			podCIDR: "10.9.1.0/24", user: map[string]string{prefix + "node-public-ip": "203.0.113.7"},
			want: "uplink: public address 203.0.113.7",
			mend: func(t *testing.T, c *cords) {
				c.annotate(t, "node-1", map[string]string{prefix + "node-public-ip": "192.168.77.1"})
			},
		},
		"without a network configuration": {
			podCIDR: "10.9.1.0/24", config: "nothing of the kind",
			want: "uplink: there is no valid network configuration yet; put one into the ConfigMap, or see --net-config-path",
			mend: func(t *testing.T, c *cords) { c.configure(t, network) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := shared.tie(t)
			if tt.podCIDR == "" {
				c.create(t, "node-1")
			} else {
				c.create(t, "node-1", tt.podCIDR)
			}
			c.annotate(t, "node-1", tt.user)
			d := c.serves(t, func(*kube.Options) {
				if tt.config != "" {
					c.configure(t, tt.config)
				}
			})
			d.notReady(t, tt.want)
			var events []string
			if tt.event != "" {
				events = []string{tt.event}
			}
			if diff := gocmp.Diff(events, c.events(t, c.node(t, "node-1"))); diff != "" {
				t.Errorf("Events (-want +have):\n%s", diff)
			}
			eventually(t, "a line in the log", func() error {
				if said := d.warnings(); len(said) == 0 || len(said) > 4 { // however often it was tried
					return fmt.Errorf("have %q", said)
				}
				return nil
			})
			tt.mend(t, c)
			d.until(t, "readiness", serving(0))
		})
	}
}

// notReady waits until a reason is given.
func (d *daemon) notReady(t testing.TB, want string) {
	t.Helper()
	eventually(t, "not to be ready", func() error {
		s := d.Status()
		if s.Ready || !slices.ContainsFunc(s.Reasons, func(r string) bool { return strings.HasPrefix(r, want) }) {
			return fmt.Errorf("want the reason %q, have %q, ready: %v", want, s.Reasons, s.Ready)
		}
		return nil
	})
}

// A name that no Node has is waited for.
func TestANodeThatIsNotThereYet(t *testing.T) {
	c := shared.tie(t)
	d := c.serves(t)
	d.notReady(t, `lease: acquire a lease: get node node-1: nodes "node-1" not found; `+
		"is this the name under which the kubelet registers? set NODE_NAME")
	c.create(t, "node-1", "10.9.1.0/24")
	d.until(t, "readiness", serving(0))
}

// A Node that is deleted under its daemon costs it no peer and no readiness;
// the next one of that name is announced.
func TestOurNodeIsDeleted(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.join(t, "node-2", "10.9.2.0/24", "192.168.77.2")
	d := c.serves(t)
	d.until(t, "node-2 as a peer", serving(1))
	before, announced := d.kernel.Dump(), c.node(t, "node-1").Annotations
	c.remove(t, "node-1")
	eventually(t, "a line in the log", func() error {
		for _, line := range d.warnings() {
			if strings.Contains(line, "node node-1 was deleted") {
				return nil
			}
		}
		return fmt.Errorf("have %q", d.warnings())
	})
	if s := d.Status(); !serving(1)(s) || d.kernel.Dump() != before {
		t.Errorf("something was disturbed: %+v\n%s", s, d.kernel.Dump())
	}
	c.create(t, "node-1", "10.9.1.0/24")
	eventually(t, "the new Node to be announced", func() error {
		if diff := gocmp.Diff(announced, c.node(t, "node-1").Annotations); diff != "" {
			return fmt.Errorf("annotations (-before +now):\n%s", diff)
		}
		return nil
	})
	if s := d.Status(); !serving(1)(s) || d.kernel.Dump() != before {
		t.Errorf("something was disturbed: %+v\n%s", s, d.kernel.Dump())
	}
}
