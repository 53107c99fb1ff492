package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Kernel is one network namespace's kernel. linux is the real one, fake the one
// in memory; kerneltest is the contract in tests. One goroutine calls Facts,
// Observe and Apply; Watch runs beside it.
type Kernel interface {
	// Facts reads the host: its interfaces, its default routes, and for each
	// of the peers the way there. It never reads the tables of others. A Kernel
	// that has Paths, of the same type, reads the ways to more peers than the last
	// Facts told of, and nothing else; from then on all of them are watched.
	Facts(ctx context.Context, peers []netip.Addr) (Facts, error)
	// Observe reads what the scope speaks of, in canonical form, so that
	// values compare with ==. It costs the size of the scope, not of the
	// kernel's tables, and dumps are filtered in the kernel.
	Observe(ctx context.Context, s Scope) (Observed, error)
	// Apply writes the plan's ops in order. An op that fails does not stop
	// the others; its error is returned and nothing else is known about it.
	// Conflicts are not touched. It is idempotent.
	Apply(ctx context.Context, p Plan) []*OpError
	// Watch sends a scope for whatever changes in the domain of the last
	// Observe, by anyone but (as far as the kernel tells) ourselves. It first
	// sends a scope of All, once it listens: what happened before is in
	// nobody's queue. It sends Facts too when a link, an address or a route
	// changed that the last Facts told of or should tell of now, as far as
	// the main tables say; pods that come and go change none. It blocks until ctx ends, and returns ctx.Err() or the
	// reason why it can't go on; call it again then.
	Watch(ctx context.Context, dirty chan<- Scope) error
}

// ErrOccupied is the cause of an OpError when a Create met a foreign entry.
var ErrOccupied = errors.New("something that is not weft's stands there")

// OpError is one op that the kernel refused.
type OpError struct {
	Op  Op
	Err error
}

// Error names the entry and the cause.
func (e *OpError) Error() string { return fmt.Sprintf("%s: %v", e.Op, e.Err) }

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }
