package cniplugin_test

import (
	"encoding/json"
	"net"
	"slices"
	"testing"
)

// Who may send as others, by configuration and CNI_ARGS.
func TestAllowSpoofing(t *testing.T) {
	t.Parallel()
	const kube = "IgnoreUnknown=1;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=router-5;K8S_POD_INFRA_CONTAINER_ID=abc"
	none := map[string]any(nil)
	for name, c := range map[string]struct {
		flannels bool
		allow    any
		args     string
		guarded  bool
	}{
		"nothing is said":              {args: kube, guarded: true},
		"flannel's form":               {flannels: true, args: kube},
		"flannel's form, guarded":      {flannels: true, allow: false, args: kube, guarded: true},
		"all may":                      {allow: true, args: kube},
		"none may":                     {allow: false, args: kube, guarded: true},
		"null":                         {allow: json.RawMessage("null"), args: kube, guarded: true},
		"others may":                   {allow: []string{"default", "vms/web-*", "vms/router-", "router-5"}, args: kube, guarded: true},
		"its namespace may":            {allow: []string{"vms"}, args: kube},
		"it may":                       {allow: []string{"vms/router-5"}, args: kube},
		"its like may":                 {allow: []string{"vms/router-*"}, args: kube},
		"no pod of Kubernetes":         {allow: []string{"vms"}, guarded: true},
		"by argument":                  {args: "WEFT_ALLOW_SPOOFING=true"},
		"by argument, beside others":   {args: kube + ";WEFT_ALLOW_SPOOFING=1"},
		"not by argument":              {args: "WEFT_ALLOW_SPOOFING=false", guarded: true},
		"flannel's form, by argument":  {flannels: true, allow: false, args: "WEFT_ALLOW_SPOOFING=1"},
		"flannel's form, a list":       {flannels: true, allow: []string{"web"}, args: kube, guarded: true},
		"flannel's form, on that list": {flannels: true, allow: []string{"vms"}, args: kube},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6)
			if c.flannels {
				n = n.flannels(none, "cniVersion", "1.0.0")
			}
			if c.allow != nil {
				n = n.with("allowSpoofing", c.allow)
			}
			n.args = c.args
			p, _ := newPod(t, 1)
			r := n.add(p)
			record := attachmentOf(t, n, p)
			if held := slices.Equal(n.guards(), []string{record.HostLink}); record.Guard != c.guarded || held != c.guarded {
				t.Errorf("want %v, record has %v, held are %v", c.guarded, record.Guard, n.guards())
			}
			if status, out := n.check(p, r); status != 0 {
				t.Errorf("CHECK: %s", out)
			}
			n.del(p)
			n.empty()
		})
	}
}

func TestAllowSpoofingIsRefused(t *testing.T) {
	t.Parallel()
	p, _ := newPod(t, 1)
	for allow, words := range map[string]string{
		`"yes"`: "neither true nor false", `1`: "neither true nor false", `["a/b/c"]`: "is not a namespace",
		`[""]`: "is not a namespace", `["/b"]`: "is not a namespace", `["a*"]`: "is not a namespace", `["a/*b"]`: "is not a namespace",
	} {
		newNode(t, ipv4).with("allowSpoofing", json.RawMessage(allow)).refused("ADD", p, 6, "allowSpoofing", words)
	}
	// What another plugin attaches, it can't be kept from.
	newNode(t, ipv4).flannels(map[string]any{"vlan": 7}).with("allowSpoofing", false).
		refused("ADD", p, 7, "allowSpoofing can't be kept", "vlan")
}

// GC takes away guards that nothing else is left of.
func TestGuardsAreCollected(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4).with("mode", "ptp")
	kept, _ := newPod(t, 1)
	n.add(kept)
	lost, _ := newPod(t, 2)
	n.add(lost)
	record := attachmentOf(t, n, lost)
	if err := n.records().Remove(record.Key); err != nil {
		t.Fatal(err)
	}
	n.host.Exec("ip", "link", "del", record.HostLink)
	n.collect(kept)
	if left := n.guards(); !slices.Equal(left, []string{attachmentOf(t, n, kept).HostLink}) {
		t.Errorf("left: %v", left)
	}
	// DEL without a record finds them by the link's name.
	if err := n.records().Remove(attachmentOf(t, n, kept).Key); err != nil {
		t.Fatal(err)
	}
	n.del(kept)
	n.empty()
}

// An address by hand, as Documentation/cni.md shows it, lets a pod send as that.
func TestOneMoreAddress(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4).with("mode", "ptp")
	p, ns := newPod(t, 1)
	r := n.add(p)
	link := attachmentOf(t, n, p).HostLink
	ns.Exec("ip", "addr", "add", "10.42.1.200/32", "dev", "eth0")
	n.host.Exec("ip", "route", "add", "10.42.1.200/32", "dev", link)
	ns.Exec("ip", "route", "add", "192.0.2.1/32", "via", "10.42.1.1", "dev", "eth0", "onlink", "src", "10.42.1.200")
	n.host.Exec("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	n.host.Exec("nft", "add", "element", "netdev", "weft-guard", "own_ip4", "{", link, ".", "10.42.1.200", "}")
	if err := ping(ns, net.IPv4(192, 0, 2, 1)); err != nil {
		t.Error(err)
	}
	if status, out := n.check(p, r); status != 0 {
		t.Errorf("%s", out)
	}
}
