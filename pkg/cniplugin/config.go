package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/subnetenv"
)

const (
	defaultSubnetFile = "/run/flannel/subnet.env"
	defaultDataDir    = "/var/lib/cni/networks" // host-local's
	defaultBridge     = "cni0"

	typeWeft    = "weft"    // of a network configuration: either form
	typeFlannel = "flannel" // flannel's form

	modeBridge = "bridge"
	modePTP    = "ptp"

	minMTUv6 = 1280 // RFC 8200 section 5; below it the kernel turns IPv6 off
)

// wireIPAM is the member ipam of weft's own form. Keys that are not here are
// passed over, as CNI asks.
type wireIPAM struct {
	DataDir string      `json:"dataDir"`
	Routes  []wireRoute `json:"routes"`
}

type wireRoute struct {
	Dst string `json:"dst"`
	GW  string `json:"gw,omitempty"`
}

// config is the network configuration, valid by construction: only parseConfig
// makes one.
type config struct {
	version, network string
	subnetFile       string
	savedDir         string // what flannel's form saves, per attachment
	records          attachment.Dir
	dataDir          string
	mode             string // modeBridge or modePTP
	bridge           string
	mtu              int // 0: as subnet.env says
	hairpin          bool
	promisc          bool // of the bridge
	defaultGateway   bool
	forceAddress     bool // the bridge has no other address
	needMasq         bool // asked for, so the daemon must do it
	routes           []route
	dns              types.DNS
	ports            []attachment.Port
	spoofing         spoofing
	runtime          wireRuntime
	// delegation is flannel's form, not rendered yet: what stands above is then
	// only what DEL needs.
	delegation *delegation
}

// route is one entry of a routing table; without via it goes by the gateway of
// its family.
type route struct {
	dst netip.Prefix
	via netip.Addr
}

// version is the configuration's CNI version as far as it can be read.
func (d document) version() string {
	if v, ok := d.text("cniVersion", specVersion); ok {
		return v
	}
	return specVersion
}

// parseConfig reads either form. flannel's is told by the type, and under our
// own type by the delegate.
func parseConfig(d document) (config, error) {
	var kind string
	f := fields{doc: d}
	c := f.head()
	f.read("type", &kind)
	if f.err != nil {
		return config{}, undecodable(f.err)
	}
	if err := checkVersion(c.version); err != nil {
		return config{}, err
	}
	if c.network == "" {
		return config{}, invalid("name is missing", "name the network, as in cbr0")
	}
	// The name is a directory's, too.
	if !isID(c.network) {
		return config{}, invalid(fmt.Sprintf("name %q has characters that a network's name can't have", c.network), idNext)
	}
	if kind == typeFlannel {
		return c.delegated(d)
	}
	if _, there := d.member("delegate"); there {
		if key := d.ownKey(); key != "" {
			return config{}, invalid(key+" stands beside delegate", "put it into delegate, or leave delegate out")
		}
		return c.delegated(d)
	}
	return c.own(f)
}

func undecodable(err error) error {
	return types.NewError(types.ErrDecodingFailure, "decode the network configuration: "+err.Error(),
		"see the file in /etc/cni/net.d")
}

// fields reads members of a document; the first error stays.
type fields struct {
	doc document
	err error
}

// read leaves into as it is where there is no such member, or null.
func (f *fields) read(key string, into any) {
	raw, there := f.doc.member(key)
	if !there || f.err != nil {
		return
	}
	if err := json.Unmarshal(raw, into); err != nil {
		f.err = fmt.Errorf("%s: %w", key, err)
	}
}

// head reads what both forms begin with.
func (f *fields) head() config {
	var subnetFile, dataDir, stateDir string
	c := config{runtime: f.runtime()}
	f.read("cniVersion", &c.version)
	f.read("name", &c.network)
	f.read("subnetFile", &subnetFile)
	f.read("dataDir", &dataDir)
	f.read("stateDir", &stateDir)
	f.read("allowSpoofing", &c.spoofing)
	c.subnetFile, c.savedDir = or(subnetFile, defaultSubnetFile), or(dataDir, defaultSavedDir)
	c.records = attachment.Dir(or(stateDir, attachment.DefaultDir))
	return c
}

// ownKey names a key of our own form that flannel's form would pass over.
func (d document) ownKey() string {
	for _, key := range []string{
		"mode", "bridge", "mtu", "hairpinMode", "promiscMode", "isDefaultGateway", "ipMasq",
	} {
		if _, there := d.member(key); there {
			return key
		}
	}
	return ""
}

// own reads our own form, in which a switch that is absent is on.
func (c config) own(f fields) (config, error) {
	var hairpin, defaultGateway *bool
	var ipam wireIPAM
	f.read("mode", &c.mode)
	f.read("bridge", &c.bridge)
	f.read("mtu", &c.mtu)
	f.read("hairpinMode", &hairpin)
	f.read("promiscMode", &c.promisc)
	f.read("isDefaultGateway", &defaultGateway)
	f.read("ipMasq", &c.needMasq)
	f.read("ipam", &ipam)
	f.read("dns", &c.dns)
	if f.err != nil {
		return config{}, undecodable(f.err)
	}
	c.mode, c.bridge, c.dataDir = or(c.mode, modeBridge), or(c.bridge, defaultBridge), or(ipam.DataDir, defaultDataDir)
	// A bridge in promiscuous mode sends everything to the host as well, which
	// would give a pod that reaches itself each packet twice.
	c.hairpin = hairpin == nil && !c.promisc || hairpin != nil && *hairpin
	c.defaultGateway = defaultGateway == nil || *defaultGateway
	c.spoofing.said = true // if not, then not allowed
	if c.mode != modeBridge && c.mode != modePTP {
		return config{}, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("mode %q is not known", c.mode),
			"mode is bridge or ptp")
	}
	if err := c.check(); err != nil {
		return config{}, err
	}
	var err error
	if c.routes, err = parseRoutes(ipam.Routes); err != nil {
		return config{}, err
	}
	c.ports, err = parsePorts(c.runtime.Config.PortMappings)
	return c, err
}

// check holds the values of the link to what the kernel takes.
func (c config) check() error {
	if wrong := linkNameError(c.bridge); wrong != "" {
		return invalid(fmt.Sprintf("bridge %q: a link's name %s", c.bridge, wrong),
			"name it as a link is named, such as cni0")
	}
	if c.mtu < 0 {
		return invalid(fmt.Sprintf("mtu %d is negative", c.mtu), "leave it out, or 0, for the overlay's")
	}
	if c.promisc && c.hairpin {
		return invalid("promiscMode and hairpinMode are both true", "set one of them to false")
	}
	return nil
}

func checkVersion(v string) error {
	for _, s := range supported() {
		if v == s {
			return nil
		}
	}
	return types.NewError(types.ErrIncompatibleCNIVersion,
		fmt.Sprintf("cniVersion %q is not supported", v), fmt.Sprintf("use one of %v", supported()))
}

// parseRoutes reads the routes that the user wants beside the overlay's.
func parseRoutes(ws []wireRoute) ([]route, error) {
	var routes []route
	for _, w := range ws {
		dst, err := netip.ParsePrefix(w.Dst)
		if err != nil {
			return nil, invalid(fmt.Sprintf("ipam.routes: dst %q is not a prefix", w.Dst), "write it as 192.0.2.0/24")
		}
		r := route{dst: dst.Masked()}
		if w.GW != "" {
			if r.via, err = netip.ParseAddr(w.GW); err != nil || r.via.Is4() != dst.Addr().Is4() {
				return nil, invalid(fmt.Sprintf("ipam.routes: gw %q of %s is not an address of its family", w.GW, w.Dst),
					"write the gateway's address, or leave gw out for the subnet's")
			}
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// fits tells whether the node can give what the configuration asks for.
func (c config) fits(env subnetenv.Env) error {
	if c.needMasq && !env.IPMasq {
		return invalid("ipMasq is asked for, and weftd does not masquerade ("+c.subnetFile+" has FLANNEL_IPMASQ=false)",
			"start weftd with --ip-masq, or leave ipMasq out")
	}
	mtu := c.podMTU(env)
	for _, s := range env.Subnets {
		if s.Addr().Is6() && mtu < minMTUv6 {
			return invalid(fmt.Sprintf("MTU %d is too small for the IPv6 subnet %s", mtu, s),
				fmt.Sprintf("IPv6 needs %d: raise mtu here, or the MTU of the overlay", minMTUv6))
		}
	}
	return nil
}

func (c config) podMTU(env subnetenv.Env) int {
	if c.mtu > 0 {
		return c.mtu
	}
	return env.MTU
}

func invalid(msg, next string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, msg, next)
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
