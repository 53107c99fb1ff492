package subnet_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/subnet"
)

// plain lets cmp compare what netip keeps unexported.
var plain = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

func network(prefix string, length int, first, last string) subnet.Network {
	return subnet.Network{
		Prefix: netip.MustParsePrefix(prefix), SubnetLen: length,
		Min: netip.MustParseAddr(first), Max: netip.MustParseAddr(last),
	}
}

// parse is for tests whose configuration is right.
func parse(t testing.TB, raw string) subnet.Config {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	if err != nil {
		t.Fatalf("ParseConfig(%s): %v", raw, err)
	}
	return cfg
}

func TestParseConfigNetworks(t *testing.T) {
	const vxlan = `, "Backend": {"Type": "vxlan"}}`
	tests := map[string]struct {
		raw  string
		want []subnet.Network
	}{
		"a large network gets /24": {
			`{"Network": "10.0.0.0/8"` + vxlan,
			[]subnet.Network{network("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0")},
		},
		"the smallest network that gets /24": {
			`{"Network": "10.5.0.0/22"` + vxlan,
			[]subnet.Network{network("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0")},
		},
		"a small network is cut in four": {
			`{"Network": "10.5.0.0/24"` + vxlan,
			[]subnet.Network{network("10.5.0.0/24", 26, "10.5.0.64", "10.5.0.192")},
		},
		"the smallest network": {
			`{"Network": "10.5.0.0/28"` + vxlan,
			[]subnet.Network{network("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12")},
		},
		"the top of the address space": {
			`{"Network": "254.0.0.0/7", "SubnetLen": 9` + vxlan,
			[]subnet.Network{network("254.0.0.0/7", 9, "254.128.0.0", "255.128.0.0")},
		},
		"everything given, the first subnet too": {
			`{"Network": "10.5.0.0/16", "SubnetLen": 28, "SubnetMin": "10.5.0.0", "SubnetMax": "10.5.0.16"` + vxlan,
			[]subnet.Network{network("10.5.0.0/16", 28, "10.5.0.0", "10.5.0.16")},
		},
		"0 and 0.0.0.0 are not given, as in flannel": {
			`{"Network": "10.5.0.0/16", "SubnetLen": 0, "SubnetMin": "0.0.0.0", "SubnetMax": "0.0.0.0"` + vxlan,
			[]subnet.Network{network("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")},
		},
		"null is not given": {
			`{"Network": "10.5.0.0/16", "SubnetLen": null, "EnableIPv4": null` + vxlan,
			[]subnet.Network{network("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")},
		},
		"dual stack": {
			`{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"` + vxlan,
			[]subnet.Network{
				network("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"),
				network("fd00:5::/48", 64, "fd00:5:0:1::", "fd00:5:0:ffff::"),
			},
		},
		"IPv6 only, the smallest that gets /64": {
			`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/62"` + vxlan,
			[]subnet.Network{network("fd00:5::/62", 64, "fd00:5:0:1::", "fd00:5:0:3::")},
		},
		"IPv6 only, the smallest of all": {
			`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/124"` + vxlan,
			[]subnet.Network{network("fd00:5::/124", 126, "fd00:5::4", "fd00:5::c")},
		},
		"IPv6 with its three other keys": {
			`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48", "IPv6SubnetLen": 56,
			  "IPv6SubnetMin": "fd00:5:0:200::", "IPv6SubnetMax": "fd00:5:0:300::"` + vxlan,
			[]subnet.Network{network("fd00:5::/48", 56, "fd00:5:0:200::", "fd00:5:0:300::")},
		},
		"keys in any case": {
			`{"nETWORK": "10.5.0.0/16", "subnetlen": 25` + vxlan,
			[]subnet.Network{network("10.5.0.0/16", 25, "10.5.0.128", "10.5.255.128")},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, tt.raw)
			if diff := cmp.Diff(tt.want, cfg.Networks, plain); diff != "" {
				t.Errorf("networks (-want +have):\n%s", diff)
			}
			if diff := cmp.Diff([]string(nil), cfg.Warnings, plain); diff != "" {
				t.Errorf("warnings (-want +have):\n%s", diff)
			}
			again := parse(t, string(cfg.Raw))
			if diff := cmp.Diff(cfg, again, plain); diff != "" {
				t.Errorf("parsed again from Raw (-want +have):\n%s", diff)
			}
		})
	}
}

func TestParseConfigEngineAndBackend(t *testing.T) {
	const vxlan = `{"Type":"vxlan"}`
	const odd = `{ "VNI":1e1, "Type":"vxlan","x":[ null ,0.10], "big":12345678901234567890 }`
	tests := map[string]struct {
		keys, engine, backend, options string
	}{
		"absent is auto":        {`"Backend":{"Type":"vxlan"}`, "", "vxlan", vxlan},
		"true is nftables":      {`"EnableNFTables":true`, "nftables", "vxlan", vxlan},
		"false is iptables":     {`"EnableNFTables":false`, "iptables", "vxlan", vxlan},
		"type in lower case":    {`"Backend":{"type":"Host-GW"}`, "", "host-gw", `{"type":"Host-GW"}`},
		"null is like absent":   {`"Backend":null,"EnableNFTables":null`, "", "vxlan", vxlan},
		"options byte for byte": {`"Backend":` + odd, "", "vxlan", odd},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, `{"Network":"10.5.0.0/16",`+tt.keys+`}`)
			want := []string{tt.engine, tt.backend, tt.options}
			have := []string{cfg.Engine, cfg.Backend, string(cfg.BackendOptions)}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("engine, backend, options (-want +have):\n%s", diff)
			}
		})
	}
}

func TestParseConfigWarnings(t *testing.T) {
	tests := map[string]struct {
		raw  string
		want []string
	}{
		"no backend": {
			`{"Network":"10.5.0.0/16"}`,
			[]string{"Backend: is absent, so vxlan is used; flannel would use udp"},
		},
		"unknown key": {
			`{"Network":"10.5.0.0/16","SubnetLenght":24,"Backend":{"Type":"vxlan","Whatever":1}}`,
			[]string{"SubnetLenght: is not a key that weft knows, and has no effect; check its spelling"},
		},
		"the same key in another case": {
			`{"Network":"10.5.0.0/16","network":"10.6.0.0/16","Backend":{"Type":"vxlan","VNI":1,"vni":2}}`,
			[]string{
				"network: is there again after Network; the last one counts",
				"Backend.vni: is there again after Backend.VNI; the last one counts",
			},
		},
		"a letter that folds only by way of upper case": {
			`{"Network":"10.5.0.0/16","ſubnetLen":24,"SubnetLen":25,"Backend":{"Type":"vxlan"}}`,
			[]string{"SubnetLen: is there again after ſubnetLen; the last one counts"},
		},
		"host bits": {
			`{"Network":"10.5.1.2/16","Backend":{"Type":"vxlan"}}`,
			[]string{"Network 10.5.1.2/16: has bits set behind the prefix length; 10.5.0.0/16 is used"},
		},
		"a network whose switch was forgotten": {
			`{"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}`,
			[]string{"IPv6Network: fd00::/48 has no effect, as EnableIPv6 is not true"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parse(t, tt.raw).Warnings); diff != "" {
				t.Errorf("warnings (-want +have):\n%s", diff)
			}
		})
	}
}

func TestParseConfigLastOfTwoKeysWins(t *testing.T) {
	cfg := parse(t, `{"Network":"10.5.0.0/16","network":"10.6.0.0/16","NETWORK":null}`)
	if want := netip.MustParsePrefix("10.6.0.0/16"); cfg.Networks[0].Prefix != want {
		t.Errorf("network: want %s, have %s", want, cfg.Networks[0].Prefix)
	}
}

// The file has blocks of "# name", a configuration, and one "-> …" for each line
// of the error that it gives.
func TestParseConfigErrors(t *testing.T) {
	golden, err := os.ReadFile("testdata/config-errors.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(strings.TrimSpace(string(golden)), "\n\n") {
		title, rest, _ := strings.Cut(block, "\n")
		raw, want, found := strings.Cut(rest, "\n-> ")
		name, isTitle := strings.CutPrefix(title, "# ")
		if !found || !isTitle {
			t.Fatalf("not a case:\n%s", block)
		}
		t.Run(name, func(t *testing.T) {
			checkRefused(t, raw, strings.ReplaceAll(want, "\n-> ", "\n"))
		})
	}
	t.Run("empty", func(t *testing.T) {
		checkRefused(t, " \n", "the configuration is empty; "+
			`write one such as {"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}`)
	})
	t.Run("too large", func(t *testing.T) {
		checkRefused(t, `"`+strings.Repeat("x", 64<<10)+`"`,
			"the configuration has 65538 bytes, more than 65536; is it the right file or key?")
	})
	t.Run("a long value is cut in the message", func(t *testing.T) {
		checkRefused(t, `{"Network":"`+strings.Repeat("ü", 1000)+`","Backend":{"Type":"vxlan"}}`,
			`Network "`+strings.Repeat("ü", 30)+`…": is not an IPv4 network; write one such as "10.42.0.0/16"`)
	})
}

func checkRefused(t *testing.T, raw, want string) {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	if err == nil {
		t.Fatalf("no error, but %+v", cfg)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff(subnet.Config{}, cfg, plain); diff != "" {
		t.Errorf("configuration beside an error (-want +have):\n%s", diff)
	}
}

// What comes out is what Config promises, whatever goes in.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"Network":"10.5.0.0/16"}`))
	f.Add([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/1","IPv6SubnetLen":126,` +
		`"IPv6SubnetMax":"fd00::","Backend":{"Type":"X"}}`))
	f.Add([]byte(`{"network":"1.2.3.4/7","SubnetLen":9,"SubnetMin":"2.0.0.0","Network":null,"Backend":{"type":"vxlan"}}`))
	f.Add([]byte(`{"a":[[[{"a":1}]]],"a":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cfg, err := subnet.ParseConfig(raw)
		if err != nil {
			return
		}
		again, err := subnet.ParseConfig(cfg.Raw)
		if err != nil {
			t.Fatalf("Raw does not parse again: %v", err)
		}
		if diff := cmp.Diff(cfg, again, plain); diff != "" {
			t.Errorf("parsed again from Raw (-want +have):\n%s", diff)
		}
		if len(cfg.Networks) == 0 || cfg.Backend == "" || !json.Valid(cfg.BackendOptions) {
			t.Errorf("not valid: %+v", cfg)
		}
		for _, n := range cfg.Networks {
			first, last := netip.PrefixFrom(n.Min, n.SubnetLen), netip.PrefixFrom(n.Max, n.SubnetLen)
			if n.Prefix != n.Prefix.Masked() || first != first.Masked() || last != last.Masked() ||
				!n.Prefix.Contains(n.Min) || !n.Prefix.Contains(n.Max) || n.Max.Less(n.Min) ||
				n.SubnetLen < n.Prefix.Bits()+2 {
				t.Errorf("not valid: %+v", n)
			}
		}
	})
}
