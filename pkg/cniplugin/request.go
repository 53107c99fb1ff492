package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/mac"
)

// wireRuntime is what a runtime adds to the configuration of either form.
type wireRuntime struct {
	// Config is of the capabilities (CNI conventions, "Dynamic plugin specific
	// fields").
	Config struct {
		IPs          []string   `json:"ips"`
		MAC          string     `json:"mac"`
		PortMappings []wirePort `json:"portMappings"`
	}
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
			MAC string   `json:"mac"`
		} `json:"cni"`
	}
	PrevResult       json.RawMessage
	ValidAttachments []types.GCAttachment
}

func (f *fields) runtime() wireRuntime {
	var r wireRuntime
	var old []types.GCAttachment
	f.read("runtimeConfig", &r.Config)
	f.read("args", &r.Args)
	f.read("prevResult", &r.PrevResult)
	f.read("cni.dev/valid-attachments", &r.ValidAttachments)
	// As CNI 1.1.0 first had it; libcni gives both.
	if f.read("cni.dev/attachments", &old); r.ValidAttachments == nil {
		r.ValidAttachments = old
	}
	return r
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
	old := parseCNIArgs(args)
	ips := r.Config.IPs
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
	if text := or(r.Config.MAC, or(r.Args.CNI.MAC, old["MAC"])); text != "" {
		addr, err := mac.Parse(text)
		if err != nil || !addr.IsUnicast() {
			return w, invalid(fmt.Sprintf("mac: %q is not the MAC of a station", text), "write it as 02:00:00:00:00:01")
		}
		w.mac = addr
	}
	return w, nil
}

// parseCNIArgs reads CNI_ARGS: KEY=value;KEY=value.
func parseCNIArgs(args string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			out[key] = value
		}
	}
	return out
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
	if !isID(r.containerID) {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_CONTAINERID %q has characters that an id can't have", r.containerID), idNext)
	}
	if wrong := linkNameError(r.ifName); wrong != "" {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_IFNAME %q: a link's name %s", r.ifName, wrong), "name it as a link is named, such as eth0")
	}
	return r, nil
}

func absent(name string) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, name+" is missing",
		"the plugin is for a container runtime to start")
}

const idNext = "letters, digits, and after the first of them also _ . -"

// isID holds a container's or a network's name to what the specification
// allows ("Parameters", "Network configuration format").
func isID(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != ""
}

// linkNameError says what a link's name must not be and this one is, by the
// specification's rules; "" is nothing.
func linkNameError(s string) string {
	const longest = 15
	switch {
	case s == "" || s == "." || s == "..":
		return "is not empty, . or .."
	case len(s) > longest:
		return fmt.Sprintf("has at most %d bytes", longest)
	case strings.ContainsAny(s, "/:") || strings.ContainsFunc(s, unicode.IsSpace):
		return "has no slash, colon or white space in it"
	}
	return ""
}
