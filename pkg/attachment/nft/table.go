package nft

import (
	"errors"
	"slices"

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
