package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Network is one family's part of the cluster network.
type Network struct {
	Prefix    netip.Prefix // masked
	SubnetLen int          // prefix length of a node's subnet
	Min, Max  netip.Addr   // network addresses of the first and last subnet to give out
}

// Config is the cluster's network configuration, valid by construction: only
// ParseConfig makes one.
type Config struct {
	Networks []Network // one per enabled family, IPv4 first
	// Engine is the rules engine: "nftables", "iptables", or "" for auto
	// (EnableNFTables true, false, absent).
	Engine string
	// Backend is the backend's type in lower case, BackendOptions its object:
	// always an object, byte for byte as written, {"Type":"vxlan"} where none was.
	Backend        string
	BackendOptions json.RawMessage
	Warnings       []string // keys that mean nothing to us, defaults that differ from flannel's
	// Raw is what was parsed. ParseConfig(c.Raw) gives c again.
	Raw json.RawMessage
}

const (
	maxConfig      = 64 << 10 // bytes; a real one has a few hundred
	defaultBackend = "vxlan"
	example        = `{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}`
)

// ParseConfig reads the network configuration in flannel's form: a JSON object
// whose keys are matched without regard to case, the last of several winning,
// null being the same as absent.
//
// What is wrong is told all at once (errors.Join), each with its key, the cause
// and what to write instead. What is merely odd is in Config.Warnings.
func ParseConfig(raw []byte) (Config, error) {
	top, err := parseTop(raw)
	if err != nil {
		return Config{}, err
	}
	p := &configParser{fields: top.values}
	p.warnings = append(p.warnings, top.warnings("", configKeys())...)

	cfg := Config{Raw: slices.Clone(raw)}
	cfg.Networks = p.networks()
	cfg.Engine = p.engine()
	cfg.Backend, cfg.BackendOptions = p.backend()
	cfg.Warnings = p.warnings
	if err := errors.Join(p.errs...); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// parseTop takes the outermost object apart.
func parseTop(raw []byte) (object, error) {
	if len(raw) > maxConfig {
		return object{}, fmt.Errorf("the configuration has %d bytes, more than %d; "+
			"is it the right file or key?", len(raw), maxConfig)
	}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return object{}, fmt.Errorf("the configuration is empty; write one such as %s", example)
	}
	var whole json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		return object{}, fmt.Errorf("the configuration is not JSON: %w%s; correct it there",
			err, position(raw, err))
	}
	if kind := kindOf(whole); kind != "an object" {
		return object{}, fmt.Errorf("the configuration is %s, not an object; write one such as %s", kind, example)
	}
	return parseObject(whole)
}

// position says where a syntax error is, in the way that editors count.
func position(raw []byte, err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) || syntax.Offset < 1 || syntax.Offset > int64(len(raw)) {
		return ""
	}
	before := string(raw[:syntax.Offset-1])
	line := strings.Count(before, "\n") + 1
	return fmt.Sprintf(" (line %d, column %d)", line, len(before)-strings.LastIndexByte(before, '\n'))
}

// configKeys is every key that has a meaning.
func configKeys() []string {
	keys := []string{"EnableIPv4", "EnableIPv6", "EnableNFTables", "Backend"}
	for _, f := range families() {
		keys = append(keys, f.network, f.length, f.min, f.max)
	}
	return keys
}

// configParser collects what is wrong and what is odd over all keys.
type configParser struct {
	fields   map[string]json.RawMessage // by folded key
	warnings []string
	errs     []error
}

func (p *configParser) failf(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *configParser) warnf(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// lookup decodes the value of a key. It is false where the key is absent, or
// of the wrong type, which is then an error that names what it should be.
func lookup[T any](p *configParser, key, want string) (T, bool) {
	var value T
	raw, found := p.fields[fold(key)]
	if !found {
		return value, false
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		p.failf("%s: is %s, %s; write %s", key, kindOf(raw), clip(string(raw)), want)
		return value, false
	}
	return value, true
}

// flag is the boolean of a key, or its default.
func (p *configParser) flag(key string, absent bool) bool {
	value, found := lookup[bool](p, key, "true or false without quotes")
	if !found {
		return absent
	}
	return value
}

// engine maps the three states of EnableNFTables.
func (p *configParser) engine() string {
	nft, found := lookup[bool](p, "EnableNFTables", "true or false without quotes")
	switch {
	case !found:
		return ""
	case nft:
		return "nftables"
	default:
		return "iptables"
	}
}

// backend gives the type, in lower case, and the object that holds it.
func (p *configParser) backend() (string, json.RawMessage) {
	raw, found := p.fields["backend"]
	if !found {
		p.warnf("Backend: is absent, so %s is used; flannel would use udp", defaultBackend)
		return defaultBackend, json.RawMessage(`{"Type":"` + defaultBackend + `"}`)
	}
	if kind := kindOf(raw); kind != "an object" {
		p.failf(`Backend: is %s, not an object; write {"Type": "vxlan"}`, kind)
		return "", nil
	}
	options, err := parseObject(raw)
	if err != nil {
		p.failf("Backend: %w; correct it", err)
		return "", nil
	}
	p.warnings = append(p.warnings, options.warnings("Backend.", nil)...)
	inner := &configParser{fields: options.values}
	name, found := lookup[string](inner, "Type", `the name of a backend in quotes, such as "vxlan"`)
	for _, err := range inner.errs {
		p.failf("Backend.%w", err)
	}
	if name == "" && len(inner.errs) == 0 {
		cause := "has no Type"
		if found {
			cause = "has an empty Type"
		}
		p.failf(`Backend: %s; add "Type": "vxlan"`, cause)
	}
	return strings.ToLower(name), slices.Clone(raw)
}
