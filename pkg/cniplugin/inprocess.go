package cniplugin

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
)

// wireDelegate is what we understand of a rendered configuration.
type wireDelegate struct {
	Name             string `json:"name"`
	Type             string `json:"type"`
	Bridge           string `json:"bridge"`
	MTU              int    `json:"mtu"`
	IsGateway        bool   `json:"isGateway"`
	IsDefaultGateway bool   `json:"isDefaultGateway"`
	HairpinMode      bool   `json:"hairpinMode"`
	ForceAddress     bool   `json:"forceAddress"`
	PromiscMode      bool   `json:"promiscMode"`
	IPMasq           bool   `json:"ipMasq"`
	IPAM             struct {
		Type    string      `json:"type"`
		DataDir string      `json:"dataDir"`
		Routes  []wireRoute `json:"routes"`
	} `json:"ipam"`
	DNS types.DNS `json:"dns"`
}

// inProcess reads a rendered configuration as one of ours, if the delegate is a
// plugin whose work we do ourselves and there is nothing in it that we don't
// do; else foreign names what there is. base has what no delegate knows.
func (d document) inProcess(base config) (c config, foreign string) {
	if foreign = d.foreign(); foreign != "" {
		return config{}, foreign
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return config{}, err.Error()
	}
	var w wireDelegate
	if err := json.Unmarshal(raw, &w); err != nil {
		return config{}, err.Error()
	}
	routes, err := parseRoutes(w.IPAM.Routes)
	if err != nil {
		return config{}, err.Error()
	}
	if w.Type == modeBridge && !w.IsGateway && !w.IsDefaultGateway {
		return config{}, "isGateway"
	}
	c = base
	c.delegation = nil
	c.network, c.mode, c.bridge, c.mtu = w.Name, w.Type, or(w.Bridge, defaultBridge), w.MTU
	c.dataDir, c.routes, c.dns = or(w.IPAM.DataDir, defaultDataDir), routes, w.DNS
	c.hairpin, c.defaultGateway, c.forceAddress = w.HairpinMode, w.IsDefaultGateway, w.ForceAddress
	c.needMasq, c.promisc = w.IPMasq, w.PromiscMode
	if err := c.check(); err != nil {
		return config{}, err.Error()
	}
	return c, ""
}

// local reads of a rendered configuration what DEL needs to undo it without the
// delegate: a veth pair, and addresses in host-local's files.
func (d document) local(base config) (config, bool) {
	kind, _ := d.text("type", "")
	ipam := d.object("ipam")
	by, _ := ipam.text("type", "")
	dir, okDir := ipam.text("dataDir", defaultDataDir)
	bridge, okBridge := d.text("bridge", defaultBridge)
	if kind != modeBridge && kind != modePTP || by != ipamHostLocal || !okDir || !okBridge {
		return config{}, false
	}
	base.dataDir, base.bridge = dir, bridge
	return base, true
}

// foreign names the first thing that we don't do as the delegate would. It is
// a list of what we know, so that an option of a later version is never lost.
func (d document) foreign() string {
	if kind, _ := d.text("type", ""); kind != modeBridge && kind != modePTP {
		return "type " + kind
	}
	ipam := d.object("ipam")
	if kind, _ := ipam.text("type", ""); kind != ipamHostLocal {
		return "ipam.type " + kind
	}
	if key := d.besides("name", "cniVersion", "type", "bridge", "mtu", "isGateway", "isDefaultGateway", "hairpinMode",
		"forceAddress", "promiscMode", "ipMasq", "ipam", "dns", "runtimeConfig"); key != "" {
		return key
	}
	if key := ipam.besides("type", "dataDir", "routes", "ranges"); key != "" {
		return "ipam." + key
	}
	var routes []document
	if raw, there := ipam["routes"]; there && json.Unmarshal(raw, &routes) != nil {
		return "ipam.routes"
	}
	for _, r := range routes {
		if key := r.besides("dst", "gw"); key != "" {
			return "ipam.routes: " + key
		}
	}
	// What host-local takes of a runtime, and we don't.
	if raw, there := d.object("runtimeConfig")["ipRanges"]; there && !off(raw) {
		return "runtimeConfig.ipRanges"
	}
	return ""
}

// object is a member that is an object; anything else is as if it were empty.
func (d document) object(key string) document {
	var o document
	if json.Unmarshal(d[key], &o) != nil {
		return nil
	}
	return o
}

// besides is the first key that is none of these and is not switched off.
func (d document) besides(known ...string) string {
	for _, key := range slices.Sorted(maps.Keys(d)) {
		if !slices.Contains(known, key) && !off(d[key]) {
			return key
		}
	}
	return ""
}

// off tells the values that are those of an absent option.
func off(raw json.RawMessage) bool {
	return slices.Contains([]string{"false", "0", "null", `""`, "[]", "{}"}, string(raw))
}
