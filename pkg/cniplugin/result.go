package cniplugin

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/pkg/jsonout"
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

// encode prints the result in the version that was asked for. What is all ours,
// in a form since 1.0.0, is the usual case, and the quick one.
func encode(r *types100.Result, chained bool, version string) ([]byte, error) {
	if !chained && slices.Index(supported(), version) >= slices.Index(supported(), "1.0.0") {
		return encodeOwn(r, version), nil
	}
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

// encodeOwn prints what result makes, with the keys in the library's order.
func encodeOwn(r *types100.Result, version string) []byte {
	var o jsonout.Object
	o.Text("cniVersion", version)
	if !dnsIsEmpty(r.DNS) {
		o.Raw("dns", encodeDNS(r.DNS))
	}
	o.Raw("interfaces", jsonout.List(r.Interfaces, func(i *types100.Interface) []byte {
		var o jsonout.Object
		o.Text("mac", i.Mac)
		o.Text("name", i.Name)
		if i.Sandbox != "" {
			o.Text("sandbox", i.Sandbox)
		}
		return o.Bytes()
	}))
	o.Raw("ips", jsonout.List(r.IPs, func(ip *types100.IPConfig) []byte {
		var o jsonout.Object
		o.Text("address", ip.Address.String())
		o.Text("gateway", ip.Gateway.String())
		o.Number("interface", uint64(*ip.Interface))
		return o.Bytes()
	}))
	if len(r.Routes) > 0 {
		o.Raw("routes", jsonout.List(r.Routes, func(r *types.Route) []byte {
			var o jsonout.Object
			o.Text("dst", r.Dst.String())
			o.Text("gw", r.GW.String())
			return o.Bytes()
		}))
	}
	return o.Bytes()
}

func encodeDNS(d types.DNS) []byte {
	var o jsonout.Object
	if d.Domain != "" {
		o.Text("domain", d.Domain)
	}
	for _, l := range []struct {
		key   string
		texts []string
	}{{"nameservers", d.Nameservers}, {"options", d.Options}, {"search", d.Search}} {
		if len(l.texts) > 0 {
			o.Raw(l.key, jsonout.List(l.texts, jsonout.String))
		}
	}
	return o.Bytes()
}

// ipNet is the form of the libraries.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
