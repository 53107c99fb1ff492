package network

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
)

// judgeSubnet says so when a subnet of this node's, now or before, is another
// node's: packets for the pods that run here go there. What was decided last
// counts until leases or the host change.
func (n *Node) judgeSubnet() {
	v := &n.view
	if !v.rejudge {
		return
	}
	v.rejudge = false
	err := lost(v.lease, v.believed)
	if err == nil {
		err = strayed(n.host().Config, v.lease, v.admitted.ok, v.facts.Ifaces)
	}
	n.opts.Health.Set(conditionSubnet, err)
}

// lost tells whether the store has our subnet as another node's, which is so as
// long as there is no other for us. A snapshot that is older than our lease
// tells nothing about it.
func lost(own subnet.Lease, s subnet.Snapshot) error {
	at, found := slices.BinarySearchFunc(s.Leases, own.Created,
		func(l subnet.Lease, created int64) int { return cmp.Compare(l.Created, created) })
	if own.ID == "" || s.Revision < own.Revision || found && s.Leases[at].ID == own.ID {
		return nil
	}
	for _, l := range s.Leases {
		if l.ID == own.ID && l.Created == own.Created || announces(l, own) {
			return nil
		}
	}
	for _, l := range s.Leases {
		for _, theirs := range l.Shares {
			for _, ours := range own.Shares {
				if l.Created > own.Created && theirs.Subnet.Overlaps(ours.Subnet) {
					return fmt.Errorf("our lease has ended, and %s is the subnet of %s now; there is no other for this node yet, "+
						"the log says why: pods that run here reach each other, and nobody else", ours.Subnet, nameOf(l))
				}
			}
		}
	}
	return nil
}

// announces tells whether a lease is ours anew: of the same subnets, with the
// same addresses and data.
func announces(l, own subnet.Lease) bool {
	return slices.EqualFunc(l.Shares, own.Shares, func(a, b subnet.Share) bool {
		return a.Subnet == b.Subnet && a.Public == b.Public && string(a.Data) == string(b.Data)
	})
}

// strayed finds interfaces of this host, bridges and pods' links, that have an
// address of a peer's subnet: the pods behind them were attached when it was ours.
func strayed(cfg subnet.Config, own subnet.Lease, peers []subnet.Lease, ifaces map[string]dataplane.Iface) error {
	type stray struct {
		name string
		addr netip.Prefix
	}
	var strays []stray
	for _, name := range slices.Sorted(maps.Keys(ifaces)) {
		if ifaces[name].VXLAN != nil {
			continue // what is not right on ours is mended
		}
		for _, a := range ifaces[name].Addrs {
			if inCluster(cfg, a.Addr()) && !holds(own, a.Addr()) {
				strays = append(strays, stray{name, a})
			}
		}
	}
	if len(strays) == 0 {
		return nil // nearly always, and at no cost
	}
	var errs []error
	told := map[netip.Prefix]bool{}
	for _, s := range strays {
		for _, l := range peers {
			at := slices.IndexFunc(l.Shares, func(share subnet.Share) bool { return share.Subnet.Contains(s.addr.Addr()) })
			if at < 0 || told[l.Shares[at].Subnet] {
				continue
			}
			told[l.Shares[at].Subnet] = true
			errs = append(errs, fmt.Errorf("%s has %s, and %s is the subnet of %s now, where packets for pods behind it go: "+
				"delete these pods (drain this node), and if nothing else is left: ip address del %s dev %s",
				s.name, s.addr, l.Shares[at].Subnet, nameOf(l), s.addr, s.name))
		}
	}
	return errors.Join(errs...)
}

func inCluster(cfg subnet.Config, a netip.Addr) bool {
	return slices.ContainsFunc(cfg.Networks, func(n subnet.Network) bool { return n.Prefix.Contains(a) })
}

func holds(l subnet.Lease, a netip.Addr) bool {
	return slices.ContainsFunc(l.Shares, func(s subnet.Share) bool { return s.Subnet.Contains(a) })
}

// nameOf is a node as people know it.
func nameOf(l subnet.Lease) string {
	if name := peerName(l); name != "" {
		return "node " + name
	}
	return "lease " + l.ID
}

// tellMovedOn logs that this node goes on with another subnet.
func (n *Node) tellMovedOn(was, now subnet.Lease) {
	if was.ID == "" || slices.Equal(subnetsOf(was), subnetsOf(now)) {
		return
	}
	n.opts.Log.WithFields(logrus.Fields{"was": subnetsOf(was), "is": subnetsOf(now)}).
		Warn("this node has another subnet now; " +
			"pods that run here keep their addresses, which nobody routes here any more: drain it")
}
