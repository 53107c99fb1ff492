package cniplugin

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/pkg/subnetenv"
)

// What of flannel's form we do ourselves, and what is left to the delegate: an
// option that we don't do as the bridge plugin and host-local do it is never
// passed over.
func TestWhatIsForeign(t *testing.T) {
	env := subnetenv.Env{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")},
		MTU:      1450, IPMasq: true,
	}
	for name, c := range map[string]struct{ conf, want string }{
		"nothing": {},
		"of k3s":  {conf: `"delegate":{"hairpinMode":true,"forceAddress":true,"isDefaultGateway":true}`},
		"all that we do": {conf: `"delegate":{"type":"bridge","bridge":"br0","mtu":1400,"isGateway":true,"ipMasq":true,
			"dns":{"nameservers":["10.96.0.10"]}},"ipam":{"type":"host-local","dataDir":"/x","routes":[{"dst":"::/0"}]},
			"runtimeConfig":{"portMappings":[{"hostPort":80}],"ips":["10.42.1.9"],"mac":"02:00:00:00:00:01"}`},
		"point to point":    {conf: `"delegate":{"type":"ptp"}`},
		"switched off":      {conf: `"delegate":{"promiscMode":false,"vlan":0,"macspoofchk":null}`},
		"another plugin":    {conf: `"delegate":{"type":"macvlan"}`, want: "type macvlan"},
		"another ipam":      {conf: `"ipam":{"type":"dhcp"}`, want: "ipam.type dhcp"},
		"ptp, another ipam": {conf: `"delegate":{"type":"ptp"},"ipam":{"type":"dhcp"}`, want: "ipam.type dhcp"},
		"no gateway":        {conf: `"delegate":{"isGateway":false}`, want: "isGateway"},
		"promiscuous":       {conf: `"delegate":{"promiscMode":true}`},
		"promiscuous and hairpin": {
			conf: `"delegate":{"promiscMode":true,"hairpinMode":true}`,
			want: "promiscMode and hairpinMode are both true; set one of them to false",
		},
		"a VLAN":            {conf: `"delegate":{"vlan":5}`, want: "vlan"},
		"an unknown option": {conf: `"delegate":{"newInVersion9":true}`, want: "newInVersion9"},
		"another spelling":  {conf: `"delegate":{"MTU":1400}`, want: "MTU"},
		"an option of ipam": {conf: `"ipam":{"resolvConf":"/etc/resolv.conf"}`, want: "ipam.resolvConf"},
		"a range besides":   {conf: `"ipam":{"subnet":"10.9.0.0/24"}`, want: "ipam.subnet"},
		"a route's option":  {conf: `"ipam":{"routes":[{"dst":"::/0","mtu":1400}]}`, want: "ipam.routes: mtu"},
		"a wanted range":    {conf: `"runtimeConfig":{"ipRanges":[[{}]]}`, want: "runtimeConfig.ipRanges"},
		"a type that is off": {conf: `"delegate":{"mtu":"large"}`, want: "json: cannot unmarshal string into Go struct " +
			"field wireDelegate.mtu of type int"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.conf != "" {
				c.conf = "," + c.conf
			}
			conf, err := parseText([]byte(`{"cniVersion":"1.0.0","name":"cbr0","type":"flannel"` + c.conf + `}`))
			if err != nil {
				t.Fatal(err)
			}
			rendered, err := conf.delegation.render(env)
			if err != nil {
				t.Fatal(err)
			}
			if _, have := rendered.inProcess(conf); have != c.want {
				t.Errorf("want %q, have %q", c.want, have)
			}
		})
	}
}
