package backendtest

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/subnet"
)

// values lets cmp compare hosts and leases.
func values() cmp.Options {
	return cmp.Options{
		cmpopts.EquateEmpty(),
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	}
}

func cloneLeases(in []subnet.Lease) []subnet.Lease {
	out := slices.Clone(in)
	for i := range out {
		out[i] = cloneLease(out[i])
	}
	return out
}

func cloneLease(l subnet.Lease) subnet.Lease {
	l.Shares = slices.Clone(l.Shares)
	for i := range l.Shares {
		l.Shares[i].Data = slices.Clone(l.Shares[i].Data)
	}
	return l
}

func cloneHost(h backend.Host) backend.Host {
	h.Config.Networks = slices.Clone(h.Config.Networks)
	h.Config.BackendOptions = slices.Clone(h.Config.BackendOptions)
	h.Config.Warnings = slices.Clone(h.Config.Warnings)
	h.Config.Raw = slices.Clone(h.Config.Raw)
	h.Uplink.Local = slices.Clone(h.Uplink.Local)
	h.Uplink.Public = slices.Clone(h.Uplink.Public)
	h.Facts.Defaults = maps.Clone(h.Facts.Defaults)
	h.Facts.Paths = maps.Clone(h.Facts.Paths)
	h.Facts.Ifaces = maps.Clone(h.Facts.Ifaces)
	for name, iface := range h.Facts.Ifaces {
		iface.Addrs = slices.Clone(iface.Addrs)
		if iface.VXLAN != nil {
			link := *iface.VXLAN
			iface.VXLAN = &link
		}
		h.Facts.Ifaces[name] = iface
	}
	h.Lease = cloneLease(h.Lease)
	return h
}
