package vxlan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Options is the configuration's Backend object.
type Options struct {
	VNI      int  // 1..16777215; default 1
	Port     int  // UDP destination port; default 8472, which is the kernel's
	MTU      int  // of the underlay, before the overhead is deducted; 0: the uplink's
	Learning bool // let the device learn where MACs are from what it receives
	GBP      bool // group policy extension; a device that is there already keeps its own
	// DirectRouting sends what is for a peer on the uplink's own link there
	// without the tunnel.
	DirectRouting bool
}

const (
	defaultVNI  = 1
	defaultPort = 8472
)

// ParseOptions reads the object {"Type":"vxlan",…}; nil is all defaults. Keys
// are matched without regard to case, the last of several wins, and null is
// the same as absent, as in the rest of the configuration. The warnings name
// what has no effect.
func ParseOptions(raw json.RawMessage) (Options, []string, error) {
	opts := Options{VNI: defaultVNI, Port: defaultPort}
	values, err := members(raw)
	if err != nil {
		return Options{}, nil, err
	}
	var warnings []string
	for _, m := range values {
		switch strings.ToLower(m.key) {
		case "type":
		case "vni":
			err = number(m, &opts.VNI, 1, maxVNI)
		case "port":
			err = number(m, &opts.Port, 0, 65535)
		case "mtu":
			err = number(m, &opts.MTU, 0, 65535)
		case "learning":
			err = flag(m, &opts.Learning)
		case "gbp":
			err = flag(m, &opts.GBP)
		case "directrouting":
			err = flag(m, &opts.DirectRouting)
		default:
			warnings = append(warnings, fmt.Sprintf("Backend.%.40s means nothing to vxlan on Linux", m.key))
		}
		if err != nil {
			return Options{}, nil, err
		}
	}
	if opts.Port == 0 {
		opts.Port = defaultPort
	}
	return opts, warnings, nil
}

// member is one key of the object with its last value.
type member struct {
	key   string // as spelt
	value json.RawMessage
}

// members takes the object apart, in its order, without what is null.
func members(raw json.RawMessage) ([]member, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		return nil, fmt.Errorf("the configuration's Backend is not an object such as "+
			`{"Type":"vxlan"}: %w`, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // the brace; syntax was checked above
	out := make([]member, 0, len(whole))
	for dec.More() {
		key, _ := dec.Token()
		m := member{key: key.(string)}
		if err := dec.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("the configuration's Backend.%.40s: %w", m.key, err)
		}
		if string(m.value) == "null" {
			continue
		}
		out = slices.DeleteFunc(out, func(o member) bool { return strings.EqualFold(o.key, m.key) })
		out = append(out, m)
	}
	return out, nil
}

func number(m member, to *int, low, high int) error {
	if err := json.Unmarshal(m.value, to); err != nil || *to < low || *to > high {
		return fmt.Errorf("the configuration's Backend.%s is %.40s: write a whole number from %d to %d",
			m.key, m.value, low, high)
	}
	return nil
}

func flag(m member, to *bool) error {
	if err := json.Unmarshal(m.value, to); err != nil {
		return fmt.Errorf("the configuration's Backend.%s is %.40s: write true or false", m.key, m.value)
	}
	return nil
}
