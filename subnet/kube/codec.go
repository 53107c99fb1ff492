package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/subnet"
)

// This file is the only place that knows flannel's annotations: their keys and
// their values, read off flannel v0.28.9. What is written is byte for byte what
// flannel writes.

const defaultPrefix = "flannel.alpha.coreos.com"

// noData is what stands for the data of a backend that has none (host-gw).
const noData = "null"

// typeless is the backend whose name flannel leaves empty. (It does so for udp,
// too, which weft does not have.)
const typeless = "alloc"

// maxValue bounds an annotation that is read, in bytes. flannel's have a
// hundred; the API server allows 256 KiB for all of a Node's.
const maxValue = 4096

// keys are the names of the annotations.
type keys struct {
	managed, backend string
	families         []familyKeys // IPv4 first
}

type familyKeys struct {
	width        int    // bits of an address
	data, public string // what we announce
	overwrite    string // the user's: announce this address, which need not be ours
	local        string // the user's: the same as --public-ip or --public-ipv6
}

// newKeys applies flannel's rule for --kube-annotation-prefix: "a" gives "a/…",
// "a/b" gives "a/b-…".
func newKeys(prefix string) (keys, error) {
	domain, name, slash := strings.Cut(prefix, "/")
	switch {
	case strings.Contains(name, "/"):
		return keys{}, fmt.Errorf("annotation prefix %q has more than one slash; write DOMAIN or DOMAIN/NAME", prefix)
	case domain == "" || strings.ContainsAny(prefix, " \t\r\n"):
		return keys{}, fmt.Errorf("annotation prefix %q is not a DNS name, or one with /NAME behind it", prefix)
	case !slash:
		prefix += "/"
	case name != "" && !strings.HasSuffix(name, "-"):
		prefix += "-"
	}
	return keys{
		managed: prefix + "kube-subnet-manager",
		backend: prefix + "backend-type",
		families: []familyKeys{
			{
				width: 32, data: prefix + "backend-data", public: prefix + "public-ip",
				overwrite: prefix + "public-ip-overwrite", local: prefix + "node-public-ip",
			},
			{
				width: 128, data: prefix + "backend-v6-data", public: prefix + "public-ipv6",
				overwrite: prefix + "public-ipv6-overwrite", local: prefix + "node-public-ipv6",
			},
		},
	}, nil
}

// all lists every key that is read.
func (k keys) all() []string {
	out := []string{k.managed, k.backend}
	for _, f := range k.families {
		out = append(out, f.data, f.public, f.overwrite, f.local)
	}
	return out
}

// node is what is kept of a Node.
type node struct {
	name, uid   string
	born        int64 // creationTimestamp, seconds since 1970
	revision    int64 // resourceVersion
	podCIDRs    []string
	annotations map[string]string // those with our keys
	network     condition         // NetworkUnavailable; only of our own Node
}

// condition is the part of a Node's condition that says something.
type condition struct{ status, reason, message string }

// says tells whether two states of a Node mean the same to us: a heartbeat
// makes no difference.
func (n *node) says(other *node) bool {
	return n.uid == other.uid && n.born == other.born && n.network == other.network &&
		slices.Equal(n.podCIDRs, other.podCIDRs) && equalMaps(n.annotations, other.annotations)
}

func equalMaps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if have, found := b[key]; !found || have != value {
			return false
		}
	}
	return true
}

// created orders Nodes by age, and tells a Node from one that had its name
// before: seconds, and within one second an order that all nodes agree on.
func (n *node) created() int64 {
	const bits = 30 // enough seconds are left until the year 2242
	h := fnv.New64a()
	_, _ = h.Write([]byte(n.uid)) // never fails
	return n.born<<bits | int64(h.Sum64()&(1<<bits-1))
}

// idOf is the ID of a Node's lease. It holds the name, as two Nodes may claim
// one subnet, and the subnets, as equal IDs mean equal subnets.
func idOf(name string, subnets []netip.Prefix) string {
	parts := make([]string, len(subnets))
	for i, p := range subnets {
		parts[i] = p.String()
	}
	return name + ":" + strings.Join(parts, ",")
}

// fieldError says which part of a Node is wrong.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + " " + e.reason }

func badField(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// errNoSubnet is a Node that Kubernetes has given no pod subnet, yet.
var errNoSubnet = errors.New("podCIDR is not assigned")

// subnets gives the pod subnets of a Node, IPv4 first.
func (n *node) subnets() ([]netip.Prefix, error) {
	const field = "podCIDRs"
	switch {
	case len(n.podCIDRs) == 0:
		return nil, errNoSubnet
	case len(n.podCIDRs) > 2:
		return nil, badField(field, "has %d entries: one, or one of each family, is possible", len(n.podCIDRs))
	}
	var out []netip.Prefix
	for _, text := range n.podCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() || p.Bits() == 0 {
			return nil, badField(field, "has %q, which is not a pod subnet", clip(text))
		}
		out = append(out, p.Masked()) // the API server takes 10.9.1.1/24, and flannel as what it means
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	if len(out) == 2 && out[0].Addr().BitLen() == out[1].Addr().BitLen() {
		return nil, badField(field, "has two subnets of one family, %s and %s", out[0], out[1])
	}
	return out, nil
}

// lease reads what a Node announces. managed is false for a Node on which no
// weft and no flannel runs: then there is neither a lease nor an error.
func (k keys) lease(n *node) (l subnet.Lease, managed bool, err error) {
	if n.annotations[k.managed] != "true" {
		return subnet.Lease{}, false, nil
	}
	subnets, err := n.subnets()
	if errors.Is(err, errNoSubnet) {
		err = badField("podCIDR", "is missing")
	}
	if err != nil {
		return subnet.Lease{}, true, err
	}
	l = subnet.Lease{Node: n.name, Created: n.created(), Revision: n.revision}
	if l.Backend, err = k.backendOf(n); err != nil {
		return subnet.Lease{}, true, err
	}
	var announced []netip.Prefix
	for _, p := range subnets {
		f := k.family(p.Addr().BitLen())
		if _, found := n.annotations[f.public]; !found {
			continue // the Node has a subnet of a family that the overlay doesn't
		}
		share := subnet.Share{Subnet: p}
		if share.Public, err = n.address(f.public, f.width); err != nil {
			return subnet.Lease{}, true, err
		}
		if share.Data, err = n.data(f.data); err != nil {
			return subnet.Lease{}, true, err
		}
		l.Shares, announced = append(l.Shares, share), append(announced, p)
	}
	if len(l.Shares) == 0 {
		return subnet.Lease{}, true, badField(k.family(subnets[0].Addr().BitLen()).public, "is missing")
	}
	l.ID = idOf(n.name, announced)
	return l, true, nil
}

func (k keys) backendOf(n *node) (string, error) {
	switch value, found := n.annotations[k.backend]; {
	case !found:
		return "", badField(k.backend, "is missing")
	case value == "":
		return typeless, nil
	case len(value) > maxValue:
		return "", badField(k.backend, "is longer than %d bytes", maxValue)
	default:
		return strings.ToLower(value), nil
	}
}

func (k keys) family(width int) familyKeys {
	if width == 32 {
		return k.families[0]
	}
	return k.families[1]
}

// address reads an annotation that is there.
func (n *node) address(key string, width int) (netip.Addr, error) {
	value := n.annotations[key]
	a, err := netip.ParseAddr(value)
	switch {
	case err != nil || a.Zone() != "":
		return netip.Addr{}, badField(key, "%q is not an address", clip(value))
	case a.BitLen() != width || a.Is4In6():
		return netip.Addr{}, badField(key, "%s is of the wrong family", a)
	}
	return a, nil
}

// data reads an annotation that may be absent.
func (n *node) data(key string) (json.RawMessage, error) {
	switch value := n.annotations[key]; {
	case value == "" || value == noData:
		return nil, nil
	case len(value) > maxValue:
		return nil, badField(key, "is longer than %d bytes", maxValue)
	case !json.Valid([]byte(value)):
		return nil, badField(key, "is not JSON: %s", clip(value))
	default:
		return json.RawMessage(value), nil
	}
}

// overwrites gives the addresses that a user wants to be announced in place of
// ours, one for each share where there is one.
func (k keys) overwrites(n *node, shares []subnet.Share) ([]netip.Addr, error) {
	out := make([]netip.Addr, len(shares))
	for i, share := range shares {
		f := k.family(share.Public.BitLen())
		if n.annotations[f.overwrite] == "" {
			continue
		}
		a, err := n.address(f.overwrite, f.width)
		if err != nil {
			return nil, err
		}
		out[i] = a
	}
	return out, nil
}

// users gives the overwrites of a Node, as they are written.
func (k keys) users(n *node) map[string]string {
	out := map[string]string{}
	for _, f := range k.families {
		if value := n.annotations[f.overwrite]; value != "" {
			out[f.overwrite] = value
		}
	}
	return out
}

// locals gives the addresses that a user wants this node to use, as
// --public-ip and --public-ipv6 would say it. What is no address is left out.
func (k keys) locals(n *node) []netip.Addr {
	var out []netip.Addr
	for _, f := range k.families {
		if a, err := n.address(f.local, f.width); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// announcement gives the annotations of what a lease announces. A family that
// it doesn't have is left out.
func (k keys) announcement(backend string, shares []subnet.Share) (map[string]string, error) {
	out := map[string]string{k.managed: "true", k.backend: backend}
	if backend == typeless {
		out[k.backend] = ""
	}
	for _, share := range shares {
		if !share.Public.IsValid() {
			return nil, badField("public address", "is missing for %s", share.Subnet)
		}
		f := k.family(share.Public.BitLen())
		out[f.public], out[f.data] = share.Public.WithZone("").String(), noData
		if len(share.Data) > 0 {
			var compact bytes.Buffer
			if err := json.Compact(&compact, share.Data); err != nil {
				return nil, badField("backend data", "is not JSON: %v", err)
			}
			out[f.data] = compact.String()
		}
	}
	return out, nil
}

// written gives the annotations that daemons write, as they stand at a Node.
func (k keys) written(n *node) map[string]string {
	out := map[string]string{}
	for key, value := range n.annotations {
		users := slices.ContainsFunc(k.families, func(f familyKeys) bool { return key == f.overwrite || key == f.local })
		if !users {
			out[key] = value
		}
	}
	return out
}

// difference is what to merge into the annotations of a Node so that it
// announces want; nil removes one. It is empty where nothing differs.
func (k keys) difference(n *node, want map[string]string) map[string]*string {
	out := map[string]*string{}
	have := k.written(n)
	for key := range have {
		if _, found := want[key]; !found {
			out[key] = nil
		}
	}
	for key, value := range want {
		if now, found := have[key]; !found || now != value {
			out[key] = &value
		}
	}
	return out
}

// clip keeps what a stranger wrote from filling a message.
func clip(s string) string {
	const most = 60 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
