package probe

import (
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Arrivals counts what comes from some hosts to a UDP port, before any rule can
// drop it. It is for one family: that of the hosts.
type Arrivals struct {
	table *table
	from  []netip.Addr
}

// Watch begins to count in the namespace of the caller. Close it.
func Watch(port int, from []netip.Addr) (*Arrivals, error) {
	t, err := watchTable(from[0].Is6())
	if err != nil {
		return nil, err
	}
	src, _, size := header(from[0].Is6())
	var spots []spot
	for _, a := range from {
		spots = append(spots, spot{a.String(), hook(unix.NF_INET_PRE_ROUTING), first, []expr.Any{
			load(expr.PayloadBaseNetworkHeader, src, size), same(a.AsSlice()),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, same([]byte{unix.IPPROTO_UDP}),
			load(expr.PayloadBaseTransportHeader, 2, 2), same(number(uint16(port))),
		}})
	}
	if err := t.place(spots); err != nil {
		t.close()
		return nil, err
	}
	return &Arrivals{t, from}, nil
}

// Close ends counting.
func (a *Arrivals) Close() { a.table.close() }

// Read gives the packets of each host so far.
func (a *Arrivals) Read() (map[netip.Addr]uint64, error) {
	seen, err := a.table.read()
	out := map[netip.Addr]uint64{}
	for i, s := range seen {
		out[a.from[i]] = s.Packets
	}
	return out, err
}
