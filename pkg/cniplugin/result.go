package cniplugin

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/pkg/mac"
)

// result is what the runtime, and plugins after us in the chain, are told:
// links from the host to the pod, addresses, routes. Pure.
func result(prev *types100.Result, a plan, bridge hostLink, req request, dns types.DNS) *types100.Result {
	r := &types100.Result{CNIVersion: specVersion, DNS: dns}
	if a.bridge != nil {
		r.Interfaces = append(r.Interfaces, iface(a.bridge.name, bridge.mac, ""))
	}
	r.Interfaces = append(r.Interfaces,
		iface(a.hostIf, a.hostMAC, ""),
		iface(a.podIf, a.podMAC, req.netns))
	pod := len(r.Interfaces) - 1
	for i, p := range a.podAddrs {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(pod), Address: ipNet(p), Gateway: a.gateways[i].AsSlice(),
		})
	}
	for _, rt := range a.podRoutes {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(rt.dst), GW: rt.via.AsSlice()})
	}
	return chained(prev, r)
}

func iface(name string, m mac.Addr, sandbox string) *types100.Interface {
	return &types100.Interface{Name: name, Mac: m.String(), Sandbox: sandbox}
}

// encode prints the result in the version that was asked for.
func encode(r *types100.Result, version string) ([]byte, error) {
	converted, err := r.GetAsVersion(version)
	if err != nil {
		return nil, fmt.Errorf("give the result as CNI %s: %w", version, err)
	}
	var b bytes.Buffer
	if err := converted.PrintTo(&b); err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return b.Bytes(), nil
}

// ipNet is the form of the libraries.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
