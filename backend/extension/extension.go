// Package extension is the backend whose work is done by programs that the
// configuration names: one at the start, whose output peers are told, one for
// this node's subnet, and for each peer one that connects it and one that
// takes that back.
//
//	ip route add $SUBNET via $PUBLIC_IP
//
// It decides which programs must have been run, with which words, environment
// and input. It runs none, and owns nothing in the kernel.
package extension

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// The keys of the configuration.
const (
	PreStartup   = "PreStartupCommand"
	PostStartup  = "PostStartupCommand"
	SubnetAdd    = "SubnetAddCommand"
	SubnetRemove = "SubnetRemoveCommand"
)

// Backend implements backend.Backend and backend.Commander.
type Backend struct{}

// New gives the backend; its options are in the configuration.
func New() Backend { return Backend{} }

// options gives the texts of the commands by key, and the keys that mean nothing.
func options(cfg subnet.Config) (texts map[string]string, unknown []string, err error) {
	var object map[string]json.RawMessage
	if len(cfg.BackendOptions) > 0 {
		if err := json.Unmarshal(cfg.BackendOptions, &object); err != nil {
			return nil, nil, fmt.Errorf("the configuration's Backend is not an object: %w", err)
		}
	}
	texts = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		name := known(key)
		switch {
		case strings.EqualFold(key, "Type") || string(object[key]) == "null":
			continue
		case name == "":
			unknown = append(unknown, key)
			continue
		}
		var text string
		if err := json.Unmarshal(object[key], &text); err != nil {
			return nil, nil, fmt.Errorf("the configuration's Backend.%s is %.40s: write a command as one string",
				name, object[key])
		}
		texts[name] = text
	}
	return texts, unknown, nil
}

func known(key string) string {
	for _, name := range []string{PreStartup, PostStartup, SubnetAdd, SubnetRemove} {
		if strings.EqualFold(key, name) {
			return name
		}
	}
	return ""
}

// Warnings names keys that mean nothing.
func (Backend) Warnings(cfg subnet.Config) []string {
	_, unknown, _ := options(cfg)
	var out []string
	for _, key := range unknown {
		out = append(out, fmt.Sprintf("Backend.%.40s means nothing to extension", key))
	}
	return out
}

// command makes one of the commands; one that is not configured is none.
func command(cfg subnet.Config, key string, vars map[string]string, stdin string) (commands.Command, error) {
	texts, _, err := options(cfg)
	if err != nil || strings.TrimSpace(texts[key]) == "" {
		return commands.Command{}, err
	}
	argv, err := words(texts[key], vars)
	if err != nil {
		return commands.Command{}, fmt.Errorf("the configuration's Backend.%s %w", key, err)
	}
	c := commands.Command{Argv: argv, Stdin: stdin}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		c.Env = append(c.Env, name+"="+vars[name])
	}
	return c, nil
}

// variables are those of flannel, and of IPv6 the same with names of their own.
func variables(shares []subnet.Share) map[string]string {
	vars := map[string]string{}
	for _, s := range shares {
		if s.Subnet.Addr().Is4() {
			vars["SUBNET"], vars["PUBLIC_IP"] = s.Subnet.String(), s.Public.String()
		} else {
			vars["IPV6SUBNET"], vars["PUBLIC_IPV6"] = s.Subnet.String(), s.Public.String()
		}
	}
	return vars
}

func given(vars map[string]string) string {
	if len(vars) == 0 {
		return "there are no variables before the lease is there"
	}
	return "there are " + strings.Join(slices.Sorted(maps.Keys(vars)), ", ")
}

// Startup is the first command: it gets nothing.
func (Backend) Startup(cfg subnet.Config) (commands.Task, error) {
	c, err := command(cfg, PreStartup, nil, "")
	return commands.Task{Do: c}, err
}

// Ours is the command for our own subnet.
func (Backend) Ours(h backend.Host) (commands.Task, error) {
	vars := variables(h.Lease.Shares)
	for _, network := range h.Config.Networks {
		name := "NETWORK"
		if network.Prefix.Addr().Is6() {
			name = "IPV6_NETWORK"
		}
		vars[name] = network.Prefix.String()
	}
	c, err := command(h.Config, PostStartup, vars, "")
	return commands.Task{Do: c}, err
}

// For is what connects a peer, and what takes that back. Stdin is what the
// peer's PreStartupCommand wrote.
func (Backend) For(h backend.Host, l subnet.Lease) (commands.Task, error) {
	if len(l.Shares) == 0 {
		return commands.Task{}, &backend.FieldError{Field: "subnet", Reason: "is missing"}
	}
	var stdin string
	for _, s := range l.Shares {
		switch {
		case !s.Subnet.IsValid():
			return commands.Task{}, &backend.FieldError{Field: "subnet", Reason: "is not valid"}
		case s.Public.BitLen() != s.Subnet.Addr().BitLen():
			return commands.Task{}, &backend.FieldError{
				Field: "public address", Reason: fmt.Sprintf("%s is of another family than the subnet %s", s.Public, s.Subnet),
			}
		}
		if len(s.Data) > 0 && stdin == "" && json.Unmarshal(s.Data, &stdin) != nil {
			return commands.Task{}, &backend.FieldError{
				Field: "BackendData", Reason: fmt.Sprintf("is %.40s, and not a string", s.Data),
			}
		}
	}
	vars := variables(l.Shares)
	do, err := command(h.Config, SubnetAdd, vars, stdin)
	if err != nil {
		return commands.Task{}, err
	}
	undo, err := command(h.Config, SubnetRemove, vars, stdin)
	if err != nil {
		return commands.Task{}, err
	}
	return commands.Task{Do: do, Undo: undo}, nil
}

// Announce gives the public addresses, and what the first command wrote.
func (Backend) Announce(h backend.Host, _ []subnet.Share) ([]subnet.Share, error) {
	shares, err := h.AnnouncePublic()
	if err != nil || h.Output == "" {
		return shares, err
	}
	data, err := json.Marshal(h.Output)
	if err != nil {
		return nil, err // a string always encodes
	}
	for i := range shares {
		shares[i].Data = data
	}
	return shares, nil
}

// Base is empty; the error is that of a configuration which can't be followed.
// Commands for peers are tried with our own lease: they get the same variables.
func (b Backend) Base(h backend.Host) (dataplane.State, error) {
	if _, err := h.AnnouncePublic(); err != nil {
		return dataplane.State{}, err
	}
	if _, err := b.Startup(h.Config); err != nil {
		return dataplane.State{}, err
	}
	if _, err := b.Ours(h); err != nil {
		return dataplane.State{}, err
	}
	_, err := b.For(h, h.Lease)
	return dataplane.State{}, err
}

// Peer adds no entries, and refuses what For refuses.
func (b Backend) Peer(h backend.Host, l subnet.Lease, _ *dataplane.State) error {
	_, err := b.For(h, l)
	return err
}

// MTU is that of the uplink, as in flannel.
func (Backend) MTU(h backend.Host) int { return h.Uplink.MTU }
