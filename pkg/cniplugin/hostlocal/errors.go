package hostlocal

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// errNoneFree is inside of this package only; see ExhaustedError.
var errNoneFree = errors.New("no free address")

// ExhaustedError says that a subnet has no free address, and who has them.
type ExhaustedError struct {
	Subnet netip.Prefix
	InUse  []Entry // the oldest first
	Dir    string
}

func (e *ExhaustedError) Error() string {
	const enough = 5
	var some []string
	for _, u := range e.InUse[:min(enough, len(e.InUse))] {
		some = append(some, fmt.Sprintf("%s by %s since %s", u.Addr, u.Holder, u.Since.UTC().Format(time.RFC3339)))
	}
	more := ""
	if n := len(e.InUse) - len(some); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("no free address in %s: %d in use, each a file in %s: %s%s",
		e.Subnet, len(e.InUse), e.Dir, strings.Join(some, ", "), more)
}

// TakenError says that an address that was asked for has a holder.
type TakenError struct {
	Addr   netip.Addr
	Holder Holder
}

func (e *TakenError) Error() string { return fmt.Sprintf("address %s is held by %s", e.Addr, e.Holder) }

// OutsideError says that an address that was asked for is none to give.
type OutsideError struct {
	Addr    netip.Addr
	Subnets []netip.Prefix
}

func (e *OutsideError) Error() string {
	return fmt.Sprintf("address %s is none that this node gives to pods: it has one of each of %v, "+
		"without the first two and the last", e.Addr, e.Subnets)
}

// exhausted turns errNoneFree into what a user can act on.
func (s Store) exhausted(subnet netip.Prefix, p pool, err error) error {
	if !errors.Is(err, errNoneFree) {
		return err
	}
	all, errRead := s.entries()
	var inUse []Entry
	for _, e := range all {
		if p.has(e.Addr) {
			inUse = append(inUse, e)
		}
	}
	slices.SortStableFunc(inUse, func(a, b Entry) int { return a.Since.Compare(b.Since) })
	if errRead != nil {
		return errors.Join(&ExhaustedError{subnet, inUse, s.dir}, errRead)
	}
	return &ExhaustedError{subnet, inUse, s.dir}
}
