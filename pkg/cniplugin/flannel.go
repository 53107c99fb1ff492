package cniplugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/subnetenv"
)

const (
	defaultSavedDir = "/var/lib/cni/flannel"

	ipamHostLocal = "host-local"
)

// document is a JSON object whose values stay as somebody wrote them: what we
// don't know has to reach the delegate unharmed.
type document map[string]json.RawMessage

// delegation is flannel's form of a network configuration: a part of another
// plugin's configuration (the delegate's), which is completed with what
// subnet.env says and carried out by that plugin, or by us as it would.
type delegation struct {
	version, network string
	delegate, ipam   document
	runtimeConfig    json.RawMessage
}

// delegated reads flannel's form.
func (c config) delegated(doc document) (config, error) {
	d := &delegation{version: c.version, network: c.network}
	d.runtimeConfig, _ = doc.member("runtimeConfig")
	f := fields{doc: doc}
	f.read("ipam", &d.ipam)
	if f.err != nil {
		return config{}, undecodable(f.err)
	}
	if f.read("delegate", &d.delegate); f.err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, f.err.Error(),
			"delegate is the object that the delegate's configuration begins with")
	}
	for _, key := range []string{"name", "ipam"} {
		if _, there := d.delegate[key]; there {
			return config{}, invalid("delegate."+key+" is set",
				"leave it out: it is made from the "+key+" of the configuration itself")
		}
	}
	kind, ok := d.delegate.text("type", modeBridge)
	if !ok {
		return config{}, invalid(fmt.Sprintf("delegate.type is %s, not a string", d.delegate["type"]),
			"name a plugin, such as bridge, or leave it out for bridge")
	}
	if kind == typeFlannel || kind == typeWeft {
		return config{}, invalid(fmt.Sprintf("delegate.type is %q, which delegates to itself", kind),
			"name the plugin that makes the interface, such as bridge, or leave it out for bridge")
	}
	// What DEL needs where nothing was saved.
	c.delegation, c.mode = d, modeBridge
	var ok1, ok2 bool
	c.dataDir, ok1 = d.ipam.text("dataDir", defaultDataDir)
	c.bridge, ok2 = d.delegate.text("bridge", defaultBridge)
	if !ok1 || !ok2 {
		return config{}, invalid("ipam.dataDir or delegate.bridge is not a string", "write it in quotes, or leave it out")
	}
	return c, nil
}

// member finds a member by its key, whatever the case of its letters, as flannel's
// plugin and the CNI library do (encoding/json).
func (d document) member(key string) (json.RawMessage, bool) {
	if raw, there := d[key]; there {
		return raw, true
	}
	for k, raw := range d {
		if strings.EqualFold(k, key) {
			return raw, true
		}
	}
	return nil, false
}

// text is a member that is a string; ok is false if it is something else.
func (d document) text(key, otherwise string) (s string, ok bool) {
	raw, there := d[key]
	if !there {
		return otherwise, true
	}
	// Through a pointer, because null fits into a string as well.
	var p *string
	if json.Unmarshal(raw, &p) != nil || p == nil {
		return "", false
	}
	return or(*p, otherwise), true
}

// render completes the delegate's configuration. What the user says goes before
// what subnet.env says, but for the name, the version and the ranges.
func (d delegation) render(env subnetenv.Env) (document, error) {
	out := maps.Clone(d.delegate)
	if out == nil {
		out = document{}
	}
	var errs encodeErrors
	set := func(in document, key string, value any) { in[key] = errs.encode(value) }
	absent := func(in document, key string, value any) {
		if _, there := in[key]; !there {
			set(in, key, value)
		}
	}
	set(out, "name", d.network)
	set(out, "cniVersion", d.version)
	absent(out, "type", modeBridge)
	absent(out, "ipMasq", !env.IPMasq) // by whom, if not by weftd
	absent(out, "mtu", env.MTU)
	if kind, _ := out.text("type", ""); kind == modeBridge {
		absent(out, "isGateway", true)
	}
	if len(d.runtimeConfig) > 0 {
		out["runtimeConfig"] = d.runtimeConfig
	}
	ipam := maps.Clone(d.ipam)
	if ipam == nil {
		ipam = document{}
	}
	absent(ipam, "type", ipamHostLocal)
	var routes []json.RawMessage
	if raw, there := ipam["routes"]; there {
		if err := json.Unmarshal(raw, &routes); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "ipam.routes: "+err.Error(),
				`write a list, as in [{"dst": "192.0.2.0/24"}]`)
		}
	}
	for _, n := range env.Networks {
		routes = append(routes, errs.encode(wireRoute{Dst: n.String()}))
	}
	set(ipam, "routes", routes)
	set(ipam, "ranges", ranges(env.Subnets))
	set(out, "ipam", ipam)
	return out, errs.err
}

// wireRange is one set of one range, as host-local has it.
type wireRange struct {
	Subnet string `json:"subnet"`
}

func ranges(subnets []netip.Prefix) [][]wireRange {
	var out [][]wireRange
	for _, s := range subnets {
		out = append(out, []wireRange{{s.String()}})
	}
	return out
}

// encodeErrors keeps the first error of many encodings.
type encodeErrors struct{ err error }

func (e *encodeErrors) encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("render the delegate's configuration: %w", err)
	}
	return b
}
