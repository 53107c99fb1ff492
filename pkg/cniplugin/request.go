package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/mac"
)

// wireRuntime is what a runtime adds to the configuration of either form.
type wireRuntime struct {
	// RuntimeConfig is of the capabilities (CNI conventions, "Dynamic plugin
	// specific fields").
	RuntimeConfig struct {
		IPs          []string   `json:"ips"`
		MAC          string     `json:"mac"`
		PortMappings []wirePort `json:"portMappings"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
			MAC string   `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	PrevResult       json.RawMessage      `json:"prevResult"`
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`
	// As CNI 1.1.0 first had it; libcni gives both.
	OldValidAttachments []types.GCAttachment `json:"cni.dev/attachments"`
}

type wirePort struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// parsePorts reads the capability portMappings; host port 0 is none.
func parsePorts(ws []wirePort) ([]attachment.Port, error) {
	const most = 1<<16 - 1
	var ports []attachment.Port
	for _, w := range ws {
		if w.HostPort == 0 {
			continue
		}
		p := attachment.Port{
			Protocol: strings.ToLower(or(w.Protocol, "tcp")), Host: uint16(w.HostPort), Container: uint16(w.ContainerPort),
		}
		what := fmt.Sprintf("host port %d/%s to %d", w.HostPort, p.Protocol, w.ContainerPort)
		if w.HostPort < 0 || w.HostPort > most || w.ContainerPort < 1 || w.ContainerPort > most {
			return nil, invalid(what+": no such port", "ports are 1 to 65535")
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp" {
			return nil, invalid(what+": no such protocol", "protocols are tcp, udp and sctp")
		}
		if w.HostIP != "" {
			addr, err := netip.ParseAddr(w.HostIP)
			if err != nil {
				return nil, invalid(fmt.Sprintf("%s: hostIP %q is no address", what, w.HostIP),
					"leave it out for all of the host's")
			}
			p.HostIP = addr.Unmap()
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// wish is what the runtime wants of one attachment.
type wish struct {
	addrs []netip.Addr
	mac   mac.Addr
}

// wishOf reads the capabilities ips and mac and what came before them: args.cni
// of the conventions, and CNI_ARGS. The first that says something counts.
func wishOf(r wireRuntime, args string) (wish, error) {
	var w wish
	old := map[string]string{}
	for pair := range strings.SplitSeq(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			old[key] = value
		}
	}
	ips := r.RuntimeConfig.IPs
	if len(ips) == 0 {
		ips = r.Args.CNI.IPs
	}
	if len(ips) == 0 && old["IP"] != "" {
		ips = strings.Split(old["IP"], ",")
	}
	for _, text := range ips {
		// With a prefix length it is the pod's prefix that is meant, which
		// is the subnet's or the mode's here.
		bare, _, _ := strings.Cut(strings.TrimSpace(text), "/")
		addr, err := netip.ParseAddr(bare)
		if err != nil {
			return w, invalid(fmt.Sprintf("ips: %q is no address", text), "write it as 10.42.1.9")
		}
		w.addrs = append(w.addrs, addr.Unmap())
	}
	if text := or(r.RuntimeConfig.MAC, or(r.Args.CNI.MAC, old["MAC"])); text != "" {
		addr, err := mac.Parse(text)
		if err != nil || !addr.IsUnicast() {
			return w, invalid(fmt.Sprintf("mac: %q is not the MAC of a station", text), "write it as 02:00:00:00:00:01")
		}
		w.mac = addr
	}
	return w, nil
}

// request is what the environment says of one ADD, DEL or CHECK.
type request struct {
	containerID, ifName string
	netns               string // a path; DEL may have none
	args, path          string // CNI_ARGS and CNI_PATH, for a delegate
}

func (r request) holder() hostlocal.Holder {
	return hostlocal.Holder{ContainerID: r.containerID, IfName: r.ifName}
}

func (r request) key(network string) attachment.Key {
	return attachment.Key{Network: network, Container: r.containerID, Interface: r.ifName}
}

// parseArgs reads the environment.
func parseArgs(command string, getenv func(string) string) (request, error) {
	r := request{
		containerID: getenv("CNI_CONTAINERID"), ifName: getenv("CNI_IFNAME"), netns: getenv("CNI_NETNS"),
		args: getenv("CNI_ARGS"), path: getenv("CNI_PATH"),
	}
	for name, value := range map[string]string{"CNI_CONTAINERID": r.containerID, "CNI_IFNAME": r.ifName} {
		if value == "" {
			return r, absent(name)
		}
	}
	if r.netns == "" && command != "DEL" {
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
