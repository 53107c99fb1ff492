package subnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
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
	sorted := inOrder(all)
	verdicts := judge(cfg, own, sorted)
	return collect(make([]Lease, 0, len(sorted)), sorted, verdicts)
}

// inOrder gives the leases by age; all itself if it is so, as a store's are.
func inOrder(all []Lease) []Lease {
	if isSorted(all) {
		return all
	}
	sorted := slices.Clone(all)
	sortByCreated(sorted)
	return sorted
}

// verdict is what becomes of one lease.
type verdict struct {
	ours    bool     // it is our own: neither counts nor is refused
	refusal *Skipped // why it doesn't count; nil: it does
	shares  []Share  // those that count
}

func (v *verdict) counts() bool { return !v.ours && v.refusal == nil }

// judge looks at the leases from the oldest on: what counts stands in the way
// of those that follow.
func judge(cfg Config, own Lease, sorted []Lease) []verdict {
	subnets := newOverlaps(own, sorted)
	a := admission{cfg: cfg, own: own, find: subnets.find}
	for _, share := range own.Shares {
		subnets.add(share.Subnet, own.ID)
	}
	out := make([]verdict, len(sorted))
	for i := range sorted {
		out[i] = a.judge(&sorted[i])
		for _, share := range out[i].shares {
			subnets.add(share.Subnet, sorted[i].ID)
		}
	}
	return out
}

// collect appends to ok the leases that count, and gives why the others don't.
func collect(ok, sorted []Lease, verdicts []verdict) (_ []Lease, no []Skipped) {
	ok = slices.Grow(ok, len(verdicts))
	for i := range verdicts {
		switch v := &verdicts[i]; {
		case v.ours:
		case v.refusal != nil:
			no = append(no, *v.refusal)
		default:
			ok = append(ok, sorted[i])
			ok[len(ok)-1].Shares = v.shares
		}
	}
	return ok, no
}

// byCreated orders leases by age, the oldest first. By pointers, because a lease
// is large and there are many.
func byCreated(a, b *Lease) int {
	if a.Created != b.Created {
		return cmp.Compare(a.Created, b.Created)
	}
	return cmp.Compare(a.ID, b.ID)
}

func sortByCreated(leases []Lease) {
	slices.SortStableFunc(leases, func(a, b Lease) int { return byCreated(&a, &b) })
}

func isSorted(leases []Lease) bool {
	for i := 1; i < len(leases); i++ {
		if byCreated(&leases[i-1], &leases[i]) > 0 {
			return false
		}
	}
	return true
}

// merged is a new list of both, by age; of leases that are level, those of the
// first come first.
func merged(leases, also []Lease) []Lease {
	if !isSorted(leases) || !isSorted(also) {
		out := slices.Concat(leases, also)
		sortByCreated(out)
		return out
	}
	out := make([]Lease, 0, len(leases)+len(also))
	for i := range also {
		n := sort.Search(len(leases), func(j int) bool { return byCreated(&leases[j], &also[i]) > 0 })
		out = append(append(out, leases[:n]...), also[i])
		leases = leases[n:]
	}
	return append(out, leases...)
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

// admission judges leases one by one.
type admission struct {
	cfg Config
	own Lease
	// find gives a prefix that is held and that p overlaps, and its holder.
	find func(p netip.Prefix) (holder string, at netip.Prefix, found bool)
}

// judge judges one lease.
func (a *admission) judge(l *Lease) verdict {
	if l.ID == a.own.ID && a.own.ID != "" {
		return verdict{ours: true}
	}
	shares, refusal := a.check(l)
	if refusal.Field == "" {
		return verdict{shares: shares}
	}
	why := Skipped{ID: l.ID, Node: nameOf(*l), Field: refusal.Field, Reason: refusal.Reason}
	return verdict{refusal: &why}
}

// refused is a refusal without its peer, which Admit fills in.
func refused(field, format string, args ...any) Skipped {
	return Skipped{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// check gives the shares of a lease that count, or why none does.
func (a *admission) check(l *Lease) ([]Share, Skipped) {
	switch l.Backend {
	case a.cfg.Backend:
	case "":
		return nil, refused("backend type", "is missing: a subnet that is reserved and that no node has taken yet?")
	default:
		return nil, refused("backend type", "is %q, ours is %q", clip(l.Backend), a.cfg.Backend)
	}
	shares, refusal := a.relevant(l)
	if refusal.Field != "" {
		return nil, refusal
	}
	for i := range shares {
		if refusal := a.subnet(shares[i]); refusal.Field != "" {
			return nil, refusal
		}
		if refusal := a.address(shares[i]); refusal.Field != "" {
			return nil, refusal
		}
		if refusal := a.rival(shares[i]); refusal.Field != "" {
			return nil, refusal
		}
	}
	return shares, Skipped{}
}

// relevant gives the shares of the families that the cluster has, in its order.
func (a *admission) relevant(l *Lease) ([]Share, Skipped) {
	if slices.ContainsFunc(l.Shares, func(s Share) bool { return !s.Subnet.IsValid() }) {
		return nil, refused("subnet", "is not valid")
	}
	if slices.EqualFunc(l.Shares, a.cfg.Networks, func(s Share, n Network) bool {
		return s.Subnet.Addr().BitLen() == n.Prefix.Addr().BitLen()
	}) && len(l.Shares) > 0 {
		return l.Shares, Skipped{} // nothing to leave out: nearly always
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
	holder, at, found := a.find(p)
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
