package kube_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	weftnode "github.com/weftnet/weft/network"

	"github.com/weftnet/weft/subnet"
)

// What one Node announces harms no other: it is left out, with one line that
// names it and what is wrong, and the kernel is not touched.
func TestAHostileNode(t *testing.T) {
	c := shared.tie(t)
	c.create(t, "node-1", "10.9.1.0/24")
	c.join(t, "node-2", "10.9.2.0/24", "192.168.77.2")
	d := c.serves(t)
	d.until(t, "node-2 as a peer", serving(1))
	c.nextSecond(t)
	before, writes := d.kernel.Dump(), d.kernel.Writes()
	for name, tt := range map[string]struct {
		podCIDR  string
		announce map[string]string
		want     string
	}{
		"a peer's subnet":       {"10.9.2.0/24", nil, "subnet 10.9.2.0/24 overlaps 10.9.2.0/24 of lease node-2:10.9.2.0/24, which came first"},
		"a part of a peer's":    {"10.9.2.128/25", nil, "subnet 10.9.2.128/25 overlaps 10.9.2.0/24 of lease node-2:10.9.2.0/24, which came first"},
		"our subnet":            {"10.9.1.0/24", nil, "subnet 10.9.1.0/24 overlaps our own 10.9.1.0/24"},
		"the cluster's network": {"10.9.0.0/16", nil, "subnet 10.9.0.0/16 is the whole cluster network"},
		"the underlay's":        {"192.168.77.0/24", nil, "subnet 192.168.77.0/24 lies outside of the cluster network 10.9.0.0/16"},
		"the default route":     {"0.0.0.0/0", nil, `podCIDRs has "0.0.0.0/0", which is not a pod subnet`},
		"our address":           {"", map[string]string{"public-ip": "192.168.77.1"}, "public address 192.168.77.1 is our own"},
		"a pod's address":       {"", map[string]string{"public-ip": "10.9.2.7"}, "public address 10.9.2.7 lies inside of the cluster network 10.9.0.0/16"},
		"no address":            {"", map[string]string{"public-ip": "0.0.0.0"}, "public address 0.0.0.0 is the unspecified address"},
		"a loopback address":    {"", map[string]string{"public-ip": "127.0.0.1"}, "public address 127.0.0.1 is a loopback address"},
		"a name":                {"", map[string]string{"public-ip": "localhost"}, prefix + `public-ip "localhost" is not an address`},
		"a MAC of 8 bytes": {
			"", map[string]string{"backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:00:00:09"}`},
			`VtepMAC "02:00:00:00:00:00:00:09" is not a 6-byte Ethernet address`,
		},
		"a multicast MAC": {
			"", map[string]string{"backend-data": `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`},
			"VtepMAC 01:00:5e:00:00:01 is not the address of one station",
		},
		"another VNI": {"", map[string]string{"backend-data": `{"VNI":7,"VtepMAC":"02:00:00:00:00:09"}`}, "VNI is 7, ours is 1"},
		"much data": { // the most that a Node may have is 256 KiB
			"", map[string]string{"backend-data": strings.Repeat("[", 200<<10)},
			prefix + "backend-data is longer than 4096 bytes",
		},
		"another backend": {
			"", map[string]string{"backend-type": "wireguard", "backend-data": `{"PublicKey":"AAAA","Port":51820}`},
			`backend type is "wireguard", ours is "vxlan"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := nodeOf("hostile", "10.9.66.0/24")
			if tt.podCIDR != "" {
				n = nodeOf("hostile", tt.podCIDR)
			}
			n.Annotations = announces("192.168.77.66")
			for key, value := range tt.announce {
				n.Annotations[prefix+key] = value
			}
			said := len(d.warnings())
			if _, err := c.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			leftOut := func(s weftnode.Status) []subnet.Skipped { return slices.Concat(s.Skipped, s.Store.Malformed) }
			s := d.until(t, "it to be left out", func(s weftnode.Status) bool { return len(leftOut(s)) == 1 })
			reason := leftOut(s)[0].Reason
			if out := leftOut(s)[0]; out.Node != "hostile" || out.Field+" "+out.Reason != tt.want {
				t.Errorf("want %q, have %q of %q", tt.want, out.Field+" "+out.Reason, out.Node)
			}
			eventually(t, "a line in the log", func() error {
				lines := d.warnings()[said:]
				if len(lines) != 1 || !strings.Contains(lines[0], "hostile") || !strings.Contains(lines[0], reason) {
					return fmt.Errorf("want one of hostile with %q, have %q", reason, lines)
				}
				return nil
			})
			if !s.Ready || s.Peers != 1 || d.kernel.Dump() != before || d.kernel.Writes() != writes {
				t.Errorf("something was disturbed: %+v, %d writes\n%s", s, d.kernel.Writes()-writes, d.kernel.Dump())
			}
			c.remove(t, "hostile")
			d.until(t, "it to go", func(s weftnode.Status) bool { return len(leftOut(s)) == 0 })
		})
	}
}

// What never comes so far: the API server refuses it.
func TestTheServerRefuses(t *testing.T) {
	c := shared.tie(t)
	for name, change := range map[string]func() error{
		"three podCIDRs": func() error {
			_, err := c.admin.CoreV1().Nodes().Create(t.Context(),
				nodeOf("hostile", "10.9.1.0/24", "10.9.2.0/24", "fd09::/64"), metav1.CreateOptions{})
			return err
		},
		"two podCIDRs of one family": func() error {
			_, err := c.admin.CoreV1().Nodes().Create(t.Context(),
				nodeOf("hostile", "10.9.1.0/24", "10.9.2.0/24"), metav1.CreateOptions{})
			return err
		},
		"a megabyte of JSON": func() error {
			n := nodeOf("hostile", "10.9.1.0/24")
			n.Annotations = maps.Clone(announces("192.0.2.66"))
			n.Annotations[prefix+"backend-data"] = strings.Repeat("[", 1<<20)
			_, err := c.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
			return err
		},
		"another podCIDR": func() error {
			c.create(t, "node-1", "10.9.1.0/24")
			n := c.node(t, "node-1")
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.9.2.0/24", []string{"10.9.2.0/24"}
			_, err := c.admin.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{})
			return err
		},
	} {
		if err := change(); !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			t.Errorf("%s: want it refused, have %v", name, err)
		}
	}
}
