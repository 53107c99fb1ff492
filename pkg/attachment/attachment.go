// Package attachment is the record that the CNI plugin keeps of each pod that
// it attached: what of it stands in the host, so that it can be found, checked,
// built again and taken away by somebody who has nothing else to go by.
//
//	ADD   the record ─▶ address files ─▶ kernel    a crash leaves a record of more
//	DEL   kernel ─▶ address files ─▶ the record    than there is, never of less
//
// One file per attachment lies in one directory for all networks of the host,
// as JSON, under the name <network>:<container>:<interface>; none of the three
// can have a colon in it. A record is of one boot of the machine: after the
// next one nothing of what it says stands any more.
//
// It owns the form and the files. It refuses to know the kernel, and who is
// right when record and kernel differ.
package attachment

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/pkg/jsonout"
	"github.com/weftnet/weft/pkg/mac"
)

// DefaultDir is where the plugin keeps its records unless it is told otherwise
// (stateDir).
const DefaultDir = "/var/lib/cni/weft"

// version is that of the form. A change that an old reader would get wrong
// raises it; a key that it may pass over does not.
const version = 1

// Mode is how a pod hangs on the host.
type Mode string

// A port of a bridge, or a link of its own with a host route.
const (
	ModeBridge Mode = "bridge"
	ModePTP    Mode = "ptp"
)

// Key names an attachment, as CNI does: unique on the host.
type Key struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"` // in the pod
}

func (k Key) String() string { return k.Network + ":" + k.Container + ":" + k.Interface }

// Attachment is one record. What is not said is zero. The keys stand in Encode
// too, which a test holds to these.
type Attachment struct {
	Key
	// Boot is the id of the boot that it was made in (/proc/sys/kernel/random/boot_id).
	Boot string `json:"boot"`
	// NetNS is the path of the pod's namespace, for people; NetNSInode tells
	// the namespace itself from a later one under the same path.
	NetNS      string `json:"netns"`
	NetNSInode uint64 `json:"netnsInode,omitempty"`

	Mode     Mode     `json:"mode"`
	HostLink string   `json:"hostLink"` // the host's end of the pair: its name, always
	HostMAC  mac.Addr `json:"hostMAC,omitzero"`
	MTU      int      `json:"mtu"` // of both ends, and of a bridge
	// Bridge is there in mode bridge only.
	Bridge *Bridge `json:"bridge,omitempty"`

	// Addrs are the pod's, one per family, with the prefix length that they
	// have in the pod: a host route each in mode ptp.
	Addrs []netip.Prefix `json:"addresses"`
	// Gateways are per address: on the bridge, or as host addresses on HostLink.
	Gateways []netip.Addr `json:"gateways"`
	MAC      mac.Addr     `json:"mac"` // the pod's
	Ports    []Port       `json:"ports,omitempty"`
	// Guard: the pod may send as itself only, see Sources.
	Guard bool `json:"guard,omitempty"`
}

// Bridge is the link that a pod's host end is a port of.
type Bridge struct {
	Name string         `json:"name"`
	MAC  mac.Addr       `json:"mac"`
	Addr []netip.Prefix `json:"addresses"` // those that the pod needs there
	// Hairpin is of the port; Promisc is of the bridge itself.
	Hairpin bool `json:"hairpin,omitempty"`
	Promisc bool `json:"promisc,omitempty"`
}

// Port is a port of the host that leads to the pod.
type Port struct {
	Protocol  string     `json:"protocol"` // tcp, udp or sctp
	Host      uint16     `json:"hostPort"`
	Container uint16     `json:"containerPort"`
	HostIP    netip.Addr `json:"hostIP,omitzero"` // zero: every address of the host
}

// HostRoutes are the routes that lead to the pod over HostLink in mode ptp; in
// mode bridge there are none.
func (a Attachment) HostRoutes() []netip.Prefix {
	if a.Mode != ModePTP {
		return nil
	}
	var routes []netip.Prefix
	for _, p := range a.Addrs {
		routes = append(routes, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return routes
}

// wire is the file: the version first, for who reads it.
type wire struct {
	Version int `json:"version"`
	Attachment
}

// VersionError says that a record is of another form than this program knows.
type VersionError struct{ Have int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the record is of version %d, and this program knows %d", e.Have, version)
}

// Encode gives the content of the record's file.
func Encode(a Attachment) []byte {
	var o jsonout.Object
	o.Number("version", version)
	o.Text("network", a.Network)
	o.Text("container", a.Container)
	o.Text("interface", a.Interface)
	o.Text("boot", a.Boot)
	o.Text("netns", a.NetNS)
	if a.NetNSInode != 0 {
		o.Number("netnsInode", a.NetNSInode)
	}
	o.Text("mode", string(a.Mode))
	o.Text("hostLink", a.HostLink)
	if !a.HostMAC.IsZero() {
		o.Text("hostMAC", a.HostMAC.String())
	}
	o.Number("mtu", uint64(a.MTU))
	if a.Bridge != nil {
		o.Raw("bridge", a.Bridge.encode())
	}
	o.Raw("addresses", jsonout.List(a.Addrs, text))
	o.Raw("gateways", jsonout.List(a.Gateways, text))
	o.Text("mac", a.MAC.String())
	if len(a.Ports) > 0 {
		o.Raw("ports", jsonout.List(a.Ports, Port.encode))
	}
	if a.Guard {
		o.True("guard")
	}
	return append(o.Bytes(), '\n')
}

func (b *Bridge) encode() []byte {
	var o jsonout.Object
	o.Text("name", b.Name)
	o.Text("mac", b.MAC.String())
	o.Raw("addresses", jsonout.List(b.Addr, text))
	if b.Hairpin {
		o.True("hairpin")
	}
	if b.Promisc {
		o.True("promisc")
	}
	return o.Bytes()
}

func (p Port) encode() []byte {
	var o jsonout.Object
	o.Text("protocol", p.Protocol)
	o.Number("hostPort", uint64(p.Host))
	o.Number("containerPort", uint64(p.Container))
	if p.HostIP.IsValid() {
		o.Text("hostIP", p.HostIP.String())
	}
	return o.Bytes()
}

// text is a value in its text form, as JSON.
func text[T fmt.Stringer](v T) []byte { return jsonout.String(v.String()) }

// Parse reads what Encode gave; keys that it doesn't know are passed over.
// What it gives can be put into the kernel as it is: names are links' names,
// addresses are valid and the lists are of one length. Errors: *VersionError,
// or what is wrong with the content.
func Parse(b []byte) (Attachment, error) {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return Attachment{}, fmt.Errorf("decode the record: %w", err)
	}
	if w.Version != version {
		return Attachment{}, &VersionError{w.Version}
	}
	return w.Attachment, w.check()
}

func (a Attachment) check() error {
	for name, value := range map[string]string{
		"network": a.Network, "container": a.Container, "interface": a.Interface,
	} {
		if !isName(value) {
			return fmt.Errorf("%s %q is no name", name, value)
		}
	}
	switch {
	case !isLink(a.HostLink):
		return fmt.Errorf("hostLink %q is no name of a link", a.HostLink)
	case a.Mode != ModeBridge && a.Mode != ModePTP:
		return fmt.Errorf("mode %q is neither %s nor %s", a.Mode, ModeBridge, ModePTP)
	case (a.Bridge != nil) != (a.Mode == ModeBridge):
		return fmt.Errorf("mode %s and bridge don't go together", a.Mode)
	case a.MTU < 0:
		return fmt.Errorf("mtu %d is negative", a.MTU)
	case len(a.Addrs) == 0 || len(a.Addrs) != len(a.Gateways):
		return fmt.Errorf("%d addresses have %d gateways", len(a.Addrs), len(a.Gateways))
	case a.Guard && a.MAC.IsZero():
		return errors.New("guard is set, and the pod has no MAC")
	}
	return errors.Join(a.checkAddrs(), a.checkPorts(), a.Bridge.check())
}

func (a Attachment) checkAddrs() error {
	for i, p := range a.Addrs {
		if !p.IsValid() || !a.Gateways[i].IsValid() || p.Addr().BitLen() != a.Gateways[i].BitLen() {
			return fmt.Errorf("address %s and gateway %s are not of one family", p, a.Gateways[i])
		}
	}
	return nil
}

func (a Attachment) checkPorts() error {
	for _, p := range a.Ports {
		if p.Host == 0 || p.Container == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return fmt.Errorf("port %d/%s to %d is none", p.Host, p.Protocol, p.Container)
		}
	}
	return nil
}

func (b *Bridge) check() error {
	switch {
	case b == nil:
		return nil
	case !isLink(b.Name):
		return fmt.Errorf("bridge %q is no name of a link", b.Name)
	case len(b.Addr) == 0 || slices.ContainsFunc(b.Addr, func(p netip.Prefix) bool { return !p.IsValid() }):
		return errors.New("the bridge has no addresses")
	}
	return nil
}

// isName holds a part of a key to what can be part of a file's name.
func isName(s string) bool {
	return s != "" && s[0] != '.' && !strings.ContainsAny(s, "/:\x00")
}

// isLink is the kernel's rule (dev_valid_name).
func isLink(s string) bool {
	const longest = 15
	return isName(s) && len(s) <= longest && !strings.ContainsAny(s, " \t\n\v\f\r")
}
