package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weftnet/weft/pkg/subnetenv"
)

const (
	defaultSubnetFile = "/run/flannel/subnet.env"
	defaultDataDir    = "/var/lib/cni/networks" // host-local's
	defaultBridge     = "cni0"

	modeBridge = "bridge"
	modePTP    = "ptp"

	minMTUv6 = 1280 // RFC 8200 section 5; below it the kernel turns IPv6 off
)

// wireConfig is the network configuration on stdin. Keys that are not here are
// passed over, as CNI asks. Pointers tell what is absent.
type wireConfig struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	SubnetFile string `json:"subnetFile"`
	Mode       string `json:"mode"`
	wireLink
	IPAM struct {
		DataDir string      `json:"dataDir"`
		Routes  []wireRoute `json:"routes"`
	} `json:"ipam"`
	DNS types.DNS `json:"dns"`
	// Delegate is where flannel's configuration keeps the link's fields; its
	// type is the plugin that flannel would run.
	Delegate *struct {
		Type string `json:"type"`
		wireLink
	} `json:"delegate"`
}

// wireLink is the fields that both forms share.
type wireLink struct {
	Bridge           string `json:"bridge"`
	MTU              int    `json:"mtu"`
	HairpinMode      *bool  `json:"hairpinMode"`
	IsDefaultGateway *bool  `json:"isDefaultGateway"`
	IPMasq           *bool  `json:"ipMasq"`
}

type wireRoute struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

// config is the network configuration, valid by construction: only parseConfig
// makes one.
type config struct {
	version, network    string
	subnetFile, dataDir string
	mode                string // modeBridge or modePTP
	bridge              string
	mtu                 int // 0: as subnet.env says
	hairpin             bool
	defaultGateway      bool
	needMasq            bool // asked for, so the daemon must do it
	routes              []route
	dns                 types.DNS
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

func parseConfig(stdin []byte) (config, error) {
	var w wireConfig
	if err := json.Unmarshal(stdin, &w); err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, "decode the network configuration: "+err.Error(),
			"see the file in /etc/cni/net.d")
	}
	if err := checkVersion(w.CNIVersion); err != nil {
		return config{}, err
	}
	if w.Name == "" {
		return config{}, invalid("name is missing", "name the network, as in cbr0")
	}
	// The name is a directory's, too.
	if err := utils.ValidateNetworkName(w.Name); err != nil {
		return config{}, err
	}
	link, mode, err := w.link()
	if err != nil {
		return config{}, err
	}
	c := config{
		version: w.CNIVersion, network: w.Name,
		subnetFile: or(w.SubnetFile, defaultSubnetFile), dataDir: or(w.IPAM.DataDir, defaultDataDir),
		mode: mode, bridge: or(link.Bridge, defaultBridge), mtu: link.MTU,
		hairpin: *link.HairpinMode, defaultGateway: *link.IsDefaultGateway,
		needMasq: link.IPMasq != nil && *link.IPMasq,
		dns:      w.DNS,
	}
	if err := utils.ValidateInterfaceName(c.bridge); err != nil {
		return config{}, invalid(fmt.Sprintf("bridge %q: %s", c.bridge, err.Msg), "name it as a link is named, such as cni0")
	}
	if c.mtu < 0 {
		return config{}, invalid(fmt.Sprintf("mtu %d is negative", c.mtu), "leave it out, or 0, for the overlay's")
	}
	c.routes, err = parseRoutes(w.IPAM.Routes)
	return c, err
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

// link merges the two forms. A field that is absent in ours is true; one that
// is absent in flannel's is what the bridge plugin would take: false.
func (w wireConfig) link() (wireLink, string, error) {
	link, mode, absent := w.wireLink, w.Mode, true
	if d := w.Delegate; d != nil {
		absent = false
		link.Bridge, mode = or(link.Bridge, d.Bridge), or(mode, d.Type)
		if link.MTU == 0 {
			link.MTU = d.MTU
		}
		link.HairpinMode = orBool(link.HairpinMode, d.HairpinMode)
		link.IsDefaultGateway = orBool(link.IsDefaultGateway, d.IsDefaultGateway)
		link.IPMasq = orBool(link.IPMasq, d.IPMasq)
	}
	link.HairpinMode = orBool(link.HairpinMode, &absent)
	link.IsDefaultGateway = orBool(link.IsDefaultGateway, &absent)
	switch mode = or(mode, modeBridge); mode {
	case modeBridge, modePTP:
		return link, mode, nil
	}
	return link, mode, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("mode %q is not known", mode),
		"mode (or delegate.type) is bridge or ptp")
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

// parseArgs reads the environment.
func parseArgs(command string, getenv func(string) string) (request, error) {
	r := request{getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"), getenv("CNI_NETNS")}
	for name, value := range map[string]string{"CNI_CONTAINERID": r.containerID, "CNI_IFNAME": r.ifName} {
		if value == "" {
			return r, absent(name)
		}
	}
	if r.netns == "" && command == "ADD" {
		return r, absent("CNI_NETNS")
	}
	if err := utils.ValidateContainerID(r.containerID); err != nil {
		return r, types.NewError(err.Code, "CNI_CONTAINERID: "+err.Msg, err.Details)
	}
	if err := utils.ValidateInterfaceName(r.ifName); err != nil {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME: "+err.Msg, err.Details)
	}
	return r, nil
}

func absent(name string) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, name+" is missing",
		"the plugin is for a container runtime to start")
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

func orBool(b, otherwise *bool) *bool {
	if b != nil {
		return b
	}
	return otherwise
}
