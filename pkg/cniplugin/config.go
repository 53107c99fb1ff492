package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

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

// wireHead is what both forms of a configuration have. Keys that are not here
// are passed over, as CNI asks.
type wireHead struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	SubnetFile string `json:"subnetFile"`
	DataDir    string `json:"dataDir"`
	StateDir   string `json:"stateDir"`
	wireRuntime
}

// wireConfig is weft's own form. Pointers tell what is absent.
type wireConfig struct {
	wireHead
	Mode             string `json:"mode"`
	Bridge           string `json:"bridge"`
	MTU              int    `json:"mtu"`
	HairpinMode      *bool  `json:"hairpinMode"`
	PromiscMode      bool   `json:"promiscMode"`
	IsDefaultGateway *bool  `json:"isDefaultGateway"`
	IPMasq           bool   `json:"ipMasq"`
	IPAM             struct {
		DataDir string      `json:"dataDir"`
		Routes  []wireRoute `json:"routes"`
	} `json:"ipam"`
	DNS types.DNS `json:"dns"`
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

// versionOf is the configuration's CNI version as far as it can be read.
func versionOf(stdin []byte) string {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if json.Unmarshal(stdin, &head) != nil || head.CNIVersion == "" {
		return specVersion
	}
	return head.CNIVersion
}

// parseConfig reads either form. flannel's is told by the type, and under our
// own type by the delegate.
func parseConfig(stdin []byte) (config, error) {
	var head struct {
		wireHead
		Delegate json.RawMessage `json:"delegate"`
	}
	if err := json.Unmarshal(stdin, &head); err != nil {
		return config{}, undecodable(err)
	}
	if err := checkVersion(head.CNIVersion); err != nil {
		return config{}, err
	}
	if head.Name == "" {
		return config{}, invalid("name is missing", "name the network, as in cbr0")
	}
	// The name is a directory's, too.
	if err := utils.ValidateNetworkName(head.Name); err != nil {
		return config{}, err
	}
	if head.Type == typeFlannel {
		return parseDelegation(stdin)
	}
	if head.Delegate != nil {
		if key := ownKey(stdin); key != "" {
			return config{}, invalid(key+" stands beside delegate", "put it into delegate, or leave delegate out")
		}
		return parseDelegation(stdin)
	}
	var w wireConfig
	if err := json.Unmarshal(stdin, &w); err != nil {
		return config{}, undecodable(err)
	}
	return w.parse()
}

func undecodable(err error) error {
	return types.NewError(types.ErrDecodingFailure, "decode the network configuration: "+err.Error(),
		"see the file in /etc/cni/net.d")
}

// config is what both forms begin with.
func (w wireHead) config() config {
	return config{
		version: w.CNIVersion, network: w.Name,
		subnetFile: or(w.SubnetFile, defaultSubnetFile), savedDir: or(w.DataDir, defaultSavedDir),
		records: attachment.Dir(or(w.StateDir, attachment.DefaultDir)), runtime: w.wireRuntime,
	}
}

// ownKey names a key of our own form that flannel's form would pass over.
func ownKey(stdin []byte) string {
	var d document
	if json.Unmarshal(stdin, &d) != nil {
		return "" // the form's own reader says what is wrong
	}
	for _, key := range []string{
		"mode", "bridge", "mtu", "hairpinMode", "promiscMode", "isDefaultGateway", "ipMasq",
	} {
		if _, there := d[key]; there {
			return key
		}
	}
	return ""
}

// parse reads our own form, in which a switch that is absent is on.
func (w wireConfig) parse() (config, error) {
	c := w.config()
	c.mode, c.bridge, c.mtu = or(w.Mode, modeBridge), or(w.Bridge, defaultBridge), w.MTU
	// A bridge in promiscuous mode sends everything to the host as well, which
	// would give a pod that reaches itself each packet twice.
	c.hairpin, c.promisc = w.HairpinMode == nil && !w.PromiscMode || w.HairpinMode != nil && *w.HairpinMode, w.PromiscMode
	c.defaultGateway = w.IsDefaultGateway == nil || *w.IsDefaultGateway
	c.needMasq, c.dns, c.dataDir = w.IPMasq, w.DNS, or(w.IPAM.DataDir, defaultDataDir)
	if c.mode != modeBridge && c.mode != modePTP {
		return config{}, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("mode %q is not known", c.mode),
			"mode is bridge or ptp")
	}
	if err := c.check(); err != nil {
		return config{}, err
	}
	var err error
	if c.routes, err = parseRoutes(w.IPAM.Routes); err != nil {
		return config{}, err
	}
	c.ports, err = parsePorts(w.RuntimeConfig.PortMappings)
	return c, err
}

// check holds the values of the link to what the kernel takes.
func (c config) check() error {
	if err := utils.ValidateInterfaceName(c.bridge); err != nil {
		return invalid(fmt.Sprintf("bridge %q: %s", c.bridge, err.Msg), "name it as a link is named, such as cni0")
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
