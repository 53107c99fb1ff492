package network

import (
	"errors"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// complaints are what the log was told of entries that can't be written: by
// entry, why. A round is tried again and again, and its reader is told once, and
// once more when the reason changes or it came back after it was gone.
type complaints map[string]string

// fresh gives what is new in a round, and notes it.
func (c complaints) fresh(r reconcile.Round) (refused []*dataplane.OpError, conflicts []dataplane.Op) {
	now := map[string]string{}
	for _, f := range r.Failed {
		if errors.Is(f, dataplane.ErrOccupied) {
			continue // a conflict, which Left has too
		}
		entry := f.Op.Entry()
		if now[entry] = f.Err.Error(); c[entry] != now[entry] {
			refused = append(refused, f)
		}
	}
	for _, op := range r.Left.Conflicts {
		entry := op.Entry()
		if now[entry] = conflictText(op); c[entry] != now[entry] {
			conflicts = append(conflicts, op)
		}
	}
	c.forget(r, now)
	for entry, why := range now {
		c[entry] = why
	}
	return refused, conflicts
}

// forget drops what is over: after a look at everything all that it did not
// find again, else what was written now.
func (c complaints) forget(r reconcile.Round, now map[string]string) {
	if len(c) == 0 {
		return // nearly always: don't name thousands of entries for nothing
	}
	if r.Full {
		clear(c)
		return
	}
	for _, op := range r.Applied.Ops {
		if entry := op.Entry(); now[entry] == "" {
			delete(c, entry)
		}
	}
}
