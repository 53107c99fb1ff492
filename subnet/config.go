package subnet

import (
	"encoding/json"
	"net/netip"
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
	// Backend is the backend's type in lower case, BackendOptions its object.
	Backend        string
	BackendOptions json.RawMessage
	Warnings       []string // keys that mean nothing to us, defaults that differ from flannel's
}
