package subnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Admit decides which leases count as peers, in the order of Created, then ID.
// Of two leases that clash the first one counts, so that a newcomer harms
// nobody who is there; and nothing that clashes with our own lease counts,
// however old it is. What doesn't count is in no, with the reason.
//
// A lease counts as a whole or not at all, but what it says of a family that
// the cluster doesn't have is left out, and it may lack one that the cluster
// has. Our own lease in all (the one with own's ID) is left out silently. all
// is not changed; Data is not looked at, that is the backend's.
func Admit(cfg Config, own Lease, all []Lease) (ok []Lease, no []Skipped) {
	sorted := all
	if !slices.IsSortedFunc(all, byCreated) { // a store gives them sorted
		sorted = slices.Clone(all)
		slices.SortStableFunc(sorted, byCreated)
	}
	a := admission{cfg: cfg, own: own, subnets: newOverlaps(own, all)}
	ok = make([]Lease, 0, len(all))
	for _, share := range own.Shares {
		a.subnets.add(share.Subnet, own.ID)
	}
	for _, l := range sorted {
		if l.ID == own.ID && own.ID != "" {
			continue
		}
		shares, refusal := a.check(l)
		if refusal.Field != "" {
			refusal.ID, refusal.Node = l.ID, nameOf(l)
			no = append(no, refusal)
			continue
		}
		for _, share := range shares {
			a.subnets.add(share.Subnet, l.ID)
		}
		l.Shares = shares
		ok = append(ok, l)
	}
	return ok, no
}

// byCreated orders leases by age, the oldest first.
func byCreated(a, b Lease) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
}

// nameOf is the node's name or its first public address, as far as known.
func nameOf(l Lease) string {
	if l.Node != "" {
		return l.Node
	}
	for _, share := range l.Shares {
		if share.Public.IsValid() {
			return share.Public.String()
		}
	}
	return ""
}

// admission is what the leases so far leave to those that follow.
type admission struct {
	cfg     Config
	own     Lease
	subnets *overlaps
}

// refused is a refusal without its peer, which Admit fills in.
func refused(field, format string, args ...any) Skipped {
	return Skipped{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// check gives the shares of a lease that count, or why none does.
func (a *admission) check(l Lease) ([]Share, Skipped) {
	if l.Backend != a.cfg.Backend {
		return nil, refused("backend type", "is %q, ours is %q", clip(l.Backend), a.cfg.Backend)
	}
	if slices.ContainsFunc(l.Shares, func(s Share) bool { return !s.Subnet.IsValid() }) {
		return nil, refused("subnet", "is not valid")
	}
	shares := make([]Share, 0, len(a.cfg.Networks))
	for _, n := range a.cfg.Networks {
		mine := len(shares)
		for _, share := range l.Shares {
			if share.Subnet.Addr().BitLen() != n.Prefix.Addr().BitLen() {
				continue
			}
			if len(shares) > mine {
				return nil, refused("subnet", "%s is a second one of its family beside %s",
					share.Subnet, shares[mine].Subnet)
			}
			shares = append(shares, share)
		}
	}
	if len(shares) == 0 {
		return nil, refused("subnet", "is missing: the lease has none of a family that the cluster has")
	}
	for _, share := range shares {
		for _, check := range []func(Share) Skipped{a.subnet, a.address, a.rival} {
			if refusal := check(share); refusal.Field != "" {
				return nil, refusal
			}
		}
	}
	return shares, Skipped{}
}

// network is that of a family.
func (a *admission) network(width int) netip.Prefix {
	for _, n := range a.cfg.Networks {
		if n.Prefix.Addr().BitLen() == width {
			return n.Prefix
		}
	}
	return netip.Prefix{}
}

// subnet refuses what can't be routed to a peer.
func (a *admission) subnet(share Share) Skipped {
	p := share.Subnet
	network := a.network(p.Addr().BitLen())
	switch {
	case p != p.Masked():
		return refused("subnet", "%s has bits set behind the prefix length; it would be %s", p, p.Masked())
	case p == network:
		return refused("subnet", "%s is the whole cluster network", p)
	case p.Bits() < network.Bits() || !network.Contains(p.Addr()):
		return refused("subnet", "%s lies outside of the cluster network %s", p, network)
	}
	holder, at, found := a.subnets.find(p)
	switch {
	case !found:
		return Skipped{}
	case holder == a.own.ID:
		return refused("subnet", "%s overlaps our own %s", p, at)
	default:
		return refused("subnet", "%s overlaps %s of lease %s, which came first", p, at, holder)
	}
}

// address refuses what no underlay packet can be sent to.
func (a *admission) address(share Share) Skipped {
	const field = "public address"
	ip, width := share.Public, share.Subnet.Addr().BitLen()
	switch {
	case !ip.IsValid():
		return refused(field, "is missing for %s", share.Subnet)
	case ip.BitLen() != width || ip.Is4In6():
		return refused(field, "%s is of another family than the subnet %s", ip, share.Subnet)
	case ip.Zone() != "":
		return refused(field, "%s has a zone, which means nothing to another node", ip)
	case ip.IsUnspecified():
		return refused(field, "%s is the unspecified address", ip)
	case ip.IsLoopback():
		return refused(field, "%s is a loopback address", ip)
	case ip.IsLinkLocalUnicast():
		return refused(field, "%s is a link-local address", ip)
	case ip.IsMulticast():
		return refused(field, "%s is a multicast address", ip)
	case !ip.IsGlobalUnicast():
		return refused(field, "%s is the broadcast address", ip)
	case a.network(width).Contains(ip):
		return refused(field, "%s lies inside of the cluster network %s", ip, a.network(width))
	}
	return Skipped{}
}

// rival refuses an address that is ours. Two leases of one peer's address both
// count: a node that was installed anew has a new lease beside its old one,
// which lives on for a day. Their VTEPs' MACs tell them apart.
func (a *admission) rival(share Share) Skipped {
	const field = "public address"
	ip := share.Public
	for _, ours := range a.own.Shares {
		switch {
		case ours.Public == ip:
			return refused(field, "%s is our own", ip)
		case ours.Subnet.Contains(ip):
			return refused(field, "%s lies inside of our own subnet %s", ip, ours.Subnet)
		}
	}
	return Skipped{}
}
