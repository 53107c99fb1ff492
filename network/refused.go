package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/subnet"
)

// CheckBackend gives the error with which a node that has these backends
// refuses the configuration's, or nil.
func CheckBackend(cfg subnet.Config, have ...string) error {
	if slices.Contains(have, cfg.Backend) {
		return nil
	}
	return refusedBackend(cfg.Backend, have)
}

// refusedBackend says why a configuration's backend can't be had, and what to
// use instead. have are the ones that can.
func refusedBackend(name string, have []string) error {
	var instead string
	switch name {
	case "udp":
		instead = "it carries packets through user space, for kernels without VXLAN, which weft does not run on: use vxlan"
	case "ipip":
		instead = "it is for IPv4 only: use vxlan, with DirectRouting for peers on one link"
	case "ipsec", "wireguard":
		instead = "weft does not encrypt yet: use vxlan over an underlay that does, or stay with flannel for now"
	case "tencent-vpc":
		instead = "weft writes no cloud's route tables: use vxlan, or alloc if something else writes them"
	case "extension":
		return errors.New("the network configuration asks for backend \"extension\", which runs commands out of the store: " +
			"if whoever can write there may run them on this node, start weftd with --extension-commands; else use vxlan")
	default:
		return fmt.Errorf("the network configuration asks for backend %.40q, which nobody knows: use %s",
			name, listed(have))
	}
	return fmt.Errorf("the network configuration asks for backend %q, which weft does not have: %s", name, instead)
}

// listed is "alloc, host-gw or vxlan".
func listed(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	names = slices.Clone(names)
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
