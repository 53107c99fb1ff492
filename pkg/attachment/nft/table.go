package nft

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Lacking tells of an error that the kernel has no nftables, or not this family.
func Lacking(err error) bool {
	lacking := []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP}
	return slices.ContainsFunc(lacking, func(e error) bool { return errors.Is(err, e) })
}

// Absent tells of an error that what was asked for is not there, or can't be.
func Absent(err error) bool { return errors.Is(err, unix.ENOENT) || Lacking(err) }

const (
	// attempts are how often a set is read whose dump was disturbed.
	attempts = 10
	pause    = time.Millisecond
)

// Elements reads those of a set. No set has none. While the kernel makes a set's hash
// table larger or smaller, a dump may lack elements; it has as many others twice then,
// and is made again.
func Elements(c *nftables.Conn, s *nftables.Set) ([]nftables.SetElement, error) {
	for attempt := 1; ; attempt++ {
		have, err := c.GetSetElements(s)
		// google/nftables v0.3.0 does not wrap the error here.
		if err != nil && strings.HasSuffix(err.Error(), unix.ENOENT.Error()) {
			return nil, nil
		}
		if err != nil || !repeats(have) || attempt == attempts {
			return have, err
		}
		<-time.After(pause)
	}
}

func repeats(elements []nftables.SetElement) bool {
	seen := make(map[string]bool, len(elements))
	for _, e := range elements {
		seen[string(e.Key)] = true
	}
	return len(seen) < len(elements)
}

// Drop takes a table away with all that is in it, in the namespace of the calling
// thread; with dry nothing. there tells whether it was there.
func Drop(t *nftables.Table, dry bool) (there bool, err error) {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTableOfFamily(t.Name, t.Family)
	}
	if err == nil && !dry {
		c.DelTable(t)
		err = c.Flush()
	}
	if Absent(err) {
		return false, nil
	}
	return err == nil, err
}
