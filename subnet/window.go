package subnet

// window finds the part in which two lists of leases differ: all of a before and
// behind a[from:aTo] is b's, before and behind b[from:bTo]. A store's snapshots
// have most of their leases in common, and leases that were given out don't
// change, so that this is one comparison per lease, without looking into it; and
// none where both are one array, to which a lease was appended.
func window(a, b []Lease) (from, aTo, bTo int) {
	aTo, bTo = len(a), len(b)
	short := min(aTo, bTo)
	if short > 0 && &a[0] == &b[0] {
		from = short
	}
	for from < short && identical(&a[from], &b[from]) {
		from++
	}
	for aTo > from && bTo > from && identical(&a[aTo-1], &b[bTo-1]) {
		aTo, bTo = aTo-1, bTo-1
	}
	return from, aTo, bTo
}

// identical tells whether one lease is a copy of the other: false says nothing.
func identical(a, b *Lease) bool {
	return a.Revision == b.Revision && a.Created == b.Created && len(a.Shares) == len(b.Shares) &&
		(len(a.Shares) == 0 || &a.Shares[0] == &b.Shares[0]) &&
		a.ID == b.ID && a.Node == b.Node && a.Backend == b.Backend && a.Expires.Equal(b.Expires)
}
