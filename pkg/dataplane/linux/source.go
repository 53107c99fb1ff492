package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// A VXLAN device remembers for each FDB entry the way to its VTEP, and over IPv6
// the source address with it (struct dst_cache): a new `local` is not used for a
// VTEP that was sent to, until some route near the way changes. Nothing tells of
// that. Only a replace that changes an entry makes the kernel forget, so each one
// gets the underlay interface said, which it takes anyway, and loses it again when
// the device has its address. Nothing is without an entry meanwhile, and one that
// is left with an interface is seen as wrong.

// changeSource has f change the address that a device sends from.
func (k *Kernel) changeSource(have link, want dataplane.Link, parent int, f func() error) error {
	before := have.vxlan.local
	if parent == 0 || !before.Is6() || !want.Local.IsValid() || before == want.Local {
		return f()
	}
	all, err := k.neighbours(unix.AF_BRIDGE, have.index)
	if err != nil {
		return err
	}
	said := k.forwardBy(all, parent)
	err = f()
	if lost := errors.Join(said, k.forwardBy(all, 0)); lost != nil {
		err = errors.Join(err, fmt.Errorf("make %s forget the address it sent from: %w", have.name, lost))
	}
	return err
}

// forwardBy writes the entries again, with that interface, or with none. Those
// that somebody gave settings of their own are left out: they are made anew.
func (k *Kernel) forwardBy(all []neighbour, via int) error {
	var b batch
	var errs []error
	for i, n := range all {
		if !n.odd {
			b.putForwardBy(n.index, n.mac, n.ip, via)
			k.memory.wroteForward(n.index, n.mac, n.ip)
		}
		if len(b.types) == maxBatch || i == len(all)-1 {
			b.flush(k)
			errs = append(errs, b.errs...)
			b.clear()
		}
	}
	return errors.Join(errs...)
}
